"""Objectives drawn at random, many at once: what a decoder learns to search on before it sees a true one.

Sizes in shapes: b objectives, p points, slots: knobs, of which each objective has some.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

PROBES = 128  # points at which an objective is brought to mean 0 and deviation 1
CHOICES, WHOLE = (2, 8), (9, 64)  # values of a knob: of choices, of a range of whole numbers
WAVES = 48  # of a process
FEWEST, MOST = 4, 28  # knobs


class Objectives(Protocol):
    """b objectives; lower is better. active, levels [b, slots]: whether it is a knob, how many values it has (0: any);
    start [b, 1, slots]: the baseline, which does not fail; noise, spread [b, 1]: deviation of one run, and over all
    recipes."""

    active: Tensor
    levels: Tensor
    start: Tensor
    noise: Tensor
    spread: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """[b, p, slots] -> [b, p]."""

    def fails(self, points: Tensor) -> Tensor:
        """[b, p, slots] -> [b, p]."""


def snapped(points: Tensor, levels: Tensor) -> Tensor:
    """[b, p, slots]: each place where one of its knob's values is; of a choice the middle of its share."""
    levels = levels[:, None].float()
    steps = torch.floor(points * levels).clamp(min=0).minimum(levels - 1)
    return torch.where(levels > 0, (steps + 0.5) / levels.clamp(min=1), points.clamp(0, 1))


class Drawn:
    """Bowls and slopes along knobs that depend on one another, beside a smooth random process; some bent so that the
    bad is much worse than the good is good, some with a side where runs fail. None is taken from a true one."""

    def __init__(self, count: int, slots: int, draws: Generator) -> None:
        b, k = count, slots

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=draws)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draws)

        def whole(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high + 1, shape, generator=draws)

        knobs = FEWEST + (uniform(b, 1) ** 1.5 * (min(MOST, k) - FEWEST + 1)).long()
        self.active = (uniform(b, k).argsort(1).argsort(1) < knobs).float()
        kind = uniform(b, k)
        many = torch.where(kind < 0.5, whole(*WHOLE, b, k), 0)
        self.levels = torch.where(kind < 0.35, whole(*CHOICES, b, k), many)
        self._weight = torch.exp(normal(b, k) * (0.4 + 1.2 * uniform(b, 1))) * (uniform(b, k) < 0.85) * self.active
        self._middle, self._width = -0.2 + 1.4 * uniform(b, k), 0.15 * 8 ** uniform(b, k)
        self._skew, self._is_steep = torch.exp(0.6 * normal(b, k)), uniform(b, k) < 0.5
        aslant = normal(b, k, k) * 0.5 * (uniform(b, k, k) < 0.15 * uniform(b, 1, 1)) * self.active[:, :, None]
        self._aslant = aslant * (1 - torch.eye(k))
        self._is_unordered = (uniform(b, k) < 0.15) & (self.levels > 0) & (self.levels <= CHOICES[1])
        self._of_choice = normal(b, k, CHOICES[1] + 1)
        self._process = Waves(torch.exp(0.5 + 0.8 * normal(b, k)), self.active, draws)
        self._share = torch.where(uniform(b, 1) < 0.25, 1.0, uniform(b, 1) ** 2)  # of the process
        self._bend = torch.where(uniform(b, 1) < 0.5, 0.0, 1.2 * uniform(b, 1))
        self._side = normal(b, k, 1) * (uniform(b, k, 1) < 0.3) * self.active[:, :, None]
        self.start = snapped(0.1 + 0.8 * uniform(b, 1, k), self.levels) * self.active[:, None]
        probes = snapped(uniform(b, PROBES, k), self.levels)
        self._of_bowls, self._of_process = (_moments(each(probes)) for each in (self._bowls, self._process))
        aside = (probes @ self._side)[..., 0].sort(1).values
        limit = aside.gather(1, ((0.8 + 0.2 * uniform(b, 1)) * (PROBES - 1)).long())
        limit = torch.where(uniform(b, 1) < 0.4, torch.inf, limit)
        self._limit = limit.maximum((self.start @ self._side)[..., 0] + 0.1)
        self.spread = self(probes).std(1, keepdim=True)
        self.noise = self.spread * 0.004 * 40 ** uniform(b, 1)

    def __call__(self, points: Tensor) -> Tensor:
        (mean, deviation), (of_mean, of_deviation) = self._of_bowls, self._of_process
        bowls, process = (self._bowls(points) - mean) / deviation, (self._process(points) - of_mean) / of_deviation
        found = (1 - self._share).sqrt() * bowls + self._share.sqrt() * process
        bent = torch.expm1(self._bend * found.clamp(max=6)) / self._bend.clamp(min=1e-3)
        return torch.where(self._bend > 0, bent, found)

    def fails(self, points: Tensor) -> Tensor:
        return (points @ self._side)[..., 0] > self._limit

    def _bowls(self, points: Tensor) -> Tensor:
        moved = points + (points - 0.5) @ self._aslant.transpose(1, 2)
        off = (moved - self._middle[:, None]) / self._width[:, None]
        off = torch.where(off > 0, off * self._skew[:, None], off)
        each = torch.where(self._is_steep[:, None], (1 + off.square()).sqrt() - 1, torch.log1p(off.square()))
        choice = (points * self.levels[:, None]).long().clamp(0, CHOICES[1])
        of_choice = self._of_choice[:, None].expand(-1, points.shape[1], -1, -1).gather(3, choice[..., None])[..., 0]
        return (torch.where(self._is_unordered[:, None], of_choice, each) * self._weight[:, None]).sum(-1)


