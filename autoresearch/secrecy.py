"""What must never be written down: keys and the credentials in an address, cut out of text wherever they turn up."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

from rails import clean

CUT = "[secret]"
# Shorter ones cannot be told from ordinary text, those of up to WHOLE_WORDS characters only where they stand alone.
SHORTEST = 4
WHOLE_WORDS = 7
_SECRET_PARAMETER = re.compile("key|token|secret|pass|auth|sig|code|credential", re.IGNORECASE)
# Greedy: a password with an @ or a / in it that nobody has quoted is still one.
_ADDRESS = re.compile(r"^(?P<scheme>[a-z][a-z0-9+.-]*://)?(?:(?P<user>.*)@)?(?P<rest>.*)$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Secrets:
    """The texts that nobody may read later."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, key: str | None, address: str) -> Secrets:
        """An API key, and what an address holds: user:password@ and parameters such as ?api_key=..."""
        words = {spelt for word in [key or "", *_credentials(address)] for spelt in _spellings(word)}
        return cls(tuple(sorted((word for word in words if len(word) >= SHORTEST), key=len, reverse=True)))

    def cut(self, text: str) -> str:
        """The text without them, also where signs that are never shown stand in between."""
        text = self._cut(text)
        shown = clean(text, len(text))
        return text if self._cut(shown) == shown else self._cut(shown)

    def _cut(self, text: str) -> str:
        for word in self.words:
            if word not in text:
                continue
            if len(word) > WHOLE_WORDS:
                text = text.replace(word, CUT)
            else:
                text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", lambda found: CUT, text)
        return text


def without_credentials(address: str) -> str:
    """An address as it may be shown: without user, password and parameters."""
    parts = _parts(address)
    return parts["scheme"] + re.split("[?#]", parts["rest"], maxsplit=1)[0]


def _parts(address: str) -> dict[str, str]:
    found = _ADDRESS.match(address.strip())
    assert found is not None, "every text matches"
    return found.groupdict("")


def _credentials(address: str) -> Iterator[str]:
    parts = _parts(address)
    user, _, password = parts["user"].partition(":")
    if password:
        yield parts["user"]
        yield b64encode(unquote(parts["user"]).encode()).decode()  # as the header has it
    yield password or user
    for name, value in parse_qsl(address.partition("?")[2].partition("#")[0]):
        if _SECRET_PARAMETER.search(name):
            yield value


def _spellings(word: str) -> set[str]:
    """A text as it is, in an address, and in JSON."""
    plain = unquote(word.strip())
    return {word.strip(), plain, quote(plain, safe=""), json.dumps(plain)[1:-1]}
