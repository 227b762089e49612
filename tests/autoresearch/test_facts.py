"""Facts become JSON in one place, whatever they are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autoresearch.facts import ABSENT_IF_NONE, to_bytes, to_json


@dataclass(frozen=True)
class Part:
    name: str
    points: list[list[float]]


@dataclass(frozen=True)
class Whole:
    parts: list[Part]
    by_number: dict[int, Part]
    nothing: None = None


@dataclass(frozen=True)
class Seldom:
    worth: int | None = field(metadata=ABSENT_IF_NONE)


PART = Part("a ± b", [[1, 2.5]])


def test_what_most_never_need_is_absent_where_it_is_none() -> None:
    assert to_json([Seldom(None), Seldom(0)]) == '[{},{"worth":0}]'


def test_dataclasses_within_lists_and_dicts_are_told_by_their_fields() -> None:
    part = {"name": "a ± b", "points": [[1, 2.5]]}
    assert json.loads(to_json(Whole([PART], {7: PART}))) == {
        "parts": [part], "by_number": {"7": part}, "nothing": None
    }  # fmt: skip
    assert to_json([PART]) == '[{"name":"a ± b","points":[[1,2.5]]}]'
    assert to_json(PART, indent=1).splitlines()[1] == ' "name": "a ± b",'


def test_what_is_no_number_and_what_is_no_fact_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(Part("", [[float("nan")]]))
    with pytest.raises(AssertionError, match="PosixPath is no fact"):
        to_json([Path()])


def test_half_a_surrogate_pair_can_be_sent() -> None:
    assert to_bytes(["\ud83d"]) == b'["?"]'
