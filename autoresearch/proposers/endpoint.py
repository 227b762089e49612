"""Speaks to an OpenAI-compatible endpoint: one question, one answer of bounded size in bounded time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import openai

from autoresearch import untrusted, words
from autoresearch.errors import UserError
from autoresearch.proposers.background import in_background
from autoresearch.secrecy import Secrets, without_credentials
from rails import clean

# After decompression: 600 MiB of zeros fit into half a MiB of gzip.
MAX_BODY_BYTES = 32 * 2**20
# Characters of an error that are looked at.
MAX_SAID = 4096
_NOT_OF_THE_BODY_READ = {"content-encoding", "content-length", "transfer-encoding"}


class NoAnswer(Exception):
    """Why there is none, in words, without secrets."""


class Refused(NoAnswer):
    """The endpoint does not take the question in this form."""


@dataclass(frozen=True)
class Answer:
    """What the model said, untrusted; None: not counted. `cut_off`: it had used up its tokens."""

    text: str
    cut_off: bool
    prompt_tokens: int | None
    completion_tokens: int | None


class ChatEndpoint:
    """One address. A question has `timeout_seconds` in all, its retries included.

    `address` and what it says of an error are without the key and without the credentials in `base_url`, which only
    requests hold. Raises UserError for an address that is none.
    """

    def __init__(self, base_url: str, key: str | None, timeout_seconds: float, max_retries: int) -> None:
        key = (key or "").strip()
        self.address = without_credentials(base_url)
        self.secrets = Secrets.of(key, base_url)
        self._seconds = timeout_seconds
        # A question mark in the base URL would swallow the path of the request.
        url, _, parameters = base_url.strip().partition("#")[0].partition("?")
        self._connect: Callable[[], openai.OpenAI] = lambda: openai.OpenAI(
            base_url=url,
            api_key=key or "none",  # a local server wants no key
            default_query=dict(parse_qsl(parameters, keep_blank_values=True)) or None,
            timeout=timeout_seconds,
            max_retries=max_retries,  # with exponential backoff, also on 429 and 5xx
            http_client=_BoundedClient(timeout_seconds),
        )
        try:
            self._client = self._connect()
        except Exception as error:
            raise UserError(
                f"the language model's address {self.address!r} cannot be used: {self._say(str(error))}"
            ) from None

    def ask(self, request: dict[str, Any]) -> Answer:
        """Raises NoAnswer, and nothing else, whatever the endpoint does."""
        client = self._client
        answer = in_background(
            lambda: _answer(client.chat.completions.with_raw_response.create(**request).http_response.content)
        )
        try:
            return answer.result(self._seconds)
        except NoAnswer as error:
            raise NoAnswer(self._say(str(error))) from None
        except (TimeoutError, openai.APITimeoutError):
            self.hang_up()
            raise NoAnswer(f"no whole answer in {words.duration(self._seconds)}") from None
        except (openai.BadRequestError, openai.UnprocessableEntityError, openai.NotFoundError) as error:
            raise Refused(self._say(_status(error))) from None
        except openai.APIStatusError as error:
            raise NoAnswer(self._say(_status(error))) from None
        except Exception as error:  # also what a library makes of an answer that nobody foresaw
            cause = error.__cause__ or error
            raise NoAnswer(self._say(f"{type(cause).__name__}: {cause}")) from None

    def hang_up(self) -> None:
        """Ends a question that is being asked; the next one gets a new connection."""
        left, self._client = self._client, self._connect()
        in_background(left.close)  # may wait for whoever is just reading from it

    def _say(self, text: str) -> str:
        return clean(self.secrets.cut(untrusted.text(text))[:MAX_SAID], 200)


class _BoundedClient(openai.DefaultHttpxClient):
    """Reads an answer up to a size and for a time, both of the whole and not of a piece. Follows no redirects: the key
    is for the address that a person gave."""

    def __init__(self, seconds: float) -> None:
        super().__init__(timeout=seconds, follow_redirects=False)
        self._seconds = seconds

    def send(self, request: Any, *, stream: bool = False, **more: Any) -> Any:
        deadline = time.monotonic() + self._seconds
        response = super().send(request, stream=True, **more)
        body = bytearray()
        try:
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise _TooLong(f"its answer is over {words.size(MAX_BODY_BYTES)}")
                if time.monotonic() > deadline:
                    raise openai.APITimeoutError(request)
        finally:
            response.close()
        headers = [(name, value) for name, value in response.headers.items() if name not in _NOT_OF_THE_BODY_READ]
        return type(response)(response.status_code, headers=headers, content=bytes(body), request=request)


class _TooLong(NoAnswer, openai.OpenAIError):
    """Being one of the library's own errors, it is not tried again: the next answer would be as long."""


def _answer(body: bytes) -> Answer:
    """What a chat completion says. Raises NoAnswer where the body is none."""
    text = body.decode("utf-8-sig", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if _is_web_page(text):
            raise NoAnswer(
                "it answers with a web page, not with a chat completion: is the address right? It usually ends in /v1"
            ) from None
        raise NoAnswer(f"it answers with something else than a chat completion: {text or 'nothing'}") from None
    match found:
        case {"choices": [{"message": dict(message), **choice}, *_]}:
            usage = found.get("usage")
            usage = usage if isinstance(usage, dict) else {}
            return Answer(
                untrusted.text(message.get("content")),
                choice.get("finish_reason") == "length",
                untrusted.whole_number(usage.get("prompt_tokens")),
                untrusted.whole_number(usage.get("completion_tokens")),
            )
        case {"error": error} if error:
            raise NoAnswer(f"it answers with an error: {untrusted.text(error)}")
    raise NoAnswer(f"there is no message in its answer: {text}")


def _is_web_page(text: str) -> bool:
    return text.lstrip()[:1] == "<"


def _status(error: openai.APIStatusError) -> str:
    """An answer with another status than 200, in words."""
    status = error.status_code
    if 300 <= status < 400:
        there = error.response.headers.get("location", "nowhere")
        return f"status {status}, it sends elsewhere, to {without_credentials(there)}: give that address if it is yours"
    said = error.response.text
    return f"{type(error).__name__}: status {status}: {'a web page' if _is_web_page(said) else error}"
