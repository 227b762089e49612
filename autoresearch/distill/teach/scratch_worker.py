"""The child that teaches a decoder: `python -m autoresearch.distill.teach.scratch_worker FOLDER`.

It reads FOLDER/request.json, writes FOLDER/result.json and FOLDER/made, and tells how it stands (see telling.py). At
each evaluation all that it takes to go on to the same bits is written down. What it learns from is made as it goes: it
follows from the seed and the step alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Generator, Tensor

from autoresearch.distill.corpus.nights import KnownNight, read_nights
from autoresearch.distill.teach.messages import MADE, REQUEST, RESULT, STATE, write
from autoresearch.distill.teach.objectives import Drawn, FromStudy, Objectives, Told
from autoresearch.distill.teach.scratch_terms import ScratchRequest, ScratchResult
from autoresearch.distill.teach.simulated import Lesson, Nights, lesson, simulate
from autoresearch.distill.teach.state import load_state, save_state
from autoresearch.distill.teach.telling import Tell, serve
from autoresearch.errors import UserError
from autoresearch.proposers.decoder import Decoder, Shape, to_change, to_judge
from autoresearch.proposers.gaussian_process import Process
from autoresearch.proposers.scratch import CONFIG, WEIGHTS, read_config
from autoresearch.proposers.scratch_model import load_decoder

MOMENTS = 4  # steps that look at the same nights, at other moments
TRIALS = (8, 120)  # of a night
OWN = 0.5  # share of the batches that are drawn from studies, where there are any
MUON_LR, ADAM_LR, DECAY, MAX_NORM = 0.02, 2e-3, 0.01, 1.0
WARM_UP_STEPS, FINAL = 50, 0.02
GO_ON = 0.3  # of the learning rates, where a decoder is gone on with
HELD_OUT_BATCHES = 4
POLICY, FAILURES = 0.5, 0.3  # weights in the loss beside that of the judged scores
HELD_OUT_SEED = -1


class Training:
    """A decoder, and how far it has come."""

    def __init__(self, request: ScratchRequest, studies: Sequence[KnownNight]) -> None:
        torch.manual_seed(request.seed)
        self.request, named = request, dict[str, int]()
        self.decoder = Decoder(Shape())
        if request.begun:
            config = read_config(Path(request.begun))
            self.decoder = load_decoder(Path(request.begun) / WEIGHTS, config.shape)
            named = dict(config.slots)
        self.shape = self.decoder.shape
        self.slots = slots_of(studies, self.shape, named)
        self._studies = [_told(study, self.slots, self.shape) for study in studies]
        # Orthogonal steps for the inner matrices (Jordan 2024).
        inner = [weight for name, weight in self.decoder.named_parameters() if "blocks" in name and weight.ndim == 2]
        rest = [weight for weight in self.decoder.parameters() if all(weight is not each for each in inner)]
        self.optimizers: list[tuple[float, torch.optim.Optimizer]] = [
            (MUON_LR, torch.optim.Muon(inner, lr=MUON_LR, weight_decay=DECAY)),
            (ADAM_LR, torch.optim.AdamW(rest, lr=ADAM_LR, weight_decay=DECAY, betas=(0.9, 0.98))),
        ]
        self.step, self.seconds = 0, 0.0
        self.history: list[list[float]] = []
        self._drawn: tuple[int, Objectives, Nights] | None = None

    def run(self, tell: Tell, state: Path) -> None:
        """To its end; goes on where `state` was written."""
        if state.exists():
            self._load(state)
        while self.step < self.request.steps:
            started = time.monotonic()
            for _ in range(min(self.request.evaluate_every, self.request.steps - self.step)):
                loss = self._learn()
                tell("progress", phase="training", step=self.step, steps=self.request.steps, loss=loss)
            loss = self.held_out_loss()
            if not math.isfinite(loss):
                raise UserError(f"the training diverged by step {self.step} (no finite loss): give another --seed")
            self.history.append([self.step, loss])
            self.seconds += time.monotonic() - started
            self._save(state)
            tell("evaluation", step=self.step, steps=self.request.steps, loss=loss, base_loss=None)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """On objectives, drawn with a seed that no step has."""
        total = 0.0
        for batch in range(HELD_OUT_BATCHES):
            draws = _generator(HELD_OUT_SEED, batch)
            objectives = Drawn(self.request.batch, self.shape.slots, draws)
            taught = lesson(objectives, simulate(objectives, TRIALS[1], draws), self.shape.bins, draws)
            total += float(loss_of(self.decoder, taught)) / HELD_OUT_BATCHES
        return total

    def _learn(self) -> float:
        block, moment = divmod(self.step, MOMENTS)
        if self._drawn is None or self._drawn[0] != block:
            draws = _generator(self.request.seed, block, 0)
            objectives = self._objectives(block, draws)
            trials = int(torch.randint(TRIALS[0], TRIALS[1] + 1, (1,), generator=draws))
            self._drawn = block, objectives, simulate(objectives, trials, draws)
        _, objectives, nights = self._drawn
        draws = _generator(self.request.seed, block, 1 + moment)
        taught = lesson(objectives, nights, self.shape.bins, draws, isinstance(objectives, FromStudy))
        loss = loss_of(self.decoder, taught)
        for _, optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), MAX_NORM)
        fallen = 0.5 + 0.5 * math.cos(math.pi * self.step / self.request.steps)
        share = (
            (GO_ON if self.request.begun else 1.0)
            * min(1.0, (self.step + 1) / WARM_UP_STEPS)
            * (FINAL + (1 - FINAL) * fallen)
        )
        for lr, optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = lr * share
            optimizer.step()
        self.step += 1
        return loss.item()

    def _objectives(self, block: int, draws: Generator) -> Objectives:
        if self._studies and float(torch.rand(1, generator=draws)) < OWN:
            return FromStudy(self._studies[block % len(self._studies)], self.request.batch, draws)
        return Drawn(self.request.batch, self.shape.slots, draws)

    def _save(self, path: Path) -> None:
        state = {
            "decoder": self.decoder.state_dict(),
            "optimizers": [optimizer.state_dict() for _, optimizer in self.optimizers],
            "step": self.step,
            "history": self.history,
            "seconds": self.seconds,
        }
        save_state(state, path)

    def _load(self, path: Path) -> None:
        state = load_state(path)
        self.decoder.load_state_dict(state["decoder"])
        for (_, optimizer), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.history, self.seconds = state["step"], state["history"], state["seconds"]


def loss_of(decoder: Decoder, taught: Lesson) -> Tensor:
    """Nats: of the scores of recipes under the normal distributions that it answers with, of their failures, and of the
    knob and the bin that the change goes on with."""
    with torch.autocast("cpu", dtype=torch.bfloat16):  # without such units slower, and no worse
        night = decoder.read(taught.points, taught.seen, taught.mask, taught.active)
        change, judged = taught.change[:, None], taught.judge.shape[1]
        asked = torch.cat([to_judge(taught.judge), to_change(taught.rank[:, None], taught.done[:, None])], 1)
        answers = decoder.ask(night, torch.cat([taught.judge, change], 1), asked)
        mean, log_deviation, fails = decoder.judged(answers[:, :judged])
        of_knobs, of_bins = decoder.changes(night, answers[:, judged:], change)
    runs = (~taught.fails).float()
    score = (0.5 * ((taught.truth - mean) / log_deviation.exp()).square() + log_deviation) * runs
    failure = F.binary_cross_entropy_with_logits(fails, taught.fails.float())
    cannot = F.pad(taught.done | (taught.active < 0.5), (0, 1))
    knob = F.cross_entropy(of_knobs[:, 0].masked_fill(cannot, -1e9), taught.knob)
    slots = of_bins.shape[2]
    rows = torch.arange(len(taught.knob))
    bins = F.cross_entropy(of_bins[rows, 0, taught.knob.clamp(max=slots - 1)], taught.bin, reduction="none")
    goes_on = (taught.knob < slots).float()
    policy = knob + (bins * goes_on).sum() / goes_on.sum().clamp(min=1)
    return score.sum() / runs.sum().clamp(min=1) + FAILURES * failure + POLICY * policy


def slots_of(studies: Sequence[KnownNight], shape: Shape, named: Mapping[str, int]) -> dict[str, int]:
    """A slot for each knob of the studies, that which it has already or the next one, as far as there are any."""
    names = dict.fromkeys(name for study in studies for name in study.knobs if name not in named)
    free = (slot for slot in range(shape.slots) if slot not in named.values())
    return {**named, **dict(zip(names, free, strict=False))}


def _told(study: KnownNight, slots: dict[str, int], shape: Shape) -> Told:
    """In single precision, around the scores' mean."""
    columns = [(place, slots[name]) for place, name in enumerate(study.knobs) if name in slots]

    def placed(rows: Sequence[Sequence[float]]) -> Tensor:
        found = torch.zeros(len(rows), shape.slots)
        for place, slot in columns:
            found[:, slot] = torch.tensor([row[place] for row in rows])
        return found

    scores, runs = np.array(study.scores), np.array(study.runs, float)
    process = Process(np.array(study.points), scores, runs, study.deviation)
    kernel = process.kernel()
    return Told(
        active=placed([[1.0] * len(study.knobs)])[0],
        levels=placed([study.levels])[0].long(),
        start=placed([study.start]),
        points=placed(study.points),
        scores=torch.tensor(kernel.scores).float(),
        runs=torch.tensor(runs).float(),
        failed=placed(study.failed),
        lengths=1 + placed([(kernel.lengths - 1).tolist()])[0],
        size=kernel.size,
        noise=kernel.noise**0.5,
    )


