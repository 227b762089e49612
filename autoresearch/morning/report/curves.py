"""Learning curves as the page draws them: few points, few curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoresearch.evidence import Evidence
from autoresearch.metric import VAL_BPB, Metric
from rails import clean

MOST_CURVES = 8
CURVE_POINTS = 100


@dataclass(frozen=True)
class Curve:
    """One run's training loss. points: [tokens or step, loss]."""

    trial: int
    seed: int
    role: Literal["incumbent", "kept", "reference"]
    label: str
    points: list[list[float]]


def curves(evidence: Evidence) -> list[Curve]:
    """The first run of the baseline, of the latest kept trials and of the incumbent, loss over tokens; over steps where
    another program than the GPT's trainer counts what it likes."""
    kept = [trial for trial in evidence.trials if trial.decision == "keep" and trial is not evidence.incumbent]
    chosen = {trial.number: trial for trial in [evidence.baseline, *kept[-MOST_CURVES:], evidence.incumbent]}
    found, in_tokens = [], evidence.metric.is_bits_per_byte
    for number, trial in sorted(chosen.items()):
        run = next((run for run in evidence.runs[number] if run.state == "complete"), None)
        if run is None or len(points := evidence.folder.store.curve(number, run.seed)) < 2:
            continue
        per_step = run.tokens / run.steps if run.tokens and run.steps and in_tokens else 1.0
        found.append(
            Curve(
                trial=number,
                seed=run.seed,
                role="incumbent" if trial is evidence.incumbent else "kept" if number else "reference",
                label=f"trial {number}: {clean(evidence.change(trial), 200) or 'baseline'}",
                points=[[step * per_step, loss] for step, loss in thin(points, evidence.metric)],
            )
        )
    return found


def thin(curve: Sequence[Sequence[float]], metric: Metric = VAL_BPB) -> list[list[float]]:
    """At most CURVE_POINTS of the points, the last among them, their losses no longer than they are drawn."""

    def shortened(loss: float) -> float:
        return round(loss, 4) if metric.is_bits_per_byte else float(f"{loss:.5g}")

    stride = -(-len(curve) // CURVE_POINTS) or 1
    return [[step, shortened(loss)] for step, loss in curve[::-1][::stride][::-1]]
