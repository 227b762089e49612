"""The settings of a study (study.toml), validated at birth: an unknown key is an error that names the nearest."""

from __future__ import annotations

import difflib
import re
import shlex
import tomllib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator

from autoresearch.errors import UserError
from autoresearch.metric import VAL_BPB, Metric
from autoresearch.proposer_name import SHIPPED, ProposerName
from autoresearch.secrecy import without_credentials
from trainer.protocol import BUDGET_UNITS, WHOLE_UNITS

PRESETS = Path(__file__).parent / "presets"
# It heads columns of other people's formats, and an import brings it along.
A_NAME = re.compile(r"(?:[\w%°][\w%°²³ ./,+()-]*)?")


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TrainerSettings(Table):
    """A program of the person's own, in place of the GPT's trainer; see docs/your-own-trainer.md."""

    command: str | list[str]  # text is split as a shell would; no shell runs it
    folder: str | None = None  # where it is run; None: the run's own
    recipe: Literal["file", "arguments", "environment", "constants", "adapter"] = "arguments"  # how it is told
    script: str | None = None  # of which a copy with other constants is run
    score: str = "val_bpb"
    score_pattern: str | None = None  # a regular expression with one group
    score_file: str | None = None  # JSON, in the run's folder
    lower_is_better: bool = True
    unit: str = ""

    @field_validator("command")
    @classmethod
    def _a_command(cls, value: str | list[str]) -> str | list[str]:
        try:
            words = shlex.split(value) if isinstance(value, str) else value
        except ValueError as error:
            raise ValueError(f"it cannot be split as a shell would: {error}") from None
        if not words or not words[0] or any("\0" in word for word in words):
            raise ValueError('it must name a program, such as "python train.py"')
        return value

    @field_validator("folder")
    @classmethod
    def _a_whole_path(cls, value: str | None) -> str | None:
        if value is not None and not Path(value).is_absolute():
            raise ValueError("it must be a whole path, which begins with /")
        return value

    @field_validator("score", "unit")
    @classmethod
    def _a_word(cls, value: str) -> str:
        if len(value) > 40 or not A_NAME.fullmatch(value):
            raise ValueError("it must be at most 40 letters, digits and signs like % / . - ( ), the first none but %")
        return value

    @field_validator("score_pattern")
    @classmethod
    def _one_group(cls, value: str | None) -> str | None:
        try:
            if value is not None and re.compile(value).groups != 1:
                raise ValueError("it must have exactly one group in parentheses, which is the score")
        except re.error as error:
            raise ValueError(f"it is no regular expression: {error}") from None
        return value

    @field_validator("score_file")
    @classmethod
    def _in_the_folder(cls, value: str | None) -> str | None:
        path = PurePosixPath(value or "result.json")
        if value == "" or path.is_absolute() or ".." in path.parts:
            raise ValueError("it must be the name of a file in the run's folder, AUTORESEARCH_FOLDER")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> TrainerSettings:
        if not self.score:
            raise ValueError("score must have a name")
        if (self.script is None) == (self.recipe == "constants"):
            raise ValueError('script is for recipe = "constants", and that needs it: name the script, or leave it out')
        if self.score_pattern is not None and self.score_file is not None:
            raise ValueError("score_pattern and score_file cannot both hold: leave one out")
        if self.recipe == "adapter" and (self.score_pattern or self.score_file):
            raise ValueError("score_pattern and score_file are not for an adapter, whose function returns the score")
        return self

    @property
    def metric(self) -> Metric:
        return Metric.other(self.score, self.unit, not self.lower_is_better)

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command) if isinstance(self.command, str) else self.command


class DataSettings(Table):
    source: str = "stdlib"
    vocab_size: int = Field(2048, ge=300, le=2**20)
    val_bytes: int = Field(2**17, gt=0)
    test_bytes: int = Field(2**17, gt=0)
    max_bytes: int | None = Field(None, gt=0)