def _generator(*seeds: int) -> Generator:
    return Generator().manual_seed(int(np.random.SeedSequence([seed % 2**32 for seed in seeds]).generate_state(1)[0]))


def train(folder: Path, tell: Tell) -> None:
    request = ScratchRequest(**json.loads((folder / REQUEST).read_text("utf-8")))
    torch.use_deterministic_algorithms(True)
    studies = read_nights(Path(request.corpus)) if request.corpus else []
    training = Training(request, studies)
    tell("device", device="cpu", uuid=None)
    training.run(tell, folder / STATE)
    made = folder / MADE
    made.mkdir(exist_ok=True)
    weights = {name: weight.half().contiguous() for name, weight in training.decoder.state_dict().items()}
    save_file(weights, made / WEIGHTS)
    config: dict[str, Any] = {"shape": asdict(training.shape), "slots": training.slots}
    write(config, made / CONFIG)
    result = ScratchResult(
        loss=training.history[-1][1],
        steps=training.step,
        history=training.history,
        studies=[study.study for study in studies],
        recipes=sum(len(study.points) for study in studies),
        parameters=sum(weight.numel() for weight in training.decoder.parameters()),
        seconds=training.seconds,
        versions={"torch": torch.__version__},
    )
    write(result, folder / RESULT)


if __name__ == "__main__":
    serve(train)
