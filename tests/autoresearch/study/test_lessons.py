"""Lessons in a study: stored with their trial, rebuilt as they stood at any trial, fallen when trials deny them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Command
from endpoint import KEY, Endpoint, assert_nowhere, completion
from studies import BAD, GOOD, MACHINE, change, make_study, query, run_study

from autoresearch.config import ProposerSettings
from autoresearch.proposers.classic import RandomProposer, ScriptedProposer
from autoresearch.proposers.llm import LlmProposer
from autoresearch.proposers.prompt import render
from autoresearch.study import history
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import History, Lesson, Proposal, Reflection

SHORT: dict[str, Any] = {"decision__baseline_runs": 2, "decision__reference_runs": 2, "decision__max_runs": 2}
LESSON = Lesson("lr", "other value", "helps", (1,), "another rate is better")
OTHER = Lesson("d_ff", "lower", "hurts", (1,), "less is worse")
ASKED = Reflection("the question", '{"lessons": []}', "some/model", 1.5, 700, 30, (LESSON, OTHER), "1 left out")


class Thinker:
    """Answers from a script, gives its lessons with trial 2, and remembers what it was shown."""

    name = "thinker"

    def __init__(self, answers: list[str]) -> None:
        self.script, self.shown = ScriptedProposer(answers), dict[int, History]()

    def propose(self, known: History) -> Proposal:
        self.shown[known.number] = known
        raw = self.script.propose(known).raw
        return Proposal(raw, self.name, reflection=ASKED if known.number == 2 else None)


def test_lessons_stand_from_the_next_trial_until_later_ones_deny_them_and_so_they_are_rebuilt(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    thinker = Thinker([change("lr", GOOD), change("n_head", 8), change("lr", BAD), change("n_head", 1), "no JSON"])
    run_study(folder, proposer=thinker, workers=1)
    again = StudyFolder(tmp_path, "one")
    found = {number: list(history.at(again, number).lessons) for number in thinker.shown if number < 6}
    assert found == {1: [], 2: [], 3: [LESSON, OTHER], 4: [OTHER], 5: [OTHER]}, "trial 3 was worse with another lr"
    for number, known in thinker.shown.items():
        if number < 6:
            rebuilt = history.at(folder, number)
            assert (rebuilt.lessons, rebuilt.reflected) == (known.lessons, known.reflected)
            assert render(rebuilt) == render(known) == render(history.at(again, number))
    assert history.now(folder, MACHINE, 0).reflected == 2 and history.at(folder, 2).reflected == 0
    assert "another rate is better" in render(history.at(folder, 3))
    assert "Lessons" not in render(history.at(folder, 2))


def test_what_was_asked_and_answered_is_kept_with_the_trial_and_shown(tmp_path: Path, command: Command) -> None:
    folder = make_study(tmp_path / "home", **SHORT)
    run_study(folder, proposer=Thinker([change("lr", GOOD), change("n_head", 8), change("lr", BAD)]), workers=1)
    assert folder.store.reflection(2) == ASKED and folder.store.reflection(1) is None
    totals = folder.store.totals()
    assert (totals["prompt_tokens"], totals["completion_tokens"]) == (700, 30), "they cost what other tokens cost"
    *asked, taken = command("show", "one", "2", "--lessons").out.split("\n\n")
    assert asked == ["the question", '{"lessons": []}', "1 left out"]
    lines = taken.splitlines()
    assert len(lines) == 2 and lines[0].startswith(
        "lr, other value: helps (trial 1): another rate is better - trial says otherwise (3): "
    )
    assert lines[1] == "d_ff, lower: hurts (trial 1): less is worse - stands"
    refused = command("show", "one", "1", "--lessons")
    assert refused.code == 2 and "no lessons were asked for with trial 1" in refused.err


def test_a_trial_and_its_lessons_are_written_down_together_or_not_at_all(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    broken = Lesson("lr", "sideways", "helps", (1,), "")  # type: ignore[arg-type]
    asked = Reflection("q", None, "m", 0.0, None, None, (LESSON, broken))
    with pytest.raises(Exception, match="CHECK"):
        folder.store.open_trial(0, Proposal("{}", "thinker", reflection=asked))
    assert [len(query(folder, f"SELECT * FROM {table}")) for table in ("trials", "reflections", "lessons")] == [1, 0, 0]


def night(folder: StudyFolder, endpoint: Endpoint, lessons: tuple[int, str]) -> None:
    """Eight trials that fail, asked of a model."""

    def answer(request: dict[str, Any]) -> tuple[int, str]:
        if "You sum up" in request["messages"][0]["content"]:
            return lessons
        number = int(request["messages"][1]["content"].rpartition("Propose trial ")[2].rstrip("."))
        return 200, completion(change("beta1", 0.5 + number / 100))

    endpoint.answer = answer
    proposer = LlmProposer(ProposerSettings(reflect=True, max_retries=0), RandomProposer())
    run_study(folder, proposer=proposer, trials=8, workers=1)


def test_a_night_of_failures_asks_for_lessons_and_shows_them_from_the_next_trial_on(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    said = {"knob": "beta1", "move": "lower", "effect": "hurts", "trials": [1, 2], "text": "with less it diverges"}
    text = json.dumps({"lessons": [said, {**said, "trials": [99]}]})
    told = []
    for name in ("one", "two"):
        folder = make_study(tmp_path, name, **SHORT)
        night(folder, endpoint, (200, completion(text)))
        assert query(folder, "SELECT trial, answer FROM reflections") == [(6, text)]
        assert history.at(folder, 7).lessons == [Lesson("beta1", "lower", "hurts", (1, 2), "with less it diverges")]
        assert history.at(folder, 6).lessons == []
        prompts = dict(query(folder, "SELECT trial, prompt FROM proposals"))
        line = "- beta1, lower: hurts (trials 1, 2): with less it diverges"
        assert [number for number, shown in prompts.items() if line in shown] == [7, 8]
        ((note,),) = query(folder, "SELECT message FROM events WHERE kind = 'proposer'")
        assert note == "1 of 2 lessons left out: one on beta1 names trial 99, which trained no change of it"
        assert_nowhere(KEY, folder)
        told.append([*prompts.values(), *query(folder, "SELECT prompt FROM reflections")])
    assert told[0] == told[1], "the same study, the same bytes"


def test_a_model_that_gives_no_lessons_costs_a_note_and_no_trial(tmp_path: Path, endpoint: Endpoint) -> None:
    folder = make_study(tmp_path, **SHORT)
    night(folder, endpoint, (503, "{}"))
    assert {trial.proposer for trial in folder.store.trials()[1:]} == {"llm"}
    assert query(folder, "SELECT trial, answer FROM reflections") == [(6, None)], "nor is it asked each time"
    ((note,),) = query(folder, "SELECT message FROM events WHERE kind = 'proposer'")
    assert "asked for lessons" in note and "503" in note
    assert query(folder, "SELECT * FROM lessons") == []