class DecisionRule(Table):
    """What it takes to keep; deviations are relative to the score, improvements in its unit, such as bits per byte."""

    reference: Literal["incumbent", "baseline"] = "incumbent"
    confidence: float = Field(0.99, gt=0.5, lt=1)
    min_improvement: float = Field(0.0, ge=0)
    baseline_runs: int = Field(3, ge=2)
    max_runs: int = Field(12, ge=2)
    reference_runs: int = Field(3, ge=2)
    reference_max: int = Field(24, ge=2)
    confirmation_runs: int = Field(5, ge=0)
    stop_early: bool = False
    prior_deviation: float = Field(0.007, gt=0)
    prior_runs: float = Field(2.0, ge=1)


class ProposerSettings(Table):
    name: str = "auto"  # see proposer_name.py
    max_changes: int | None = Field(None, ge=1)  # knobs of one proposal; None: the menu's
    model: str | None = None
    base_url: str | None = None
    model_share: float = Field(0.3, ge=0, le=1)  # of a hybrid's trials, at most, those of the model
    lineage: bool = True  # whether a model is shown what the study has learned
    lineage_tokens: int = Field(3000, ge=200)  # that may be spent on it
    reflect: bool = False  # whether a model is asked for lessons, which it is then shown with the lineage
    temperature: float = Field(0.7, ge=0, le=2)
    timeout_seconds: float = Field(60.0, gt=0)  # of all questions for one proposal, with their retries
    max_retries: int = Field(3, ge=0, le=10)
    price_per_million_prompt_tokens: float | None = Field(None, ge=0)  # in [energy]'s currency; None: not counted
    price_per_million_completion_tokens: float | None = Field(None, ge=0)

    @field_validator("name")
    @classmethod
    def _a_proposer(cls, value: str) -> str:
        folder = ProposerName.read(value).folder
        if folder not in (None, SHIPPED) and not folder.is_absolute():
            raise ValueError("a night may start from anywhere: give the student's whole path")
        return value

    @field_serializer("base_url")
    def _written_down(self, value: str | None) -> str | None:
        return value and without_credentials(value)


class LimitSettings(Table):
    """Where a night stops politely; an absent key is no limit."""

    trials: int | None = Field(None, gt=0)
    hours: float | None = Field(None, gt=0)
    kwh: float | None = Field(None, gt=0)
    cost: float | None = Field(None, gt=0)
    min_free_disk_bytes: int = Field(2**30, ge=0)
    memory_bytes: int | None = Field(None, gt=0)
    run_seconds: float = Field(3600.0, gt=0)


class ScheduleSettings(Table):
    start: str = "22:00"
    stop: str = "07:00"
    timezone: str | None = None

    @field_validator("start", "stop")
    @classmethod
    def _clock_time(cls, value: str) -> str:
        parse_clock(value)
        return value


class EnergySettings(Table):
    price_per_kwh: float = Field(0.30, ge=0)
    currency: str = Field("EUR", min_length=1, max_length=8)
    watts_per_core: float = Field(10.0, gt=0)
    gpu_watts: float = Field(300.0, gt=0)


class WorkerSettings(Table):
    """Where runs are done; `workers = N` at the head of study.toml is short for `most`."""

    most: int | None = Field(None, ge=1, le=1024)  # runs in flight at once; None: as many as the devices or nodes carry
    launcher: Literal["local", "ray"] = "local"
    devices: list[str] = []  # of this machine, one worker each; [] follows `device`
    # The rest is of a cluster.
    address: str = Field("auto", pattern=r"^(auto|local|ray://[^\s/@]+:\d+|[^\s/@:]+:\d+)$")
    gpus: float = Field(0.0, ge=0)  # of a run, as the next three
    cpus: float = Field(1.0, ge=0)
    memory_bytes: int | None = Field(None, gt=0)
    labels: list[str] = []  # that a node must have, as NAME=VALUE

    @field_validator("devices")
    @classmethod
    def _devices(cls, value: list[str]) -> list[str]:
        for name in value:
            if not re.fullmatch(r"cpu|cuda:\d+", name):
                raise ValueError(f"{name!r} is no device: write cpu or cuda:N")
        return value

    @field_validator("labels")
    @classmethod
    def _labels(cls, value: list[str]) -> list[str]:
        for label in value:
            if not all(label.partition("=")):
                raise ValueError(f"{label!r} is no label: write NAME=VALUE")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> WorkerSettings:
        if self.devices and self.launcher == "ray":
            raise ValueError("devices are of this machine: with launcher 'ray' give gpus, cpus and labels instead")
        return self


