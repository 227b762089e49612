"""Simulated nights, many at once, and what a decoder is asked of them.

Sizes in shapes: b nights, n trials, m questions, slots: knobs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from autoresearch.distill.teach.objectives import Objectives, snapped
from autoresearch.proposers.decoder import scaled, told

STEP = 0.12  # of a small move, as a share of a range
OFFERED = 6  # changes of which a trial takes one
STARTS = 10  # trials that change the baseline
BEST = 5  # recipes that trials change
POOL, JUDGED, OTHERS = 256, 40, 20  # changes of one recipe that are ranked; of these, and of other recipes, are judged
FEWEST = 6  # trials that are read
LARGE = 1e9


@dataclass(frozen=True)
class Nights:
    """points [b, n, slots]; scores [b, n]: means over `runs`, LARGE where it failed."""

    points: Tensor
    scores: Tensor
    failed: Tensor
    runs: Tensor


@dataclass(frozen=True)
class Lesson:
    """A moment of each night, and the answers that a decoder should have given.

    points, seen, mask, active: what it reads (see decoder.Decoder.read); judge [b, m, slots]: recipes, of which truth
    and fails [b, m] are the scaled score and whether it fails; change [b, slots]: a recipe, changed in `done` knobs
    already; rank [b]: how good the whole change is; knob [b]: what is changed next (slots: nothing), to which bin [b].
    """

    points: Tensor
    seen: Tensor
    mask: Tensor
    active: Tensor
    judge: Tensor
    truth: Tensor
    fails: Tensor
    change: Tensor
    done: Tensor
    rank: Tensor
    knob: Tensor
    bin: Tensor


def simulate(objectives: Objectives, trials: int, draws: Generator) -> Nights:
    """Each night is searched by another teacher: from one that draws at random to one that nearly knows which of a few
    changes is best; from one that stays near the best recipes to one that often goes anywhere."""
    b, k = objectives.active.shape
    points = torch.zeros(b, trials, k)
    scores, failed = torch.full((b, trials), LARGE), torch.zeros(b, trials, dtype=torch.bool)
    runs = torch.ones(b, trials)
    blur = objectives.spread * 0.02 * 150 ** torch.rand(b, 1, generator=draws)
    anywhere = 0.3 * torch.rand(b, 1, generator=draws) ** 2
    for trial in range(trials):
        if trial == 0:
            chosen = objectives.start
        else:
            best = min(BEST, trial) if trial >= STARTS else 1
            parents = torch.topk(-scores[:, :trial], best, 1).indices
            picked = (torch.rand(b, OFFERED, generator=draws) ** 1.5 * best).long().clamp(max=best - 1)
            offered = neighbours(objectives, _rows(points, parents.gather(1, picked)), 2 if trial % 3 else 3, draws)
            drawn = snapped(torch.rand(b, OFFERED, k, generator=draws), objectives.levels)
            is_drawn = torch.rand(b, 1, 1, generator=draws) < anywhere[..., None]
            offered = torch.where(is_drawn, drawn * objectives.active[:, None], offered)
            feared = objectives.fails(offered) & (torch.rand(b, OFFERED, generator=draws) < 0.7)
            seems = objectives(offered) + blur * torch.randn(b, OFFERED, generator=draws)
            chosen = _rows(offered, (seems + 5 * objectives.spread * feared).argmin(1, keepdim=True))
        points[:, trial] = chosen[:, 0]
        failed[:, trial] = objectives.fails(chosen)[:, 0] & (trial > 0)
        repeats = torch.randint(1, 5, (b,), generator=draws)
        runs[:, trial] = 1.0 + repeats * (torch.rand(b, generator=draws) < 0.15)
        luck = objectives.noise[:, 0] / runs[:, trial].sqrt() * torch.randn(b, generator=draws)
        scores[:, trial] = torch.where(failed[:, trial], LARGE, objectives(chosen)[:, 0] + luck)
    return Nights(points, scores, failed, runs)


def neighbours(objectives: Objectives, parents: Tensor, most: int | Tensor, draws: Generator) -> Tensor:
    """parents [b, m, slots] with one to `most` knobs moved, half the time by a step or so, else anywhere."""
    b, m, k = parents.shape
    order = torch.rand(b, m, k, generator=draws) + 10 * (1 - objectives.active[:, None])
    moved = order.argsort(-1).argsort(-1) < 1 + (torch.rand(b, m, 1, generator=draws) * most).long()
    levels = objectives.levels[:, None].float()
    up_or_down = torch.sign(torch.rand(b, m, k, generator=draws) - 0.5) / levels.clamp(min=1)
    step = torch.where(levels > 0, up_or_down, STEP * torch.randn(b, m, k, generator=draws))
    is_near = torch.rand(b, m, k, generator=draws) < 0.5
    value = torch.where(is_near, (parents + step).clamp(0, 1), torch.rand(b, m, k, generator=draws))
    return torch.where(moved & (objectives.active[:, None] > 0), snapped(value, objectives.levels), parents)


def lesson(objectives: Objectives, nights: Nights, bins: int, draws: Generator, from_the_start: bool = False) -> Lesson:
    """One moment of each night, drawn so that a doubling of what is known is as likely as the next. from_the_start:
    whether there is something to say after the baseline alone; else there is after some trials."""
    b, trials, k = nights.points.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draws)

    fewest = 1 if from_the_start else FEWEST
    read = (fewest * (trials / fewest) ** uniform(b, 1)).long().clamp(fewest, trials)
    number = torch.arange(trials)[None]
    mask = number < read
    in_flight = mask & (number >= read - (6 * uniform(b, 1) ** 3).long()) & (number > 1) & (uniform(b, trials) < 0.8)
    failed, scored = mask & nights.failed & ~in_flight, mask & ~nights.failed & ~in_flight
    best = torch.topk(torch.where(scored, -nights.scores, -LARGE), 4, 1).indices
    among = scored.sum(1, keepdim=True).clamp(max=4).float()  # of the best

    def one_of_the_best(skewed: float, count: int = 1) -> Tensor:
        return best.gather(1, (uniform(b, count) ** skewed * among).long())

    stands = torch.zeros(b, trials).scatter(1, one_of_the_best(3), 1.0)
    seen, low, unit = told(nights.scores, nights.runs, scored, in_flight, failed, objectives.noise, stands)
    parent = _rows(nights.points, one_of_the_best(1))
    most = torch.randint(1, 4, (b, 1, 1), generator=draws)
    pool = neighbours(objectives, parent.expand(-1, POOL, -1), most, draws)
    others = neighbours(objectives, _rows(nights.points, one_of_the_best(1, OTHERS)), 3, draws)
    order = (objectives(pool) + LARGE * objectives.fails(pool)).argsort(1)
    rank = torch.where(uniform(b, 1) < 0.6, 0.05 * uniform(b, 1), uniform(b, 1))
    target = _rows(pool, order.gather(1, (rank * (POOL - 1)).round().long()))
    judge = torch.cat([pool[:, :JUDGED], target, others], 1)
    changed = (target - parent).abs()[:, 0] > 1e-6
    turn = torch.where(changed, uniform(b, k), 9.0).argsort(1).argsort(1)
    before = (uniform(b, 1) * (changed.sum(1, keepdim=True) + 1)).long()
    done, following = changed & (turn < before), changed & (turn == before)
    knob = torch.where(following.any(1), following.float().argmax(1), k)
    place = target[:, 0].gather(1, knob.clamp(max=k - 1)[:, None])[:, 0]
    longest = int(read.max())
    return Lesson(
        points=nights.points[:, :longest],
        seen=seen[:, :longest],
        mask=mask[:, :longest],
        active=objectives.active,
        judge=judge,
        truth=scaled(objectives(judge), low, unit),
        fails=objectives.fails(judge),
        change=torch.where(done, target[:, 0], parent[:, 0]),
        done=done,
        rank=rank[:, 0],
        knob=knob,
        bin=(place * bins).long().clamp(0, bins - 1),
    )


def _rows(points: Tensor, places: Tensor) -> Tensor:
    """[b, n, slots] at places [b, m] -> [b, m, slots]."""
    return points.gather(1, places[..., None].expand(-1, -1, points.shape[2]))
