"""The words of a trajectory: trials, runs and what a proposer gets to see of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from autoresearch import untrusted
from autoresearch.metric import VAL_BPB, Metric
from rails import Limits, Menu, clean

Value = bool | int | float | str
Recipe = dict[str, Value]
TrialState = Literal["proposed", "blocked", "running", "complete", "failed", "timed_out", "abandoned", "stopped"]
RunState = Literal["queued", "running", "complete", "failed", "cancelled", "stopped"]
# No decision reads the test text, which a candidate's runs do not score, nor a run that confirms the night's result.
Purpose = Literal["candidate", "reference", "confirmation"]
# Stands for a moment that the source of an imported study does not tell.
EPOCH = "1970-01-01T00:00:00.000Z"
# Who proposes that a knob of a keep is put back, to see what it is worth.
APART = "apart"
# Who proposes a knob that no trial has touched.
COVERAGE = "coverage"
# A person's ideas and the night's own, which nobody asked a proposer for.
NOT_ASKED_FOR = ("queue", "carried", APART, COVERAGE)
# What is kept of a proposal and of what was shown for it; the rails take no proposal that is near as long.
MAX_RAW_BYTES = 2**16
MAX_PROMPT_BYTES = 2**20
MAX_NOTES = 10
MAX_ATTEMPTS = 10


@dataclass(frozen=True)
class Trial:
    """One proposal's life. val_bpb is None unless complete; decision is None where nothing was decided.

    expected_delta is the change of val_bpb that its proposer forecast (bits per byte, negative is better; None: it gave
    none); improvement is what was measured the other way round: positive is better.
    """

    number: int
    parent: int | None
    proposer: str
    changes: Recipe
    recipe: Recipe
    recipe_key: str
    hypothesis: str
    expected_delta: float | None
    state: TrialState
    decision: Literal["keep", "discard"] | None
    rail: str | None
    reason: str
    val_bpb: float | None
    n_runs: int
    reference: int | None
    improvement: float | None
    improvement_low: float | None
    improvement_high: float | None
    test_bpb: float | None
    commit: str | None
    merge_commit: str | None
    energy_joules: float | None
    energy_source: str | None
    started_at: str
    finished_at: str | None

    @property
    def outcome(self) -> str:
        """keep, discard, baseline, carried (to another recipe), or the state of a trial that was not decided."""
        if self.number == 0 and self.state == "complete":
            return "baseline"
        if self.state == "complete" and self.decision is None and self.improvement is not None:
            return "carried"
        return self.decision or self.state


@dataclass(frozen=True)
class Run:
    """One training of one recipe with one seed. Measurements are None until complete."""

    trial: int
    seed: int
    purpose: Purpose
    state: RunState
    attempts: int
    failure: str | None
    message: str
    failed_step: int | None
    val_bpb: float | None
    test_bpb: float | None
    window_bpb: float | None
    tokens: int | None
    flops: float | None  # of the whole run
    steps: int | None
    params: int | None
    train_seconds: float | None
    eval_seconds: float | None
    total_seconds: float | None
    tokens_per_second: float | None
    mfu: float | None
    peak_flops_source: str | None
    data_seconds: float | None  # of the mean step, as the next three
    forward_seconds: float | None
    backward_seconds: float | None
    optimizer_seconds: float | None
    peak_memory_bytes: int | None
    energy_joules: float | None
    energy_source: str | None
    device: str | None
    started_at: str | None
    finished_at: str | None

    @property
    def id(self) -> str:
        return f"{self.trial:04d}-{self.seed}"


def window_of(recipe: Recipe) -> int | None:
    """The tokens of one sequence, which are the context that val_bpb is scored with; None: an import tells it not."""
    tokens = recipe.get("seq_len")
    return tokens if type(tokens) is int and tokens > 0 else None


@dataclass(frozen=True)
class Lesson:
    """What a model claims that moving a knob does, and the trials that it claims it from, in their order. `move` is in
    the order of numbers or, of words, of the menu's choices."""

    knob: str
    move: Literal["higher", "lower", "other value"]
    effect: Literal["helps", "hurts"]
    trials: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Reflection:
    """A model asked for lessons: the question and the answer as they were, and what was taken of it.

    answer: untrusted; None: none came. Token counts are None where nobody counted. note: why there is no answer, or why
    some of it was left out.
    """

    prompt: str
    answer: str | None
    model: str
    latency_seconds: float
    prompt_tokens: int | None
    completion_tokens: int | None
    lessons: tuple[Lesson, ...]
    note: str = ""

    def __post_init__(self) -> None:
        answer = None if self.answer is None else untrusted.beginning(untrusted.text(self.answer), MAX_RAW_BYTES)
        vars(self).update(
            prompt=untrusted.beginning(untrusted.text(self.prompt), MAX_PROMPT_BYTES),
            answer=answer,
            model=clean(untrusted.text(self.model), 200),
            note=clean(untrusted.text(self.note)),
        )


