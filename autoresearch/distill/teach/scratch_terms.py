"""What the two sides of a decoder's training say to each other."""

from __future__ import annotations

from dataclasses import dataclass

STEPS, BATCH, EVALUATE_EVERY = 3000, 64, 100
STEPS_ON = 600  # where a decoder is gone on with


@dataclass(frozen=True)
class ScratchRequest:
    """One training. Two that are equal go on with each other.

    corpus: folder; sha256: of its nights.json; both empty: none. begun: the folder of the decoder that it goes on from;
    begun_sha256: of its weights; both empty: from nothing. batch: simulated nights of a step; evaluate_every: steps.
    """

    corpus: str
    sha256: str
    begun: str
    begun_sha256: str
    steps: int
    batch: int
    evaluate_every: int
    seed: int


@dataclass(frozen=True)
class ScratchResult:
    """loss: over drawn objectives that no step has seen: nats of a judged score and of a chosen knob and bin, added up
    as they were taught; history: [step, loss]. studies: whose nights were taught. seconds: of all attempts."""

    loss: float
    steps: int
    history: list[list[float]]
    studies: list[str]
    recipes: int
    parameters: int
    seconds: float
    versions: dict[str, str]
