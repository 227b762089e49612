"""What came of each proposer's proposals, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from autoresearch.cost import cost
from autoresearch.evidence.evidence import Evidence, combined
from autoresearch.facts import ABSENT_IF_NONE
from autoresearch.proposer_name import ProposerName
from autoresearch.proposers.share import OPTIMIZER, share
from autoresearch.trial import Trial
from autoresearch.workers.energy import JOULES_PER_KWH


@dataclass(frozen=True)
class ProposerRecord:
    """One proposer, with one model if it has any. Gains are in bits per byte, positive is better; a keep's gain is how
    far it lowered the best mean so far, so that repeats gain nothing. None: there is nothing to tell it from."""

    name: str
    model: str | None
    proposals: int
    blocked: int
    failed: int
    kept: int
    keep_rate: float | None  # of the trained
    gain: float
    gain_half_interval: float | None
    gain_per_trial: float | None
    gain_per_kwh: float | None
    gain_per_second: float | None  # of waiting for its answers; of models alone, others answer at once
    latency_seconds: float | None  # the median
    tokens: int | None  # read and written
    token_cost: float | None  # in the currency of [energy]; None: they have no price
    energy_joules: float | None = field(metadata=ABSENT_IF_NONE)  # of the model itself; None: not metered


def proposer_records(evidence: Evidence) -> list[ProposerRecord]:
    """In the order of their first proposals."""
    proposals = evidence.folder.store.proposals()
    groups: dict[tuple[str, str | None], list[Trial]] = {}
    for trial in evidence.trials[1:]:
        model = proposals[trial.number]["model"] if trial.number in proposals else None
        groups.setdefault((trial.proposer, model), []).append(trial)
    steps = _steps(evidence)
    records = []
    for (name, model), trials in groups.items():
        asked = [proposals[trial.number] for trial in trials if trial.number in proposals]
        kept = sum(trial.decision == "keep" for trial in trials)
        trained = sum(trial.state not in ("proposed", "blocked") for trial in trials)
        own = [evidence.asking[trial.number].joules for trial in trials if trial.number in evidence.asking]
        kwh = (sum(trial.energy_joules or 0.0 for trial in trials) + sum(own)) / JOULES_PER_KWH
        read, written = (sum(row[of] or 0 for row in asked) for of in ("prompt_tokens", "completion_tokens"))
        seconds = sum(row["latency_seconds"] for row in asked)
        gain, half = _gain(evidence, [steps[trial.number] for trial in trials if trial.number in steps])
        records.append(
            ProposerRecord(
                name=name,
                model=model,
                proposals=len(trials),
                blocked=sum(trial.state == "blocked" for trial in trials),
                failed=sum(trial.state in ("failed", "timed_out") for trial in trials),
                kept=kept,
                keep_rate=kept / trained if trained else None,
                gain=gain,
                gain_half_interval=half,
                gain_per_trial=gain / trained if trained else None,
                gain_per_kwh=gain / kwh if kwh else None,
                gain_per_second=gain / seconds if model and seconds else None,
                latency_seconds=median(row["latency_seconds"] for row in asked) if asked else None,
                tokens=read + written or None,
                token_cost=cost(evidence.folder.settings, None, read, written).tokens,
                energy_joules=sum(own) if own else None,
            )
        )
    return records


@dataclass(frozen=True)
class Turns:
    """How often a hybrid asks its model, named as its proposals are, by now, and how often it would at most."""

    model: str
    share: float
    most: float


def turns(evidence: Evidence) -> Turns | None:
    """None where no model was asked beside an optimizer."""
    settings, proposers = evidence.folder.settings.proposer, {trial.proposer for trial in evidence.trials}
    named = ProposerName.read(settings.name)
    if not named.is_hybrid or named.model is None or not {named.model, OPTIMIZER} <= proposers:
        return None
    return Turns(named.model, share(evidence.trials, settings.model_share, named.model), settings.model_share)


def _steps(evidence: Evidence) -> dict[int, Counter[int]]:
    """Trial -> the trial that stood before it and the one that stood after it, where it lowered the best mean."""
    return {
        trial.number: Counter({before: 1, after: -1})
        for trial, before, after in zip(evidence.trials[1:], evidence.bests, evidence.bests[1:], strict=False)
        if before != after
    }


def _gain(evidence: Evidence, steps: Iterable[Counter[int]]) -> tuple[float, float | None]:
    """How much all these steps lowered the best mean, and half of the 95 % interval of that; None without a step.

    Where steps follow one another, what stood between them falls out.
    """
    weights: Counter[int] = Counter()
    for step in steps:
        weights.update(step)
    ends = [(weight, evidence.standing(evidence.trials[number])) for number, weight in weights.items()]
    gain = sum(weight * (end.val_bpb or 0.0) for weight, end in ends)
    half = combined(weight * (end.val_bpb_half_interval or 0.0) for weight, end in ends)
    return gain, half if ends else None
