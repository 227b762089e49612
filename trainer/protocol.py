"""What a launcher and a worker say to each other: a request file in, a result file out, and how a run is cancelled."""

import json
import math
import os
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

Message = TypeVar("Message", "RunRequest", "RunResult")

BUDGET_UNITS = ("tokens", "steps", "seconds", "flops")
WHOLE_UNITS = ("tokens", "steps")  # a budget in one of them is a whole number
STATES = ("complete", "failed", "cancelled", "stopped")
# The last two are the launcher's findings: a worker that hangs or dies cannot report it.
FAILURES = ("diverged", "out_of_memory", "error", "timed_out", "worker_died")
MOST_WHOLE = 2**63  # of a whole number: a database holds no larger one
# Of a result: its numbers, which another program may have written. Those of the first row are whole.
WHOLE_MEASURES = (
    "seed", "failed_step", "params", "steps", "tokens", "flops_per_token", "peak_memory_bytes", "processes",
)  # fmt: skip
MEASURES = (
    "val_bpb", "test_bpb", "window_bpb", "tokens_per_second", "first_step_seconds", "flops", "peak_flops",
    "train_seconds", "eval_seconds", "total_seconds", "cpu_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class RunRequest:
    """One run to be done. Raises ValueError for a budget or seed that means nothing."""

    run_id: str
    recipe: dict[str, Any]  # see trainer.recipe; judged when the run starts, so that a bad one is a failed run
    seed: int
    budget: dict[str, float]  # one of {"tokens": n}, {"steps": n}, {"seconds": s}, {"flops": f}; see trainer.schedule
    data_dir: str  # a folder made by trainer.data.prepare
    result_path: str
    backend: str = "torch"
    device: str = "auto"  # auto, cpu, cuda or cuda:N; auto takes a GPU where there is one
    score: bool = True  # False: only speed and memory are wanted
    score_test: bool = False  # score the test text too, after the validation text
    score_window: int | None = None  # tokens: score the validation text in windows of this length too
    val_points: int = 0  # how often to look at the validation text on the way; not with a budget in seconds
    random_tokens: bool = False  # train on one batch of random tokens that is on the device already
    compile: bool = False  # torch.compile for the model's blocks
    repeatable: bool = True  # one seed, one number, to the last bit; False: the device's fastest way
    tensor_parallel: int = 1  # processes that share each matrix; the worker must have been started with as many
    data_parallel: int = 1  # processes that share each batch
    memory_bytes: int | None = None  # that each process may take of its GPU; None: all that it has
    # [share of the run, nats per token]: the run stops there, hopeless, where the mean training loss of the tenth of
    # the run before it is higher; not with a budget in seconds
    stop_above: list[list[float]] = field(default_factory=list)
    # What the worker of another program is told, which knows nothing of data, backend and scoring; {}: our trainer
    program: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(isinstance(self.run_id, str) and self.run_id != "", "run_id", self.run_id, "text, not empty")
        _require(isinstance(self.recipe, dict), "recipe", self.recipe, "a table of knobs")
        _require(isinstance(self.program, dict), "program", self.program, "a table")
        _require(_is_whole(self.seed) and 0 <= self.seed < 2**63, "seed", self.seed, "a whole number, 0 or above")
        _require(
            isinstance(self.budget, dict) and len(self.budget) == 1 and all(map(_is_spendable, self.budget.items())),
            "budget",
            self.budget,
            "one of {'tokens': n}, {'steps': n}, {'seconds': s}, {'flops': f}, above 0",
        )
        for name in ("data_dir", "result_path", "backend", "device"):
            _require(isinstance(getattr(self, name), str), name, getattr(self, name), "text")
        for name in ("score", "score_test", "random_tokens", "compile", "repeatable"):
            _require(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        _require(
            self.score_window is None or (_is_whole(self.score_window) and self.score_window > 0),
            "score_window",
            self.score_window,
            "a whole number of tokens, 1 or above",
        )
        _require(_is_whole(self.val_points) and self.val_points >= 0, "val_points", self.val_points, "0 or above")
        _require(
            not (self.val_points and "seconds" in self.budget),
            "val_points",
            self.val_points,
            "0 with a budget in seconds: the way is known from the start only in tokens, steps or flops",
        )
        _require(
            isinstance(self.stop_above, list) and all(map(_is_limit, self.stop_above)),
            "stop_above",
            self.stop_above,
            "a list of [share of the run, nats per token]",
        )
        _require(not (self.stop_above and "seconds" in self.budget), "stop_above", self.stop_above, "[] with seconds")
        for name in ("tensor_parallel", "data_parallel"):
            _require(
                _is_whole(getattr(self, name)) and getattr(self, name) > 0, name, getattr(self, name), "1 or above"
            )
        _require(
            self.memory_bytes is None or (_is_whole(self.memory_bytes) and self.memory_bytes > 0),
            "memory_bytes",
            self.memory_bytes,
            "None, or 1 or above",
        )

    @classmethod
    def read(cls, path: str | Path) -> "RunRequest":
        """Reads a request file. Raises OSError if it cannot be opened, ValueError if it is no request."""
        return _read(cls, path)

    def write(self, path: str | Path) -> None:
        """Writes the file so that a reader sees all of it or none."""
        _write(asdict(self), path)


@dataclass(frozen=True)
class RunResult:
    """What came of one run. None means: not measured, because the run did not get that far."""

    run_id: str
    seed: int
    state: str  # one of STATES
    failure: str | None = None  # one of FAILURES; None unless failed
    message: str = ""  # one line for a person; empty for a complete run
    failed_step: int | None = None  # the step, counted from 1, whose loss went wrong
    # bits per byte of the validation text, or another program's score, its sign such that lower is better; None unless
    # complete and scored
    val_bpb: float | None = None
    test_bpb: float | None = None
    # val_bpb in windows of score_window tokens; None: not asked for, or the model was trained on shorter ones
    window_bpb: float | None = None
    params: int | None = None  # trained parameters, tied ones once
    steps: int | None = None  # optimizer steps done
    tokens: int | None = None  # tokens trained on
    tokens_per_second: float | None = None  # in training, evaluation left out
    step_seconds: dict[str, float] = field(default_factory=dict)  # mean step: data, forward, backward, optimizer
    first_step_seconds: float | None = None  # from the request to the end of the first step that counts
    flops_per_token: int | None = None  # of forward and backward; see trainer.flops
    flops: float | None = None  # of the whole run: flops_per_token x tokens
    peak_flops: float | None = None  # per second, of all devices of the run, in the recipe's precision
    peak_flops_source: str | None = None  # datasheet or measured
    train_seconds: float | None = None
    eval_seconds: float | None = None
    total_seconds: float | None = None
    cpu_seconds: float | None = None  # processor time of this process, all threads
    peak_memory_bytes: int | None = None  # GPU memory on a GPU, resident memory on a CPU
    curve: list[list[float]] = field(default_factory=list)  # [step, mean training loss in nats per token], ~50 points
    val_curve: list[list[float]] = field(default_factory=list)  # [step, nats per token of the validation text's start]
    device: str = ""  # of the first process
    processes: int = 1  # that did the run; memory and processor time are the first one's
    started_at: str = ""  # ISO 8601, UTC
    finished_at: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.state in STATES, "state", self.state, "one of " + ", ".join(STATES))
        _require(
            self.failure in FAILURES if self.state == "failed" else self.failure is None,
            "failure",
            self.failure,
            f"one of {', '.join(FAILURES)} if the run failed, else None",
        )
        for name in WHOLE_MEASURES + MEASURES:
            value = getattr(self, name)
            fine = _is_whole(value) or name not in WHOLE_MEASURES
            _require(
                value is None or (fine and _is_number(value)), name, value, "a number, whole if it counts, or None"
            )
        for name in ("message", "device", "started_at", "finished_at"):
            _require(isinstance(getattr(self, name), str), name, getattr(self, name), "text")
        _require(all(map(_is_point, self.curve)), "curve", self.curve, "a list of [step, loss]")
        for name in ("val_bpb", "window_bpb"):
            score = getattr(self, name)
            _require(score is None or self.state == "complete", name, score, "set if complete only")

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: flops_per_token * tokens_per_second / peak_flops."""
        if self.flops_per_token is None or self.tokens_per_second is None or self.peak_flops is None:
            return None
        return self.flops_per_token * self.tokens_per_second / self.peak_flops

    @classmethod
    def read(cls, path: str | Path) -> "RunResult":
        """Reads a result file. Raises OSError if it cannot be opened, ValueError if it is no result."""
        return _read(cls, path)

    def write(self, path: str | Path) -> None:
        """Writes the file so that a reader sees all of it or none. Raises ValueError for NaN or infinity."""
        _write(asdict(self), path)


def cancel_line(run_id: str) -> str:
    """What a worker reads on stdin, between the paths of requests: end that run between two steps."""
    return json.dumps({"cancel": run_id})


def cancelled_run(line: str) -> str | None:
    """The run that the line asks to end; None for any other line."""
    with suppress(ValueError):
        message = json.loads(line)
        if isinstance(message, dict) and isinstance(message.get("cancel"), str):
            return message["cancel"]
    return None


def _read(kind: type[Message], path: str | Path) -> Message:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        known = {field.name: field for field in fields(kind)}
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        if unknown := sorted(content.keys() - known.keys()):
            raise ValueError(f"unknown key {unknown[0]!r}")
        required = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
        if missing := sorted(required - content.keys()):
            raise ValueError(f"missing key {missing[0]!r}")
        return kind(**content)
    except ValueError as error:
        raise ValueError(f"{path}: not a {kind.__name__}: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _write(content: dict[str, Any], path: str | Path) -> None:
    path = Path(path)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_limit(point: object) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(number, int | float) and math.isfinite(number) for number in point)
        and 0 < point[0] < 1
    )


def _is_point(point: object) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(map(_is_number, point))


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOST_WHOLE


def _is_spendable(item: tuple[str, float]) -> bool:
    unit, amount = item
    if unit not in BUDGET_UNITS or isinstance(amount, bool) or not isinstance(amount, int | float):
        return False
    return 0 < amount < float("inf") and (unit not in WHOLE_UNITS or isinstance(amount, int))


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")
