"""How an endpoint is asked for JSON of a schema: the way that it enforces, found out once by asking and remembered."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from autoresearch.proposers.completion import Answer, NoAnswer, is_object, the_object
from autoresearch.proposers.endpoint import ChatEndpoint, Failed, Refused
from rails import clean
from trainer.cache import cache_folder

# In the order in which they are tried: OpenAI's own, NIM's, vLLM's; then JSON of any form, then words alone.
Way = Literal["json_schema", "guided_json", "structured_outputs", "json_object", "text"]
WAYS: tuple[Way, ...] = get_args(Way)

# Who says what the question asks for says nothing of the schema: so an answer of the schema shows that it is enforced.
# It has the word JSON in it, without which OpenAI takes no question for a JSON object.
QUESTION = "Say the word amber and the number 1 in one short plain sentence. Do not answer in JSON."
SCHEMA = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "enum": ["quartz"]},
        "number": {"type": "number", "minimum": 5, "maximum": 6},
    },
    "required": ["word", "number"],
    "additionalProperties": False,
}
# The latter for a model that thinks before it answers.
PROBE_TOKENS, MOST_PROBE_TOKENS = 60, 2000

# Answers without one JSON object, one after the other, before the way is found out anew; questions until the next time.
UNREADABLE_ANSWERS = 2
QUESTIONS_BETWEEN_LOOKS = 20

FILE = "endpoints.json"
MOST_REMEMBERED = 64
MOST_BYTES = 2**16


@dataclass(frozen=True)
class Form:
    """A way of asking for JSON, and whether bounds of numbers in a schema are enforced."""

    way: Way
    bounds: bool = False

    def of(self, request: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
        """The request, asked in this form."""
        more: dict[str, Any] = {}
        match self.way:
            case "json_schema":
                asked = {"name": "answer", "strict": True, "schema": schema}
                more = {"response_format": {"type": "json_schema", "json_schema": asked}}
            case "guided_json":
                more = {"extra_body": {"nvext": {"guided_json": schema}}}
            case "structured_outputs":
                more = {"extra_body": {"structured_outputs": {"json": schema}}}
            case "json_object":
                more = {"response_format": {"type": "json_object"}}
        return {**request, **more}

    def __str__(self) -> str:
        if self.way == "text":
            return "enforces no form; answers are read out of its text"
        if self.way == "json_object":
            return "enforces JSON but no schema (json_object)"
        return f"enforces a JSON schema ({self.way}), {'also' if self.bounds else 'but not'} the bounds of numbers"


class Forms:
    """Asks one model at one endpoint in the best form that it knows. What that is comes from the person's cache, or
    from a question for each way."""

    def __init__(self, endpoint: ChatEndpoint, model: str) -> None:
        self._endpoint = endpoint
        self._model = model
        cut = endpoint.secrets.cut
        self._whose = (cut(endpoint.address), cut(model))
        self._form: Form | None = None
        self._refused: set[Way] = set()  # that the endpoint knows, but not with the schema of a proposal
        self._unreadable = 0
        self._since_look = QUESTIONS_BETWEEN_LOOKS

    @property
    def whose(self) -> str:
        """The model and its address, without secrets."""
        address, model = self._whose
        return clean(f"{model} at {address}")

    def ask(self, request: dict[str, Any], schema: Callable[[bool], dict[str, Any]], until: float) -> Answer:
        """The answer, its text the one JSON object that is in what was said.

        schema: the schema of an answer, given whether bounds of numbers are enforced. until: the latest moment for it,
        in seconds of time.monotonic(). Raises NoAnswer."""
        form = self._known(until)
        self._since_look += 1
        try:
            answer = self._endpoint.ask(form.of(request, schema(form.bounds)), until)
        except (Refused, Failed) as error:
            if form.way == "text" or (isinstance(error, Refused) and error.is_too_long):
                raise
            answer = self._endpoint.ask(request, until)  # refused again: then it was not the form
            if isinstance(error, Refused):
                self._refused.add(form.way)
        text = the_object(answer.text)
        if is_object(text):
            self._unreadable = 0
        elif not answer.cut_off:
            self._unreadable += 1
        return replace(answer, text=text, said=answer.text)

    def look(self) -> Form:
        """Finds out what the endpoint can do now, and remembers it. It has the time of one question in all. Raises
        NoAnswer."""
        until = time.monotonic() + self._endpoint.seconds
        return self._look(until, until)

    def _look(self, until: float, until_sure: float) -> Form:
        self._form, is_sure = self._probe(until, until_sure)
        self._unreadable = self._since_look = 0
        if is_sure:
            _remember(self._whose, self._form)
        return self._form

    def _known(self, until: float) -> Form:
        form = self._form = self._form or _remembered(self._whose)
        is_lost = self._unreadable >= UNREADABLE_ANSWERS and self._since_look >= QUESTIONS_BETWEEN_LOOKS
        if form is None or form.way in self._refused or is_lost:
            now = time.monotonic()
            return self._look(until, now + (until - now) / 2)  # the question itself wants the other half
        return form

    def _probe(self, until: float, until_sure: float) -> tuple[Form, bool]:
        """The first form that works, and whether it would be the same tomorrow: a fault may pass.

        until: the latest moment for a first answer. until_sure: for the others; then words alone will do."""
        tokens, is_sure, is_there = PROBE_TOKENS, True, False
        for way in WAYS:
            if way in self._refused:
                continue
            try:
                answer = self._probe_answer(way, tokens, until_sure if is_there else until)
                is_there = True
                if answer.cut_off and tokens < MOST_PROBE_TOKENS:
                    with suppress(Refused):  # more than the model has room for
                        answer = self._probe_answer(way, MOST_PROBE_TOKENS, until_sure)
                        tokens = MOST_PROBE_TOKENS
            except (Refused, Failed) as error:
                if way == "text":
                    raise
                is_sure = is_sure and isinstance(error, Refused)
                continue
            except NoAnswer:
                if is_there and time.monotonic() >= until_sure:  # it is slow
                    return Form("text"), False
                raise
            if form := _shown(way, answer.text):
                return form, is_sure
        raise AssertionError("any answer will do for text")

    def _probe_answer(self, way: Way, tokens: int, until: float) -> Answer:
        request = {
            "model": self._model,
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
            "max_tokens": tokens,
        }
        return self._endpoint.ask(Form(way).of(request, SCHEMA), until)


def _shown(way: Way, text: str) -> Form | None:
    """What an answer to the question shows of the way in which it was asked; None: it was ignored."""
    if way == "text":
        return Form(way)
    if not is_object(text):
        return None
    if way == "json_object":
        return Form(way)
    match json.loads(text):
        case {"word": "quartz", "number": number, **more} if not more and type(number) in (int, float):
            return Form(way, bounds=5 <= number <= 6)
    return None


# --- what is remembered ---


def _remembered(whose: tuple[str, str]) -> Form | None:
    return next((form for one, form in _all_remembered() if one == whose), None)


def _all_remembered() -> list[tuple[tuple[str, str], Form]]:
    """Whose form is which, the latest last; nothing where the file cannot be read."""
    try:
        with (cache_folder() / FILE).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        entries = json.loads(data) if len(data) <= MOST_BYTES else []
    except (OSError, ValueError, RecursionError):
        return []
    return [found for entry in entries if (found := _entry(entry))] if isinstance(entries, list) else []


def _entry(entry: object) -> tuple[tuple[str, str], Form] | None:
    match entry:
        case {"address": str(address), "model": str(model), "way": way, "bounds": bool(bounds)} if way in WAYS:
            return (address, model), Form(way, bounds)
    return None


def _remember(whose: tuple[str, str], form: Form) -> None:
    """For the next process. One that cannot be written down is found out again."""
    others = [entry for entry in _all_remembered() if entry[0] != whose]
    kept = [*others, (whose, form)][-MOST_REMEMBERED:]
    entries = [{"address": address, "model": model, **asdict(one)} for (address, model), one in kept]
    with suppress(OSError):
        folder = cache_folder()
        part = folder / f"endpoints-{os.getpid()}.part"
        try:
            part.write_text(json.dumps(entries, indent=1))
            part.replace(folder / FILE)
        finally:
            part.unlink(missing_ok=True)
