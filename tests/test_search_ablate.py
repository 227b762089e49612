"""The ablations of the language model's proposer: what they say of a night is what was answered in it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
from endpoint import Endpoint, completion
from search import ablate
from studies import BAD, GOOD, change

from rails import Value
from trainer.protocol import RunResult

RUNS = 25
# Each with the rail that blocks it. No change but of lr is ever proposed, so that a bad one stays known.
ANSWERS = [
    ("schema", "Warm up for longer."), ("range", change("lr", 99.0)), (None, change("lr", BAD)),
    ("menu", change("depth", 3)), (None, change("lr", GOOD)),
    ("novelty", change("lr", BAD)), (None, change("lr", 0.02)),
]  # fmt: skip


class Valley:
    """A world whose best learning rate is GOOD."""

    def truth(self, recipe: Mapping[str, Value]) -> float:
        return 2.5 + 0.1 * abs(math.log(float(recipe["lr"]) / GOOD))

    def run(self, recipe: Mapping[str, Value], seed: int, night: int) -> RunResult:
        score = self.truth(recipe) + random.Random(f"{night}/{seed}/{sorted(recipe.items())}").gauss(0, 0.005)
        return RunResult("run", seed, "complete", val_bpb=score, test_bpb=score, total_seconds=10.0)


def cells(table: str, arm: str) -> dict[str, str]:
    """Of all tables in a text, by heading."""
    found: dict[str, str] = {}
    heading: list[str] = []
    for line in table.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        heading = row if row[0] == "arm" else heading
        if row[0] == arm:
            found |= dict(zip(heading, row, strict=True))
    return found


def test_the_figures_of_an_ablation_are_those_of_what_was_answered(endpoint: Endpoint) -> None:
    def answer(request: dict[str, Any]) -> tuple[int, str]:
        n = len(endpoint.requests) - 1
        return 200, completion(ANSWERS[n][1] if n < len(ANSWERS) else change("lr", round(0.02 + 0.0001 * n, 4)))

    endpoint.answer = answer
    nights = list(ablate.ended(Valley(), ["gp", "llm"], nights=1, runs=RUNS, at_once=1))
    gp, llm = ablate.rows(nights)
    told = cells(ablate.as_markdown([gp, llm], RUNS), "llm")

    asked = len(endpoint.requests)
    blocked = [rail for rail, _ in ANSWERS if rail]
    assert asked > len(ANSWERS)
    assert told["answers"] == f"{asked:.1f}" and told["of the model"] == told["trials"] == f"{asked - len(blocked):.1f}"
    assert told["valid"] == f"{(asked - 3) / asked:.3f}"
    assert {name: told[name] for name in told if name.startswith("blocked")} == {
        f"blocked by {rail}": f"{1 / asked:.3f}" for rail in blocked
    }
    assert (told["knobs of the model"], told["bits of knobs"], told["knobs touched"]) == ("1.0", "0.00", "1.0")
    assert (told["tokens read"], told["tokens written"], told["share left to it"]) == ("700", "30", "-")
    assert (told[f"{RUNS} runs"], told["keeps"]) == ("2.5000", "1.0")

    of_gp = gp.figures[ablate.WHOLE]
    assert of_gp and llm.against and llm.against.mean == pytest.approx(2.5 - of_gp.mean)
    assert (gp.against, gp.p, gp.figures["valid"]) == (None, None, None)
    assert "valid" not in cells(ablate.as_markdown([gp, llm], RUNS), "gp")


def test_questions_that_a_model_leaves_unanswered_are_counted_and_the_night_goes_on(endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (401, json.dumps({"error": {"message": "no such key"}}))
    (night,) = ablate.ended(Valley(), ["llm"], nights=1, runs=10, at_once=1)
    assert night.figures["without an answer"] == len(endpoint.requests) > 0
    assert (night.figures["trials of the model"], night.figures["valid"]) == (0, None)


def test_paired_nights_tell_an_arm_from_the_optimizer() -> None:
    def night(arm: str, number: int, score: float) -> ablate.Night:
        return ablate.Night(arm, number, {ablate.WHOLE: score})

    nights = [night("gp", n, 2.2 + 0.1 * n) for n in range(8)]
    nights += [night("hybrid", n, 2.21 + 0.1 * n + 0.001 * (n % 2)) for n in reversed(range(8))]
    gp, hybrid = ablate.rows(nights)
    assert gp.against is None and hybrid.against and hybrid.p
    assert hybrid.against.mean == pytest.approx(0.0105) and hybrid.against.half < 0.001
    assert hybrid.p == pytest.approx(2 / 2**8)
    assert hybrid.val_bpb == sorted(hybrid.val_bpb, key=lambda value: value or 0)


def test_an_endpoint_that_is_not_configured_or_does_not_answer_is_one_line(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def line() -> str:
        with pytest.raises(SystemExit) as ended:
            ablate.main(["--nights", "1"])
        said = capsys.readouterr()
        assert ended.value.code == 2 and said.out == "" and said.err.count("\n") == 1
        return said.err

    monkeypatch.setattr(endpoint, "shown", lambda request: (401, json.dumps({"error": {"message": "no such key"}})))
    assert "test/model at" in (said := line()) and "does not answer" in said and "no such key" in said
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "no language model is configured" in line()
