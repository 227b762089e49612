"""What a chat completion says: the object in prose, thoughts apart, and hostile text read in bounded work."""

from __future__ import annotations

import json

import pytest

from autoresearch.proposers.completion import MOST_SEARCHED, Answer, NoAnswer, is_object, read_completion, the_object

ONE, OTHER = '{"knob": "lr", "new_value": 0.004}', '{"knob": "lr", "new_value": 0.005}'


@pytest.mark.parametrize(
    "text",
    [
        f"Sure! {ONE}",
        f"```json\n{ONE}\n```",
        f"```\n{ONE}\n```\nGood luck!",
        f"I set {{lr}} and not {{d_ff: 3}}: {ONE}",
        f"Open with {{ and then: {ONE}",
        f'He said "go {ONE}',
        f"{ONE}\n{ONE}",
        f"{ONE} again {json.dumps(json.loads(ONE), indent=4)}",
        f"{ONE} }} }}",
        f"{ONE} {{",
    ],
)
def test_one_object_is_found_in_what_is_around_it(text: str) -> None:
    assert the_object(text) == ONE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        f" {ONE}\n",
        f"{ONE} or {OTHER}",
        f"[{ONE}]",
        '{"lr": 1} {"lr": true}',
        '{"lr": 1} {"lr": 1.0}',
        '{"lr": 1} {"lr": 2, "lr": 1}',
        "{'knob': 'lr'}",
        "x " + ONE[:-1],
        'x {"a": ' + "9" * 5000 + "}",
        'x {"a": ' * 5000 + "}" * 5000,
        'x {"a\\',
    ],
)
def test_no_object_or_two_are_left_as_they_are(text: str) -> None:
    assert the_object(text) == text


def test_braces_and_quotes_in_strings_are_text() -> None:
    odd = json.dumps({"knob": "lr", "new_value": 1, "reason": 'a } and a { and "}" and \\'})
    assert the_object(f"Here: {odd} done") == odd
    assert is_object(odd) and not is_object(f"[{odd}]")


@pytest.mark.parametrize("piece", ["{", "}", "{}", "{{}", '{"', '{"a":', '\\"{', '{"\\', '{"a":[', "{}{", '"', "{'}"])
def test_a_hostile_text_of_any_length_is_read(piece: str) -> None:
    for length in (MOST_SEARCHED, 2**22):
        text = "x" + (piece * length)[: length - 1]
        assert the_object(text) in (text, "{}")


# --- a completion ---


def test_thoughts_in_great_number_are_left_out() -> None:
    content = "<think>{}</think>" * 100_000 + ONE
    assert read_completion(json.dumps({"choices": [{"message": {"content": content}}]}).encode()).text == ONE
    opened = "<think>" * 100_000
    assert read_completion(json.dumps({"choices": [{"message": {"content": opened}}]}).encode()).text == ""


def test_a_stream_tells_what_a_whole_answer_tells() -> None:
    chunks: list[object] = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": ONE[:5]}}], "usage": {"prompt_tokens": 7, "completion_tokens": 1}},
        {"choices": [{"delta": {"content": ONE[5:]}, "finish_reason": "length"}], "usage": None},
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}},
    ]
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    assert read_completion(stream.encode()) == Answer(ONE, True, 7, 9)


@pytest.mark.parametrize(
    "body",
    [
        b"data:",
        b"data: {}\n" * 5,
        b"data: " + b"[" * 100_000,
        b": nothing\n" * 1000,
        b"data: [DONE]\n",
        b"event: x",
        b'data: {"choices": [{"delta": null}]}',
        b"\xff\xfe",
        b'{"choices": {"0": 1}}',
    ],
)
def test_what_is_no_completion_raises_no_answer_and_nothing_else(body: bytes) -> None:
    with pytest.raises(NoAnswer):
        read_completion(body)
