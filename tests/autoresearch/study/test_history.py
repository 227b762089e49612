"""What a proposer knew: rebuilt for any trial it equals, field by field, what its proposer was in fact shown."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sqlite3
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import published
import pytest
from studies import BAD, GOOD, MACHINE, change, make_study, query, run_study

from autoresearch.errors import UserError
from autoresearch.exchange import export_study, import_study
from autoresearch.proposers import Proposer
from autoresearch.proposers.classic import RandomProposer, ScriptedProposer
from autoresearch.proposers.prompt import render, whole_prompt
from autoresearch.proposers.tpe import TpeProposer
from autoresearch.study import history
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.study.store import Store
from autoresearch.trial import History, Proposal, Run
from rails import gate
from trainer.protocol import RunResult

EXAMPLE = Path(__file__).parents[3] / "trajectories" / "example" / "trajectory.jsonl"
SHORT: dict[str, Any] = {"decision__baseline_runs": 2, "decision__reference_runs": 3, "decision__max_runs": 3}
# Kept twice, so that the incumbent moves; failed, blocked, unreadable, and repeated.
STORY = [
    change("lr", 0.002), change("beta1", 0.55), change("lr", 99), "no JSON", change("lr", 0.0039), change("d_ff", 256),
    change("n_head", 8), change("lr", BAD), change("n_head", 8), change("weight_decay", 0.125), change("seq_len", 128),
]  # fmt: skip


class Recorder:
    """Keeps what the proposer behind it was shown, in files, which outlive a kill."""

    def __init__(self, behind: Proposer, place: Path) -> None:
        self.behind, self.place, self.name = behind, place, behind.name
        place.mkdir(exist_ok=True)

    def propose(self, known: History) -> Proposal:
        (self.place / f"{known.number}.pickle").write_bytes(pickle.dumps(known))
        return self.behind.propose(known)

    def shown(self) -> dict[int, History]:
        return {int(file.stem): pickle.loads(file.read_bytes()) for file in self.place.glob("*.pickle")}


def assert_same(rebuilt: History, shown: History) -> None:
    for field in fields(History):
        assert getattr(rebuilt, field.name) == getattr(shown, field.name), f"trial {shown.number}: {field.name}"
    assert render(rebuilt).encode() == render(shown).encode()


def assert_rebuilt(folder: StudyFolder, recorder: Recorder, at_least: int) -> None:
    """Every trial's history, from this connection and from a new one."""
    trials = folder.store.trials()
    shown = {number: known for number, known in recorder.shown().items() if number < len(trials)}
    assert len(shown) >= at_least
    again = StudyFolder(folder.path.parent, folder.name)
    for number, known in shown.items():
        assert_same(history.at(folder, number), known)
        assert_same(history.at(again, number), known)
    for number in range(1, len(trials)):
        assert history.at(again, number).number == number == len(history.at(again, number).trials)
    again.store.close()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_history_of_any_trial_is_what_its_proposer_was_shown(tmp_path: Path, workers: int) -> None:
    folder = make_study(tmp_path, **SHORT)
    recorder = Recorder(ScriptedProposer(STORY), tmp_path / "shown")
    run_study(folder, proposer=recorder, workers=workers)
    assert {trial.decision or trial.state for trial in folder.store.trials()} >= {
        "keep",
        "discard",
        "failed",
        "blocked",
    }
    assert folder.store.study()["incumbent"] > 1
    assert_rebuilt(folder, recorder, len(STORY) - 1)  # one trial may be a change that is carried over
    seen = [trial for known in recorder.shown().values() for trial in known.trials]
    if workers > 1:
        assert any(trial.state == "running" and trial.number > 0 for trial in seen), "trials were in flight"
    assert len({trial.n_runs for trial in seen if trial.number == 0}) > 1, "the reference got runs meanwhile"


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_so_where_the_proposer_was_asked_ahead_of_need(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Recorder):
        def takes_long(self, known: History) -> bool:
            return True

    monkeypatch.setattr("autoresearch.night.loop.Ahead.is_time", lambda self: True)
    folder = make_study(tmp_path, **SHORT)
    recorder = Slow(ScriptedProposer(STORY), tmp_path / "shown")
    run_study(folder, proposer=recorder, workers=workers)
    ahead = query(folder, "SELECT trial, asked_tick, opened_tick FROM proposals JOIN trials ON trial = number "
                          "WHERE asked_tick IS NOT NULL")  # fmt: skip
    assert len(ahead) > 3 and all(asked < opened for _, asked, opened in ahead)
    shown = recorder.shown()
    for trial, _, _ in ahead:
        rebuilt = history.at(folder, trial)
        assert_same(rebuilt, shown[rebuilt.number])
    ended = query(folder, "SELECT ended_tick FROM runs")
    assert any(asked < tick < opened for (tick,) in ended for _, asked, opened in ahead), "a run ended meanwhile"


