"""Speaks to an OpenAI-compatible endpoint: one question, one answer of bounded size in bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl

import openai

from autoresearch import untrusted, words
from autoresearch.errors import UserError
from autoresearch.proposers.background import in_background
from autoresearch.proposers.completion import Answer, NoAnswer, is_web_page, read_completion
from autoresearch.proposers.proposer import Meter, Taken
from autoresearch.secrecy import Secrets, without_credentials
from rails import clean

# After decompression: 600 MiB of zeros fit into half a MiB of gzip.
MAX_BODY_BYTES = 32 * 2**20
# Characters of an error that are looked at.
MAX_SAID = 4096
TOO_LONG = ("context length", "context_length", "context size", "context window")
# What is read is JSON, so UTF-8, whatever its type is said to be.
_NOT_OF_THE_BODY_READ = {"content-encoding", "content-length", "content-type", "transfer-encoding"}


class Refused(NoAnswer):
    """The endpoint does not take the question in this form."""

    @property
    def is_too_long(self) -> bool:
        """Told by what common servers say of a question that is beyond the model's context."""
        return any(phrase in str(self).lower() for phrase in TOO_LONG)


class Failed(NoAnswer):
    """The endpoint has a fault of its own: it is down, or could not cope with this form this time."""


class ChatEndpoint:
    """One address. A question has `timeout_seconds` at most, its retries included.

    `address` and what it says of an error are without the key and without the credentials in `base_url`, which only
    requests hold. Raises UserError for an address that is none.
    """

    def __init__(self, base_url: str, key: str | None, timeout_seconds: float, max_retries: int) -> None:
        key = (key or "").strip()
        self.secrets = Secrets.of(key, base_url)
        self.address = self.secrets.cut(without_credentials(base_url))
        self.seconds = timeout_seconds
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
        self._meter: Meter | None = None
        self._taken: list[Taken] = []
        try:
            self._client = self._connect()
        except Exception as error:
            raise UserError(
                f"the language model's address {self.address!r} cannot be used: {self._say(str(error))}"
            ) from None

    def metered_by(self, meter: Meter) -> None:
        """From now on questions are metered, if the address is this machine's own."""
        self._meter = meter if _is_here(self._client.base_url.host) else None

    def taken(self) -> list[Taken]:
        """The energy of the questions since this was last asked for, also of those without an answer."""
        taken, self._taken = self._taken, []
        return taken

    def ask(self, request: dict[str, Any], until: float) -> Answer:
        """Raises NoAnswer, its reason without secrets, and nothing else, whatever the endpoint does.

        until: the latest moment for an answer, in seconds of time.monotonic()."""
        if self._meter is None:
            return self._ask(request, until)
        self._meter.begin()
        try:
            return self._ask(request, until)
        finally:
            if (taken := self._meter.end()) is not None:
                self._taken.append(taken)

    def _ask(self, request: dict[str, Any], until: float) -> Answer:
        client = self._client
        late = NoAnswer(f"no whole answer in {words.duration(self.seconds)}")
        if (seconds := min(self.seconds, until - time.monotonic())) <= 0:
            raise late
        answer = in_background(
            lambda: read_completion(client.chat.completions.with_raw_response.create(**request).http_response.content)
        )
        try:
            return answer.result(seconds)
        except NoAnswer as error:
            raise NoAnswer(self._say(str(error))) from None
        except (TimeoutError, openai.APITimeoutError):
            self.hang_up()
            raise late from None
        except (openai.BadRequestError, openai.UnprocessableEntityError, openai.NotFoundError) as error:
            raise Refused(self._say(_status(error))) from None
        except openai.InternalServerError as error:
            kind = {500: Failed, 501: Refused}.get(error.status_code, NoAnswer)
            raise kind(self._say(_status(error))) from None
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


def _is_here(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _status(error: openai.APIStatusError) -> str:
    """An answer with another status than 200, in words."""
    status = error.status_code
    if 300 <= status < 400:
        there = error.response.headers.get("location", "nowhere")
        return f"status {status}, it sends elsewhere, to {without_credentials(there)}: give that address if it is yours"
    body = error.response.text
    # The library tells an OpenAI message alone; others have theirs elsewhere.
    said = "a web page" if is_web_page(body) else str(error).partition(" - ")[2] or body or "nothing said"
    return f"{type(error).__name__}: status {status}: {said}"