class Waves:
    """A draw of a Gaussian process for each objective, Matern 5/2 (Rahimi and Recht 2007: random Fourier features)."""

    def __init__(self, lengths: Tensor, active: Tensor, draws: Generator) -> None:
        """lengths [b, slots]: of the process along each knob, in sides of the cube."""
        b, k = lengths.shape
        heavy = torch._standard_gamma(torch.full((b, 1, WAVES), 2.5), generator=draws) / 2.5
        steps = torch.randn(b, k, WAVES, generator=draws) / heavy.sqrt()
        self._waves = steps / lengths[..., None] * active[:, :, None]
        self._phases = 2 * math.pi * torch.rand(b, 1, WAVES, generator=draws)
        self._heights = torch.randn(b, 1, WAVES, generator=draws) * math.sqrt(2 / WAVES)

    def __call__(self, points: Tensor) -> Tensor:
        return (torch.cos(points @ self._waves + self._phases) * self._heights).sum(-1)


@dataclass(frozen=True)
class Told:
    """What a study says of its recipes: a row a recipe. points [n, slots]; scores, runs [n]; failed [m, slots]; lengths
    [slots], size (a variance), noise (the deviation of one run): of the process that was fitted to it, in its unit."""

    active: Tensor
    levels: Tensor
    start: Tensor
    points: Tensor
    scores: Tensor
    runs: Tensor
    failed: Tensor
    lengths: Tensor
    size: float
    noise: float


class FromStudy:
    """Draws of what a study's objective may be, by all that it measured: of a Gaussian process on its runs, each
    another guess where nothing was tried (Wilson et al. 2020: a draw of the prior, moved to what is known)."""

    def __init__(self, study: Told, count: int, draws: Generator) -> None:
        b = count
        self._study = study
        self.active, self.levels = study.active.expand(b, -1), study.levels.expand(b, -1)
        self.start = study.start.expand(b, 1, -1)
        self.noise = torch.full((b, 1), study.noise)
        self._process = Waves(study.lengths.expand(b, -1), self.active, draws)
        known = study.points.expand(b, -1, -1)
        noise = (study.noise**2 / study.runs).sqrt()
        kernel = self._kernel(study.points, study.points) + torch.diag(noise.square() + 1e-6 * study.size)
        prior = study.size**0.5 * self._process(known) + noise * torch.randn(b, len(noise), generator=draws)
        self._weights = torch.linalg.solve(kernel, (study.scores - prior)[..., None])[..., 0]
        probes = snapped(torch.rand(b, PROBES, study.points.shape[1], generator=draws), self.levels)
        self.spread = self(probes).std(1, keepdim=True)

    def __call__(self, points: Tensor) -> Tensor:
        near = self._kernel(points.flatten(0, 1), self._study.points).unflatten(0, points.shape[:2])
        return self._study.size**0.5 * self._process(points) + (near @ self._weights[..., None])[..., 0]

    def fails(self, points: Tensor) -> Tensor:
        if not len(self._study.failed):
            return torch.zeros(points.shape[:2], dtype=torch.bool)
        flat = points.flatten(0, 1)
        failed, ended = (self._kernel(flat, each).sum(1) for each in (self._study.failed, self._study.points))
        return (failed / (failed + ended + self._study.size) > 0.5).unflatten(0, points.shape[:2])

    def _kernel(self, left: Tensor, right: Tensor) -> Tensor:
        lengths = self._study.lengths / self._study.active.clamp(min=1e-3)
        far = 5**0.5 * torch.cdist(left / lengths, right / lengths, compute_mode="donot_use_mm_for_euclid_dist")
        return self._study.size * (1 + far + far.square() / 3) * torch.exp(-far)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(1, keepdim=True), values.std(1, keepdim=True) + 1e-3