@dataclass(frozen=True)
class History:
    """All that a proposer may know: the menu, the recipe it changes, every earlier trial (also those in flight).

    `tried`: recipe_key -> what came of that recipe. `deviation`: of one run, in bits per byte, as known at that moment
    (a trial's mean has it over the root of its n_runs as standard error); None: not known. `scores`: trial -> seed ->
    val_bpb of every run that had ended, also of trials that are not decided and have no val_bpb yet. `parent`: the
    trial whose recipe is changed. `tick`: the moment, on the study's logical clock; None: outside any study. `lessons`:
    those that stand, the newest last. `reflected`: the trial with which a model was last asked for lessons; 0: none.
    `metric`: what scores are of, which are here as they are kept.
    """

    number: int
    seed: int
    menu: Menu
    recipe: Recipe
    trials: Sequence[Trial]
    tried: Mapping[str, str]
    limits: Limits
    deviation: float | None = None
    scores: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    parent: int = 0
    tick: int | None = None
    lessons: Sequence[Lesson] = ()
    reflected: int = 0
    metric: Metric = VAL_BPB


@dataclass(frozen=True)
class Attempt:
    """One question put to a model for a proposal, and what the rails said of its answer; texts are untrusted.

    `asked`: what was said to it beyond the proposal's prompt and the attempts before; "" for the first. rail: what
    blocked it; None: nothing did. Tokens are None where the endpoint does not count them.
    """

    asked: str
    answer: str
    rail: str | None = None
    reason: str = ""
    latency_seconds: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def __post_init__(self) -> None:
        vars(self).update(
            asked=untrusted.beginning(untrusted.text(self.asked), MAX_RAW_BYTES),
            answer=untrusted.beginning(untrusted.text(self.answer), MAX_RAW_BYTES),
            rail=None if self.rail is None else clean(untrusted.text(self.rail), 80),
            reason=clean(untrusted.text(self.reason)),
            latency_seconds=untrusted.seconds(self.latency_seconds),
            prompt_tokens=untrusted.whole_number(self.prompt_tokens),
            completion_tokens=untrusted.whole_number(self.completion_tokens),
        )


@dataclass(frozen=True)
class Proposal:
    """What a proposer answered, untrusted, and what it was shown; None means: does not apply. Seconds and tokens are
    those of all `attempts`, the questions that it took a model. Energy is that of a model on this machine's GPUs, for
    all that it was asked: also for lessons, and without an answer.

    Whatever it is made of, it can be stored: texts are made storable and cut to size, a number that is none is None.
    """

    raw: str
    proposer: str
    prompt: str | None = None
    model: str | None = None
    latency_seconds: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    energy_joules: float | None = None
    energy_source: str | None = None
    idea: int | None = None
    attempts: list[Attempt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reflection: Reflection | None = None

    def __post_init__(self) -> None:
        raw, notes = untrusted.text(self.raw), self.notes if isinstance(self.notes, list) else [self.notes]
        prompt = None if self.prompt is None else untrusted.beginning(untrusted.text(self.prompt), MAX_PROMPT_BYTES)
        kept = untrusted.beginning(raw, MAX_RAW_BYTES)
        if kept != raw:
            size = f"{len(raw.encode()):,} bytes"
            notes = [f"the proposal had {size}; its first {MAX_RAW_BYTES:,} are kept", *notes]
        vars(self).update(
            raw=kept,
            proposer=clean(untrusted.text(self.proposer), 80) or "unnamed",
            prompt=prompt,
            model=None if self.model is None else clean(untrusted.text(self.model), 200),
            latency_seconds=untrusted.seconds(self.latency_seconds),
            prompt_tokens=untrusted.whole_number(self.prompt_tokens),
            completion_tokens=untrusted.whole_number(self.completion_tokens),
            energy_joules=untrusted.amount(self.energy_joules),
            energy_source=None if self.energy_source is None else clean(untrusted.text(self.energy_source), 80),
            idea=untrusted.whole_number(self.idea),
            attempts=[attempt for attempt in self.attempts if isinstance(attempt, Attempt)][:MAX_ATTEMPTS],
            notes=[said for note in notes[:MAX_NOTES] if (said := clean(untrusted.text(note)))],
            reflection=self.reflection if isinstance(self.reflection, Reflection) else None,
        )


Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_iso(text: str) -> datetime:
    return datetime.fromisoformat(text)
