"""A taught decoder at work on one night: it samples changes of the best recipes and judges what they become."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from autoresearch.errors import UserError
from autoresearch.proposers.decoder import Decoder, Night, Shape, expected_gain, to_change, to_judge, told
from autoresearch.proposers.known import Known
from autoresearch.proposers.space import Space
from autoresearch.trial import History, Recipe
from rails import clean

PARENTS, SAMPLES, MOST_MOVED = 5, 64, 3
BEST = 8  # measured recipes whose expected score is what has to be beaten
SAME = 1e-6  # of two shares of a range, in single precision
WANTED = 0.02  # rank among random changes that is asked for
UNKNOWN_NOISE = 0.1  # of the scores' unit, where nobody has measured it


@dataclass(frozen=True)
class Candidate:
    """A place in the menu's cube; val_bpb as expected there and its deviation, and the change of it; likelihood: the
    policy's, a geometric mean over what was chosen on the way."""

    point: list[float]
    mean: float
    deviation: float
    delta: float
    likelihood: float


class ScratchModel:
    """slots: of the knobs that it knows by name. Raises UserError for weights that do not fit."""

    def __init__(self, weights: Path, shape: Mapping[str, int], slots: Mapping[str, int]) -> None:
        self._decoder = load_decoder(weights, shape).eval()
        self._slots = slots

    def candidates(
        self, history: History, space: Space, known: Known, stands: Recipe, seed: int
    ) -> Iterator[Candidate]:
        """The most promising first; the same arguments give the same."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the other cores train
        try:
            with torch.inference_mode():
                found = self._candidates(history, space, known, stands, torch.Generator().manual_seed(seed))
        finally:
            torch.set_num_threads(threads)
        return iter(found)

    def _candidates(
        self, history: History, space: Space, known: Known, stands: Recipe, draws: torch.Generator
    ) -> list[Candidate]:
        cube = _Cube(space, self._decoder.shape, self._slots, space.point(stands))
        at = cube.points([space.point(stands)])[0]
        night, level = self._read(known, cube, at, history.deviation)
        best = sorted(range(len(known.points)), key=lambda place: known.scores[place])
        measured = cube.points([known.points[place] for place in best[:BEST]])
        most = min(history.menu.max_changes, len(space.knobs))
        within = measured[:PARENTS][((measured[:PARENTS] - at).abs() > SAME).sum(-1) <= most]
        parents = within if len(within) else at[None]
        points, likelihood = self._sampled(night, cube, parents, min(MOST_MOVED, most), draws)
        places = [space.point(space.recipe(row)) for row in cube.shares(points)]
        mean, deviation, fails = self._judged(night, torch.cat([cube.points(places), measured, at[None]]))
        lowest = mean[SAMPLES:-1].min()
        gain = expected_gain(lowest - mean[:SAMPLES], deviation[:SAMPLES]) * torch.sigmoid(-fails[:SAMPLES])
        found = []
        for n in gain.argsort(descending=True, stable=True).tolist():
            expected = level.bpb(float(mean[n]))
            found.append(
                Candidate(
                    places[n],
                    expected,
                    level.deviation(float(mean[n]), float(deviation[n])),
                    expected - level.bpb(float(mean[-1])),
                    float(likelihood[n]),
                )
            )
        return found

    def _read(self, known: Known, cube: _Cube, at: Tensor, noise: float | None) -> tuple[Night, _Level]:
        unscored = [*known.failed, *known.stopped, *known.in_flight]
        points = cube.points([*known.points, *unscored])
        n, number = len(known.points), torch.arange(len(points))[None]
        middle = sum(known.scores) / n  # single precision is for differences
        scores = torch.tensor([[*(score - middle for score in known.scores), *[0.0] * len(unscored)]])
        runs = torch.tensor([[*map(float, known.runs), *[1.0] * len(unscored)]])
        scored = number < n
        if noise is None:
            noise = UNKNOWN_NOISE * float(scores[scored].std())
        seen, low, unit = told(
            scores,
            runs,
            scored,
            number >= len(points) - len(known.in_flight),
            (number >= n) & (number < len(points) - len(known.in_flight)),  # one that was stopped is no good either
            torch.tensor([[noise]]),
            ((points - at).abs() <= SAME).all(-1)[None],
        )
        night = self._decoder.read(points[None], seen, torch.ones_like(scored), cube.has[None].float())
        return night, _Level(middle + float(low), float(unit))

    def _sampled(
        self, night: Night, cube: _Cube, parents: Tensor, most: int, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """SAMPLES recipes [m, slots], each of the parents [n, slots] with one to `most` knobs changed, one by one, and
        their likelihoods [m]."""
        slots = self._decoder.shape.slots
        which = torch.arange(SAMPLES) % len(parents)
        points, done = parents[which], torch.zeros(SAMPLES, slots, dtype=torch.bool)
        log_likelihood, choices = torch.zeros(SAMPLES), torch.zeros(SAMPLES)
        going = torch.arange(SAMPLES)
        for place in range(most):
            if place == 0:  # as many questions as parents
                of_knobs, of_bins = (logits[which] for logits in self._policy(night, parents, done[: len(parents)]))
            else:
                of_knobs, of_bins = self._policy(night, points[going], done[going])
            cannot = F.pad(done[going] | ~cube.has, (0, 1), value=place == 0)
            of_knobs = of_knobs.masked_fill(cannot, -torch.inf).log_softmax(-1)
            knob = torch.multinomial(of_knobs.exp(), 1, generator=draws)[:, 0]
            log_likelihood[going] += of_knobs.gather(1, knob[:, None])[:, 0]
            choices[going] += 1
            goes_on = knob < slots
            going, knob, of_bins = going[goes_on], knob[goes_on], of_bins[goes_on]
            if not len(going):
                break
            of_bins = of_bins[torch.arange(len(knob)), knob].masked_fill(~cube.bins[knob], -torch.inf).log_softmax(-1)
            chosen = torch.multinomial(of_bins.exp(), 1, generator=draws)[:, 0]
            log_likelihood[going] += of_bins.gather(1, chosen[:, None])[:, 0]
            choices[going] += 1
            points[going, knob] = (chosen + torch.rand(len(going), generator=draws)) / self._decoder.shape.bins
            done[going, knob] = True
        return points, (log_likelihood / choices).exp()

    def _policy(self, night: Night, points: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the next knob [n, slots + 1] and of its bin [n, slots, bins], at points [n, slots]."""
        question = to_change(points.new_full((1, len(points)), WANTED), done[None])
        answers = self._decoder.ask(night, points[None], question)
        of_knobs, of_bins = self._decoder.changes(night, answers, points[None])
        return of_knobs[0], of_bins[0]

    def _judged(self, night: Night, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        answers = self._decoder.ask(night, points[None], to_judge(points[None]))
        mean, log_deviation, fails = self._decoder.judged(answers)
        return mean[0], log_deviation[0].exp(), fails[0]


def load_decoder(weights: Path, shape: Mapping[str, int]) -> Decoder:
    """As a training wrote it, in single precision; shape: a Shape's fields. Raises UserError for weights of another."""
    try:
        decoder = Decoder(Shape(**shape))
        decoder.load_state_dict({name: weight.float() for name, weight in load_file(weights).items()})
    except (OSError, RuntimeError, TypeError, ArithmeticError, SafetensorError) as error:
        why = clean(str(error).strip().partition("\n")[0], 200)
        raise UserError(f"{weights} is no decoder of its shape ({why}): make it again") from None
    return decoder


@dataclass(frozen=True)
class _Level:
    """From scaled scores (see decoder.told) back to bits per byte."""

    low: float
    unit: float

    def bpb(self, score: float) -> float:
        return self.low + self.unit * math.sinh(score)

    def deviation(self, score: float, deviation: float) -> float:
        """Of the score itself, as far as the scale is straight there."""
        return self.unit * math.cosh(score) * deviation


class _Cube:
    """A menu's cube in the slots of a decoder: a knob that it knows by name has its own, others have those left. Knobs
    beyond its room stay as they are. has [slots]: where a knob can change; bins [slots, bins]: where its values lie."""

    def __init__(self, space: Space, shape: Shape, named: Mapping[str, int], at: Sequence[float]) -> None:
        taken = {named[name] for name in space.knobs if name in named}
        free = (slot for slot in range(shape.slots) if slot not in taken)
        slots = {name: named[name] if name in named else next(free, None) for name in space.knobs}
        self._slots = {place: slot for place, slot in enumerate(slots.values()) if slot is not None}
        self._at, self._width = list(at), shape.slots
        self.has = torch.zeros(shape.slots, dtype=torch.bool)
        self.bins = torch.ones(shape.slots, shape.bins, dtype=torch.bool)
        knobs = list(space.knobs.values())
        for place, slot in self._slots.items():
            self.has[slot] = knobs[place].low != knobs[place].high or len(knobs[place].choices or ()) > 1
            if choices := len(knobs[place].choices or ()):
                shares = (torch.arange(choices) + 0.5) / choices
                self.bins[slot] = torch.zeros(shape.bins, dtype=torch.bool).index_fill(
                    0, (shares * shape.bins).long(), True
                )

    def points(self, shares: Sequence[Sequence[float]]) -> Tensor:
        """[m, slots] of rows with a share a knob of the menu."""
        found = torch.zeros(len(shares), self._width)
        if shares:
            found[:, list(self._slots.values())] = torch.tensor(shares, dtype=torch.float32)[:, list(self._slots)]
        return found

    def shares(self, points: Tensor) -> list[list[float]]:
        """The other way round."""
        rows = points.tolist()
        return [
            [row[self._slots[place]] if place in self._slots else share for place, share in enumerate(self._at)]
            for row in rows
        ]
