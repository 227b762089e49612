"""A model that was taught what studies have learned proposes, in this process and held to the schema of an answer."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from autoresearch import words
from autoresearch.config import ProposerSettings
from autoresearch.errors import UserError
from autoresearch.proposers.completion import NoAnswer
from autoresearch.proposers.conversation import rendered
from autoresearch.proposers.prompt import answer_schema
from autoresearch.proposers.proposer import Meter, Proposer, Taken
from autoresearch.proposers.space import readable
from autoresearch.proposers.talk import CANDIDATES, Adviser, counted
from autoresearch.trial import Attempt, History, Proposal
from rails import Value, Verdict, clean, gate

if TYPE_CHECKING:
    from autoresearch.proposers.lora_model import Batch, Said, TaughtModel

NEEDS = ("transformers", "peft", "llguidance")
MOST_ROUNDS = 3  # of candidates, where the rails block all of one
# Proposals made without the model before it is tried again: what failed once costs its time again.
TRIALS_BETWEEN_ATTEMPTS = 5
# Adapters of several hundred megabytes on bases of several gigabytes: who asks for the same one shares it.
_loaded: WeakValueDictionary[Path, TaughtModel] = WeakValueDictionary()


@dataclass(frozen=True)
class _Candidate:
    said: Said
    raw: str
    verdict: Verdict


class LoraProposer:
    """Draws some candidates of one question, without those that the rails would block. An adviser's worth of a change
    times its likelihood says which is taken; without an adviser it is the likeliest.

    Raises UserError for a folder that holds no such model, and where the extra distill is not installed.
    """

    name = "lora"

    def __init__(self, folder: Path, settings: ProposerSettings, fallback: Proposer) -> None:
        if missing := [package for package in NEEDS if find_spec(package) is None]:
            raise UserError(f"{' and '.join(missing)} not installed: run `pip install -e '.[distill]'`")
        self._folder, self._base = folder.expanduser().absolute(), _base_of(folder.expanduser())
        base = self._base and (Path(self._base).name if Path(self._base).is_absolute() else self._base)
        self.model = clean(f"{self._folder.name} on {base}" if base else self._folder.name, 200)
        self._settings, self._fallback = settings, fallback
        self._model: TaughtModel | None = None
        self._meter: Meter | None = None
        self._taken: list[Taken] = []
        self._retry_at = 0
        self._hung_up = threading.Event()

    def propose(self, history: History, adviser: Adviser | None = None) -> Proposal:
        """adviser: an optimizer that is asked beside."""
        if history.number < self._retry_at:
            return self._fallback.propose(history)
        self._hung_up.clear()
        self._taken = []
        try:
            proposal = self._asked(history, adviser)
        except NoAnswer as error:
            self._retry_at = history.number + TRIALS_BETWEEN_ATTEMPTS
            note = (
                f"{self.model} does not answer ({clean(str(error), 200)}); "
                f"{self._fallback.name} proposes until trial {self._retry_at}"
            )
            proposal = replace(self._fallback.propose(history), notes=[note])
        if not self._taken:
            return proposal
        sources = sorted({each.source for each in self._taken})
        joules = sum(each.joules for each in self._taken)
        return replace(proposal, energy_joules=joules, energy_source="+".join(sources))

    def takes_long(self, history: History) -> bool:
        return True

    def metered_by(self, meter: Meter) -> None:
        self._meter = meter

    def hang_up(self) -> None:
        """Ends the question that is being asked, if any."""
        self._hung_up.set()

    def _asked(self, history: History, adviser: Adviser | None) -> Proposal:
        """Raises NoAnswer."""
        settings = self._settings
        task, prompt = rendered(history, settings.lineage_tokens if settings.lineage else None)
        messages = [{"role": "system", "content": task}, {"role": "user", "content": prompt}]
        schema, model = answer_schema(history), self._here()
        until = time.monotonic() + settings.timeout_seconds
        attempts: list[Attempt] = []
        for place in range(MOST_ROUNDS):
            seed = random.Random(f"lora/{history.seed}/{history.number}/{place}").getrandbits(63)
            started = time.monotonic()
            try:
                batch = self._metered(model, messages, schema, seed, until)
            except NoAnswer:
                if attempts:  # it does answer
                    break
                raise
            candidates = [_candidate(said, history) for said in batch.said]
            taken = _taken(candidates, adviser)
            attempts.append(_attempt(candidates, taken, adviser, batch, time.monotonic() - started))
            if taken.verdict.passed:
                break
        return Proposal(
            raw=taken.raw,
            proposer=self.name,
            prompt=f"{task}\n\n{prompt}",
            model=self.model,
            latency_seconds=sum(attempt.latency_seconds for attempt in attempts),
            prompt_tokens=counted(attempt.prompt_tokens for attempt in attempts),
            completion_tokens=counted(attempt.completion_tokens for attempt in attempts),
            attempts=attempts,
        )

    def _here(self) -> TaughtModel:
        """Loads it where nobody has. Raises NoAnswer."""
        if self._model is None:
            from autoresearch.proposers.lora_model import TaughtModel

            self._model = _loaded.get(self._folder) or TaughtModel(self._folder, self._base)
            _loaded[self._folder] = self._model
        return self._model

    def _metered(
        self, model: TaughtModel, messages: list[dict[str, str]], schema: dict[str, Any], seed: int, until: float
    ) -> Batch:
        """Raises NoAnswer."""

        def goes_on() -> bool:
            return time.monotonic() < until and not self._hung_up.is_set()

        if self._meter:
            self._meter.begin()
        try:
            batch = model.answers(messages, schema, CANDIDATES, self._settings.temperature, seed, goes_on)
        finally:
            if self._meter and (taken := self._meter.end()) is not None:
                self._taken.append(taken)
        if not batch.said:
            raise NoAnswer(f"none of its answers came to an end in {batch.completion_tokens:,} tokens")
        return batch


def _taken(candidates: list[_Candidate], adviser: Adviser | None) -> _Candidate:
    """Of those that passed; where none did the rails will say why."""
    passed = [each for each in candidates if each.verdict.passed]
    if not adviser:
        return max(passed or candidates, key=lambda each: each.said.likelihood)

    def weighed(each: _Candidate) -> tuple[float, float]:
        likelihood = each.said.likelihood
        return (adviser.worth(each.verdict.changes) * likelihood if passed else 0.0, likelihood)

    return max(passed or candidates, key=weighed)


def _candidate(said: Said, history: History) -> _Candidate:
    raw = _as_read(said.text, history)
    return _Candidate(said, raw, gate(raw, history.recipe, history.menu, history.tried, history.limits))


def _as_read(text: str, history: History) -> str:
    """An answer of the schema, its numbers as a person reads them: a small model goes on writing digits."""
    told: dict[str, Any] = json.loads(text)

    def value(name: str, given: Value) -> Value:
        knob = history.menu.knobs[name]
        if knob.type != "float" or knob.choices:
            return given
        assert isinstance(given, int | float)
        return readable(knob, given)

    if "changes" in told:
        told["changes"] = {name: value(name, given) for name, given in told["changes"].items()}
    else:
        told["new_value"] = value(told["knob"], told["new_value"])
    return json.dumps({**told, "expected_delta": round(told["expected_delta"], history.metric.places)})


def _attempt(
    candidates: list[_Candidate], taken: _Candidate, adviser: Adviser | None, batch: Batch, seconds: float
) -> Attempt:
    """What is kept of a round: every candidate as the model wrote it, how likely each was, and why one is taken."""
    passed = sum(each.verdict.passed for each in candidates)
    likelihoods = ", ".join(words.percent(each.said.likelihood) for each in candidates)
    if taken.verdict.passed:
        promised = f": {adviser.promises(taken.verdict.changes)}" if adviser else ""
        place = candidates.index(taken) + 1
        reason = f"candidate {place} of {len(candidates)} is taken, {passed} passed{promised}"
    else:
        reason = "; ".join(f"candidate {n}: {each.verdict.reason}" for n, each in enumerate(candidates, 1))
    return Attempt(
        asked="",
        answer=f'{{"candidates": [{", ".join(each.said.text for each in candidates)}]}}',
        rail=taken.verdict.rail,
        reason=f"{reason}; likelihoods {likelihoods}",
        latency_seconds=seconds,
        prompt_tokens=batch.prompt_tokens,
        completion_tokens=batch.completion_tokens,
    )


def _base_of(folder: Path) -> str | None:
    """The base of the adapter in a folder, a name on the hub or a folder; None: it holds a whole model.

    Raises UserError where it holds neither."""
    if not folder.is_dir():
        raise UserError(f"lora:{folder}: there is no such folder; `autoresearch distill train` makes one")
    if not (folder / "adapter_config.json").exists():
        if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
            return None
        begun = "a training that has not ended: go on with it" if (folder / "training").exists() else "no model"
        raise UserError(f"lora:{folder} holds {begun}; `autoresearch distill train` makes what is asked for")
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        kind, base = config["peft_type"], config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        kind = base = None
    if kind != "LORA" or not isinstance(base, str) or not (folder / "adapter_model.safetensors").exists():
        raise UserError(f"lora:{folder} holds no whole LoRA: make it again with `autoresearch distill train`")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise UserError(f"lora:{folder} is of the base {clean(base, 200)}, which is no longer there: bring it back")
    return base
