"""One conversation with a model for one proposal: the question, its answers, and what goes back to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from autoresearch.proposers.completion import Answer
from autoresearch.proposers.prompt import instructions, render
from autoresearch.trial import Attempt, History, Proposal
from rails import Value, Verdict, clean, gate

MOST_ATTEMPTS = 3
CANDIDATES = 4  # of one answer, where an optimizer ranks them
MOST_SENT_BACK = 4000  # characters of a blocked answer
MOST_READ = 2**16  # characters of an answer with candidates


class Adviser(Protocol):
    """An optimizer that a model is asked beside: what it knows, in words, and how much it makes of a change."""

    text: str

    def worth(self, changes: Mapping[str, Value]) -> float:
        """What running the change is worth; more is better. The change has passed the rails."""
        ...

    def promises(self, changes: Mapping[str, Value]) -> str:
        """What is expected of the change, in words."""
        ...


class Advised(Protocol):
    """A proposer that an optimizer may stand beside. Each proposal bears the name of whoever made it."""

    name: str

    def propose(self, history: History, adviser: Adviser | None = None) -> Proposal: ...


class Talk:
    """A question, and up to two more where the rails block what was answered, in so many seconds in all. With an
    adviser the model answers with several candidates, of which the one that is worth most goes to the rails.

    Texts are kept without secrets (`cut`), and without limits to what they hold besides.
    """

    def __init__(self, history: History, adviser: Adviser | None, seconds: float, cut: Callable[[str], str]) -> None:
        self.history, self.candidates = history, CANDIDATES if adviser else 1
        self.until = time.monotonic() + seconds
        self.attempts: list[Attempt] = []
        self._adviser, self._cut = adviser, cut
        self._prompt, self._raw = "", ""
        self.goes_on = True

    @property
    def is_late(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() >= self.until

    def messages(self, lineage_tokens: int | None) -> list[dict[str, str]]:
        """What is said to the model next, with all that was said before."""
        outlook = self._adviser.text if self._adviser else ""
        task = instructions(self.history, self.candidates)
        prompt = render(self.history, lineage_tokens, outlook=outlook)
        self._prompt = f"{task}\n\n{prompt}"
        messages = [{"role": "system", "content": task}, {"role": "user", "content": prompt}]
        for attempt in self.attempts:
            messages.append({"role": "assistant", "content": attempt.answer[:MOST_SENT_BACK] or "(nothing)"})
            messages.append({"role": "user", "content": _back(attempt)})
        return messages

    def is_readable(self, text: str) -> bool:
        return any(verdict.rail != "schema" for _, verdict in self._read(text))

    def heard(self, answer: Answer, seconds: float) -> None:
        """Takes an answer in: either it is the proposal, or it goes back."""
        read = self._read(answer.text)
        passed = [(raw, verdict) for raw, verdict in read if verdict.passed]
        self._raw, verdict = read[0]
        reason = verdict.reason
        if passed and self._adviser:
            worth = self._adviser.worth
            self._raw, verdict = max(passed, key=lambda each: worth(each[1].changes))
            taken = [raw for raw, _ in read].index(self._raw) + 1
            promised = self._adviser.promises(verdict.changes)
            reason = f"candidate {taken} of {len(read)} is taken, {len(passed)} passed: {promised}"
        elif len(read) > 1:
            reason = "; ".join(f"candidate {n}: {each.reason}" for n, (_, each) in enumerate(read, 1))
        asked = _back(self.attempts[-1]) if self.attempts else ""
        self.attempts.append(
            Attempt(
                asked=self._cut(asked),
                answer=self._cut(answer.said or answer.text),
                rail=verdict.rail,
                reason=self._cut(reason),
                latency_seconds=seconds,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
            )
        )
        # A model that had no room to finish will not with more to read.
        is_lost = answer.cut_off and verdict.rail == "schema"
        is_settled = verdict.passed or is_lost or len(self.attempts) == MOST_ATTEMPTS
        self.goes_on = not (is_settled or self.is_late)

    def proposal(self, proposer: str, model: str) -> Proposal:
        """What came of it: what passed, or the last answer for the rails to say why not."""
        return self.told(Proposal(raw=self._without_secrets(self._raw), proposer=proposer, model=self._cut(model)))

    def told(self, proposal: Proposal) -> Proposal:
        """A proposal with what it took to get it."""
        if not self.attempts:
            return proposal
        return replace(
            proposal,
            prompt=self._cut(self._prompt),
            latency_seconds=sum(attempt.latency_seconds for attempt in self.attempts),
            prompt_tokens=counted(attempt.prompt_tokens for attempt in self.attempts),
            completion_tokens=counted(attempt.completion_tokens for attempt in self.attempts),
            attempts=self.attempts,
        )

    def _without_secrets(self, raw: str) -> str:
        """Also without those that are spelt in JSON's escapes, which the rails undo."""
        with suppress(ValueError, RecursionError):
            said = json.loads(raw)
            if (cut := _each_text(said, self._cut)) != said:
                return json.dumps(cut, ensure_ascii=False)
        return self._cut(raw)

    def _read(self, text: str) -> list[tuple[str, Verdict]]:
        """Each candidate of an answer as a proposal of its own, with what the rails say of it; at least one."""
        history = self.history
        raws = _candidates(text) if self.candidates > 1 else [text]
        return [(raw, gate(raw, history.recipe, history.menu, history.tried, history.limits)) for raw in raws]


def _candidates(text: str) -> list[str]:
    """The text itself where it is no list of candidates."""
    with suppress(ValueError, RecursionError):
        found: Any = json.loads(text) if len(text) <= MOST_READ else None
        listed = found.get("candidates") if isinstance(found, dict) else None
        if isinstance(listed, list) and listed:
            return [json.dumps(each, ensure_ascii=False) for each in listed[:CANDIDATES]]
    return [text]


def _each_text(value: Any, cut: Callable[[str], str]) -> Any:
    """The same JSON with each text in it cut. Raises RecursionError."""
    match value:
        case str():
            return cut(value)
        case list():
            return [_each_text(each, cut) for each in value]
        case dict():
            return {cut(name): _each_text(each, cut) for name, each in value.items()}
    return value


def _back(attempt: Attempt) -> str:
    """What is said of a blocked answer."""
    return f"Blocked by the {attempt.rail} rail: {clean(attempt.reason, 800)}. Answer again with another change."


def counted(counts: Iterable[int | None]) -> int | None:
    """The sum of those that are known; None where none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