def test_it_is_so_for_a_classic_proposer_too(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    recorder = Recorder(TpeProposer(), tmp_path / "shown")
    run_study(folder, proposer=recorder, trials=12)
    assert_rebuilt(folder, recorder, 12)
    for number, known in recorder.shown().items():
        if number < len(folder.store.trials()):
            answer = (folder.store.proposal(number) or {})["raw"]
            assert TpeProposer().propose(history.at(folder, number)).raw == answer, "so it would propose it again"
            assert history.prompt_at(folder, number) == whole_prompt(known), "and a model could have been asked"


def test_a_persons_idea_has_a_history_as_well(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    folder.store.queue_idea(change("lr", 0.002, "mine"))
    recorder = Recorder(ScriptedProposer(["", *STORY[1:4]]), tmp_path / "shown")
    run_study(folder, proposer=recorder, workers=1)
    assert 1 not in recorder.shown(), "nobody was asked for it"
    idea = history.at(folder, 1)
    assert [trial.n_runs for trial in idea.trials] == [2] and idea.limits.memory_bytes == MACHINE.memory_bytes
    assert_rebuilt(folder, recorder, 3)


def test_a_study_that_was_killed_and_gone_on_with_knows_what_it_knew(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    folder.store.close()
    recorder = Recorder(ScriptedProposer(STORY), tmp_path / "shown")

    class Killer(Observer):
        """Ends the process when its ninth run is done, while another one is with a worker."""

        def __init__(self) -> None:
            self.runs = 0

        def run_finished(self, run: Run, result: RunResult) -> None:
            self.runs += 1
            if self.runs == 9:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        run_study(StudyFolder(tmp_path, "one"), proposer=recorder, observer=Killer())
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    folder = StudyFolder(tmp_path, "one")
    before = len(folder.store.trials())
    run_study(folder, proposer=recorder)
    assert 1 < before < len(folder.store.trials())
    assert_rebuilt(folder, recorder, len(STORY) - 1)  # one trial may be a change that is carried over


def test_a_trial_cut_off_before_it_was_judged_is_shown_what_its_proposer_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_study(tmp_path, **SHORT)
    recorder = Recorder(ScriptedProposer(STORY), tmp_path / "shown")

    class Killed(BaseException):
        pass

    def killed(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Store, "start_trial", killed)
        run_study(folder, proposer=recorder, workers=1)
    assert folder.store.trials()[1].state == "proposed"
    run_study(folder, proposer=recorder, workers=1)
    assert_rebuilt(folder, recorder, len(STORY) - 1)  # one trial may be a change that is carried over


def test_settings_that_a_person_edits_later_do_not_change_what_was_shown(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    recorder = Recorder(ScriptedProposer(STORY[:4]), tmp_path / "shown")
    run_study(folder, proposer=recorder, workers=1)
    settings = folder.path / "study.toml"
    text = settings.read_text()
    assert "prior_deviation = 0.009" in text
    settings.write_text(text.replace("prior_deviation = 0.009", "prior_deviation = 0.09"))
    assert_rebuilt(StudyFolder(tmp_path, "one"), recorder, 4)


def test_nothing_of_what_came_later_is_in_it(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    run_study(folder, [change("lr", GOOD), change("d_ff", 256)], workers=1)
    baseline = folder.store.trials()[0]
    first = history.at(folder, 1)
    assert first.trials[0].n_runs == 2 < baseline.n_runs
    runs = [run.val_bpb for run in folder.store.runs(0) if run.val_bpb is not None][:2]
    assert first.trials[0].val_bpb == pytest.approx(sum(runs) / 2) and first.trials[0].val_bpb != baseline.val_bpb
    assert len(first.limits.measurements) == 2
    assert first.recipe == baseline.recipe and history.at(folder, 2).recipe["lr"] == GOOD


def test_the_first_trial_with_a_recipe_is_the_one_that_tried_it(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    run_study(folder, [change("beta1", 0.55), change("lr", BAD)], workers=1)
    trials = folder.store.trials()
    known = history.now(folder, MACHINE, 0)
    assert set(known.tried) == {trial.recipe_key for trial in trials}
    assert known.tried[trials[0].recipe_key].startswith("trial 0 (baseline, val_bpb 2.9")
    assert known.tried[trials[1].recipe_key] == "trial 1 (failed)"
    assert known.tried[trials[2].recipe_key].startswith("trial 2 (discard, val_bpb 3.0")
    with sqlite3.connect(folder.path / "study.db") as database:
        database.execute("UPDATE trials SET recipe_key = ? WHERE number = 2", [trials[1].recipe_key])
    assert history.now(folder, MACHINE, 0).tried[trials[1].recipe_key] == "trial 1 (failed)"


@pytest.mark.parametrize("number", [0, 3, -1])
def test_a_trial_that_nobody_proposed_has_no_history(tmp_path: Path, number: int) -> None:
    folder = make_study(tmp_path, **SHORT)
    run_study(folder, [change("lr", BAD), change("lr", GOOD)], workers=1)
    with pytest.raises(UserError, match="no proposed trial"):
        history.at(folder, number)


def test_a_prompt_that_a_model_was_shown_is_given_back_as_it_was(tmp_path: Path) -> None:
    class Model:
        name = "llm"

        def propose(self, known: History) -> Proposal:
            return Proposal(change("lr", 0.002), "llm", "the very prompt", "some/model")

    folder = make_study(tmp_path, **SHORT)
    run_study(folder, proposer=Model(), trials=1)
    assert history.prompt_at(folder, 1) == "the very prompt"
    run_study(folder, proposer=RandomProposer(), trials=1)
    asked = history.prompt_at(folder, len(folder.store.trials()) - 1)
    assert "lr 0.001 -> 0.002: 2.8" in asked and "You improve the recipe" in asked


# --- studies from elsewhere ---


@pytest.mark.parametrize("source", [EXAMPLE, None], ids=["ours", "published"])
def test_an_imported_trajectory_can_be_rendered_at_every_trial(tmp_path: Path, source: Path | None) -> None:
    file = source or published.write(tmp_path / "published.jsonl")
    folder = import_study(tmp_path / "home", "back", file)
    trials = folder.store.trials()
    assert len(trials) > 25
    for number in range(1, len(trials)):
        known = history.at(folder, number)
        assert [trial.number for trial in known.trials] == list(range(number))
        prompt = history.prompt_at(folder, number)
        assert f"Propose trial {number}." in prompt and f"- trial {number - 1}" in prompt
        raw = TpeProposer().propose(known).raw if number % 10 == 0 else change("lr", GOOD)
        assert gate(raw, known.recipe, known.menu, known.tried, known.limits).reason


def test_in_a_strangers_log_each_trial_ends_before_the_next_begins(tmp_path: Path) -> None:
    folder = import_study(tmp_path, "theirs", published.write(tmp_path / "published.jsonl"))
    for number in (1, 5, 50):
        known = history.at(folder, number)
        assert {trial.state for trial in known.trials} == {"complete"}
        assert known.deviation is None, "our prior knows nothing of another's trainer"
        assert known.limits.budget == {"steps": 60}
    assert history.at(folder, 50).trials[49].val_bpb == published.ITERATIONS[48][2]


def test_a_study_of_ours_that_travelled_knows_what_it_knew(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    run_study(folder, STORY, workers=1)
    export_study(folder, "jsonl", tmp_path / "out.jsonl")
    back = import_study(tmp_path, "back", tmp_path / "out.jsonl")
    at_home = {"commit": None, "merge_commit": None}
    for number in range(1, len(STORY) + 1):
        here, there = history.at(folder, number), history.at(back, number)
        assert render(here) == render(there)
        assert (here.recipe, here.menu, here.tried, here.deviation) == (
            there.recipe, there.menu, there.tried, there.deviation,
        )  # fmt: skip
        assert sorted(map(str, here.limits.measurements)) == sorted(map(str, there.limits.measurements))
        assert [vars(trial) | at_home for trial in here.trials] == [vars(trial) | at_home for trial in there.trials]


# --- databases from before ---


def as_before(folder: StudyFolder) -> None:
    """The database as it was before logical time was kept; another connection than the study's, which is closed."""
    folder.store.close()
    with sqlite3.connect(folder.path / "study.db") as database:
        for table, column in (
            ("studies", "tick"), ("trials", "opened_tick"), ("trials", "closed_tick"), ("runs", "ended_tick"),
            ("proposals", "limits"), ("proposals", "deviation"),
        ):  # fmt: skip
            database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        database.execute("DELETE FROM _sqlite_migrations WHERE name = 'm006_logical_time'")


def moments(folder: StudyFolder) -> list[tuple[int, str, int, int]]:
    """(tick, what, trial, seed) in the order of logical time."""
    found = query(
        folder,
        "SELECT opened_tick, 'open', number, 0 FROM trials UNION ALL "
        "SELECT closed_tick, 'close', number, 0 FROM trials WHERE closed_tick IS NOT NULL UNION ALL "
        "SELECT ended_tick, 'run', trial, seed FROM runs WHERE ended_tick IS NOT NULL",
    )
    return sorted(found)


def test_every_moment_has_a_tick_of_its_own(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    run_study(folder, STORY)
    found = moments(folder)
    assert [tick for tick, *_ in found] == list(range(1, len(found) + 1))
    assert query(folder, "SELECT tick FROM studies") == [(len(found),)]
    assert found[0][1:3] == ("open", 0)


def test_a_database_from_before_gets_its_ticks_from_its_times(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    recorder = Recorder(ScriptedProposer(STORY), tmp_path / "shown")
    run_study(folder, proposer=recorder, workers=1)
    before = moments(folder)
    as_before(folder)
    upgraded = StudyFolder(tmp_path, "one")
    times = {
        ("open", number, 0): started for number, started in query(upgraded, "SELECT number, started_at FROM trials")
    }
    assert len(moments(upgraded)) == len(before)
    opened = [times[moment[1:]] for moment in moments(upgraded) if moment[1] == "open"]
    assert opened == sorted(opened)
    for number, known in recorder.shown().items():
        if number < len(upgraded.store.trials()):
            rebuilt = history.at(upgraded, number)
            assert [trial.number for trial in rebuilt.trials] == [trial.number for trial in known.trials]
            assert rebuilt.limits.budget == known.limits.budget and rebuilt.limits.memory_bytes is None
    run_study(upgraded, proposer=RandomProposer(), trials=1)
    ticks = [moment[0] for moment in moments(upgraded)]
    assert ticks == list(range(1, len(ticks) + 1)) and len(ticks) > len(before), "logical time goes on from there"


def test_an_older_database_that_was_imported_gets_the_order_of_its_trials(tmp_path: Path) -> None:
    folder = import_study(tmp_path, "theirs", published.write(tmp_path / "published.jsonl"))
    before = moments(folder)
    as_before(folder)
    assert moments(StudyFolder(tmp_path, "theirs")) == before
    assert [moment[1:3] for moment in before[:6]] == [
        ("open", 0), ("run", 0), ("close", 0), ("open", 1), ("run", 1), ("close", 1),
    ]  # fmt: skip


def test_times_that_run_backwards_do_not_tear_a_trial_apart(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    run_study(folder, STORY[:6])
    with sqlite3.connect(folder.path / "study.db") as database:
        database.execute("UPDATE trials SET started_at = '2020-01-01T00:00:00.000Z' WHERE number % 2")
        database.execute("UPDATE trials SET finished_at = '2019-01-01T00:00:00.000Z' WHERE number % 3 = 0")
        database.execute("UPDATE runs SET finished_at = NULL WHERE seed = 1 AND state = 'complete'")
    as_before(folder)
    upgraded = StudyFolder(tmp_path, "one")
    found = {moment[1:]: moment[0] for moment in moments(upgraded)}
    opened = [found["open", number, 0] for number in range(len(upgraded.store.trials()))]
    assert opened == sorted(opened)
    assert all(tick > found["open", trial, 0] for (what, trial, _), tick in found.items() if what != "open")
    for number in range(1, len(opened)):
        assert history.at(upgraded, number).number == number


def test_a_trial_that_was_never_closed_stays_open_in_logical_time(tmp_path: Path) -> None:
    folder = make_study(tmp_path, **SHORT)
    run_study(folder, [change("lr", BAD)], workers=1)
    folder.store.open_trial(0, Proposal("{}", "tpe"))
    as_before(folder)
    upgraded = StudyFolder(tmp_path, "one")
    rows = query(upgraded, "SELECT number, opened_tick IS NULL, closed_tick IS NULL FROM trials")
    assert rows == [(0, 0, 0), (1, 0, 0), (2, 0, 1)]
    assert json.loads(query(upgraded, "SELECT changes FROM trials WHERE number = 2")[0][0]) == {}


def test_what_came_of_recipes_is_put_into_words_only_for_the_one_that_is_proposed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_study(tmp_path, **SHORT)
    run_study(folder, STORY[:1])
    tried = Mock(return_value="as it was")
    monkeypatch.setattr("autoresearch.words.tried", tried)
    known = history.now(folder, MACHINE, 0)
    assert len(known.tried) == 2 and not tried.called
    verdict = gate(STORY[0], known.recipe, known.menu, known.tried, known.limits)
    assert verdict.rail == "novelty" and tried.call_args.args[0] == 1
