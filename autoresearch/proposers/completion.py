"""What a chat completion says, whole or as a stream: the model's answer apart from its thoughts, and the JSON in it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from autoresearch import untrusted

MOST_EVENTS = 100_000  # of a stream
# Beyond it an answer is no proposal, whatever is in it, and is not searched for one.
MOST_SEARCHED = 2**18

_OPEN, _CLOSE = "<think>", "</think>"
_BEGINS_AS_JSON = re.compile(r"\s*(?:\{|```)")
# A brace, or a whole string of JSON; one without an end goes on to the end of the text, so that none is read twice.
_MARK = re.compile(r'[{}]|"(?:[^"\\]|\\.?)*+(?:"|\Z)', re.DOTALL)


class NoAnswer(Exception):
    """Why there is none, in words."""


@dataclass(frozen=True)
class Answer:
    """What the model said, untrusted; None: not counted. `cut_off`: it had used up its tokens. `said`: the whole, where
    the text is a part of it."""

    text: str
    cut_off: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    said: str = ""


def read_completion(body: bytes) -> Answer:
    """The answer in the body of a reply. Raises NoAnswer where there is none, its reason untrusted too."""
    text = body.decode("utf-8-sig", "replace")
    if text.lstrip().startswith(("data:", "event:", ":")):
        return _streamed(text)
    match found := _json(text):
        case {"choices": [{"message": dict(message), **choice}, *_]}:
            said = _without_thoughts(_text(message.get("content")))
            # A message that says nothing may call a tool instead: what it was to be called with is the answer.
            return _answer(said if said.strip() else _arguments(message) or said, choice, found.get("usage"))
        case {"error": error} if error:
            raise NoAnswer(f"it answers with an error: {untrusted.text(error)}")
    raise NoAnswer(f"there is no message in its answer: {text}")


def is_web_page(text: str) -> bool:
    return text.lstrip()[:1] == "<"


def the_object(text: str) -> str:
    """The one JSON object of a text, without the prose or the code fence around it; the text itself where it is JSON
    as it stands, and where there is no object or another one beside it, which the rails then say."""
    if len(text) > MOST_SEARCHED or _spelling(text):
        return text
    one, spelling = text, ""
    for block in _blocks(text):
        if found := _spelling(block):
            if spelling and found != spelling:
                return text
            one, spelling = (one, spelling) if spelling else (block, found)
    return one


def is_object(text: str) -> bool:
    """Whether it is one JSON object and nothing else."""
    return _spelling(text).startswith("(")


# --- a body ---


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if is_web_page(text):
            raise NoAnswer(
                "it answers with a web page, not with a chat completion: is the address right? It usually ends in /v1"
            ) from None
        raise NoAnswer(f"it answers with something else than a chat completion: {text or 'nothing'}") from None


def _streamed(text: str) -> Answer:
    """The answer of a stream, which nobody asked for. One that breaks off is read as far as it goes."""
    said: list[str] = []
    arguments: list[str] = []
    usage: object = None
    last: dict[str, Any] = {}
    is_message = False
    for event in _events(text):
        if not isinstance(event, dict):
            continue
        if error := event.get("error"):
            raise NoAnswer(f"it answers with an error: {untrusted.text(error)}")
        usage = event.get("usage") or usage
        match event:
            case {"choices": [dict(choice), *_]} if isinstance(
                piece := choice.get("delta", choice.get("message")), dict
            ):
                is_message = True
                said.append(_text(piece.get("content")))
                arguments.append(_arguments(piece))
                last = choice if choice.get("finish_reason") else last
    if not is_message:
        raise NoAnswer(f"there is no message in its answer: {text}")
    answer = _without_thoughts("".join(said))
    return _answer(answer if answer.strip() else "".join(arguments) or answer, last, usage)


def _events(text: str) -> Iterator[Any]:
    count = 0
    for line in io.StringIO(text):
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        count += 1
        if count > MOST_EVENTS:
            raise NoAnswer(f"its answer is a stream of over {MOST_EVENTS:,} events")
        yield _json(data)


def _answer(text: str, choice: dict[Any, Any], usage: object) -> Answer:
    counts = usage if isinstance(usage, dict) else {}
    return Answer(
        text,
        choice.get("finish_reason") == "length",
        untrusted.whole_number(counts.get("prompt_tokens")),
        untrusted.whole_number(counts.get("completion_tokens")),
    )


# --- a message ---


def _text(content: object) -> str:
    """Of the content of a message, a text or a list of parts; parts that are thoughts are not of it."""
    if isinstance(content, list):
        content = [part for part in content if not _is_thought(part)] or (None if content else content)
    return untrusted.text(content)


def _is_thought(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") in ("thinking", "reasoning")


def _without_thoughts(text: str) -> str:
    """What is said beside thinking aloud; nothing where the thinking has not ended."""
    if _OPEN not in text and _CLOSE not in text:
        return text
    at, said = 0, []
    if not _BEGINS_AS_JSON.match(text):
        first = text.find(_CLOSE)
        if first >= 0 and _OPEN not in text[:first]:  # some templates open the thoughts in the question
            at = first + len(_CLOSE)
    # What begins as an answer may speak of the tag.
    while not _BEGINS_AS_JSON.match(text, at) and (opened := text.find(_OPEN, at)) >= 0:
        said.append(text[at:opened])
        closed = text.find(_CLOSE, opened)
        at = len(text) if closed < 0 else closed + len(_CLOSE)
    return "".join([*said, text[at:]]).strip()


def _arguments(message: dict[str, Any]) -> str:
    """What the first tool that a message calls is called with, or a piece of it."""
    match message:
        case {"tool_calls": [{"function": {"arguments": given}, **call}, *_]} if call.get("index") in (None, 0):
            return untrusted.text(given)
        case {"function_call": {"arguments": given}}:
            return untrusted.text(given)
    return ""


# --- an object ---


def _spelling(text: str) -> str:
    """The same for JSON that differs in white space alone, objects in round brackets; nothing where it is none."""
    try:
        return repr(json.loads(text, object_pairs_hook=tuple))  # which keeps repeated keys, for the rails to see
    except (ValueError, RecursionError):
        return ""


def _blocks(text: str) -> Iterator[str]:
    """The text between outermost pairs of braces, both included. Quotes count within braces alone: there is prose
    around. A brace that is never closed is prose too."""
    opened: list[int] = []
    pairs: list[tuple[int, int]] = []
    at = text.find("{")
    while at >= 0 and (mark := _MARK.search(text, at)):
        at = mark.end()
        if mark[0] == "{":
            opened.append(mark.start())
        elif mark[0] == "}":
            start = opened.pop()
            while pairs and pairs[-1][0] > start:
                pairs.pop()
            pairs.append((start, at))
        if not opened:
            at = text.find("{", at)
    return (text[start:end] for start, end in pairs)