class Settings(Table):
    preset: str
    backend: Literal["torch", "megatron"] = "torch"
    compile: Literal["auto"] | bool = "auto"
    repeatable: bool = True
    tensor_parallel: int = Field(1, ge=1, le=64)
    data_parallel: int = Field(1, ge=1, le=64)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    seed: int = Field(0, ge=0, lt=2**31)
    workers: WorkerSettings = WorkerSettings()
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = []
    budget: dict[str, float]
    trainer: TrainerSettings | None = None  # None: the GPT's
    data: DataSettings = DataSettings()
    decision: DecisionRule = DecisionRule()
    proposer: ProposerSettings = ProposerSettings()
    limits: LimitSettings = LimitSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    energy: EnergySettings = EnergySettings()

    @field_validator("workers", mode="before")
    @classmethod
    def _how_many(cls, value: Any) -> Any:
        return {"most": value} if isinstance(value, int) or value is None else value

    @field_validator("budget", mode="before")
    @classmethod
    def _one_whole_budget(cls, value: Any) -> Any:
        if not isinstance(value, dict) or len(value) != 1:
            raise ValueError("give exactly one of tokens, steps, seconds or flops")
        ((unit, amount),) = value.items()
        if unit not in BUDGET_UNITS:
            raise ValueError(_unknown(unit, BUDGET_UNITS))
        if isinstance(amount, bool) or not isinstance(amount, int | float) or amount <= 0:
            raise ValueError(f"{unit} must be a number above 0")
        if unit in WHOLE_UNITS and not isinstance(amount, int):
            raise ValueError(f"{unit} must be a whole number")
        return value

    @model_validator(mode="after")
    def _room_for_replicates(self) -> Settings:
        if self.decision.reference_max < self.decision.reference_runs:
            raise ValueError("decision.reference_max is below decision.reference_runs: raise it")
        return self

    def compiles(self, device_kind: str, works: bool = True) -> bool:
        """Whether runs use torch.compile. auto: on GPUs with plain PyTorch where it works; on a CPU compiling a shape
        takes longer than a whole run and gains a few percent."""
        if self.compile == "auto":
            return self.backend == "torch" and device_kind == "cuda" and works
        return self.compile

    @property
    def metric(self) -> Metric:
        """What this study's runs are scored by."""
        return self.trainer.metric if self.trainer else VAL_BPB

    @property
    def whole_budget(self) -> dict[str, float]:
        """The budget as the trainer takes it: tokens and steps are whole numbers."""
        return {unit: int(amount) if unit in WHOLE_UNITS else amount for unit, amount in self.budget.items()}


def load_settings(path: Path) -> Settings:
    """Reads study.toml. Raises UserError naming the file, the key and the nearest valid key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a study is a folder made by `autoresearch init`") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return parse_settings(text, str(path))


def parse_settings(text: str, source: str) -> Settings:
    """The settings in a TOML text. Raises UserError naming `source`, the key and the nearest valid key."""
    try:
        return Settings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise UserError(f"{source}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        model: type[BaseModel] = Settings
        for part in problem["loc"][:-1]:
            kind = model.model_fields[str(part)].annotation
            kinds = [each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, BaseModel)]
            model = kinds[0]
        return _unknown(key, model.model_fields)
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict | list) else f" (it is {problem['input']!r})"
    return f"{key}: {message}{given}" if key else message


def _unknown(key: str, valid: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(key.rpartition(".")[2], list(valid), 1, 0)[0]
    return f"unknown key {key}; the nearest valid key is {nearest}"


def parse_clock(value: str) -> tuple[int, int]:
    """ "22:00" -> (22, 0). Raises ValueError for anything that is no time of day."""
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", value)
    if not match:
        raise ValueError(f"{value!r} is no time of day: write it as HH:MM, for example 07:00")
    return int(match[1]), int(match[2])
