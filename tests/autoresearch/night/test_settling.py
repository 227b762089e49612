"""How the loop settles things: changes that are carried over, seeds that are shared, results that are confirmed."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from studies import BAD, GOOD, MACHINE, assert_git_and_database_agree, change, git, make_study, query, run_study

from autoresearch.evidence import Evidence
from autoresearch.evidence.apart import apart as tell_apart
from autoresearch.night.stopping import stop_above
from autoresearch.study import history
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.study.restore import put_right
from autoresearch.study.store import Store
from autoresearch.trial import APART, Run, Trial
from trainer.protocol import RunResult


def test_a_nights_result_is_confirmed_on_fresh_seeds_that_both_sides_share_and_no_decision_reads(
    tmp_path: Path,
) -> None:
    folder = make_study(tmp_path, decision__confirmation_runs=4)
    run_study(folder, [change("lr", GOOD), change("d_ff", 256)], workers=1)
    runs = {number: folder.store.runs(number) for number in (0, 1, 2)}
    fresh = {number: [run.seed for run in runs[number] if run.purpose == "confirmation"] for number in runs}
    used = {run.seed for number in runs for run in runs[number] if run.purpose != "confirmation"}
    assert fresh[0] == fresh[1] and len(fresh[0]) == 4 and not fresh[2] and used.isdisjoint(fresh[0])
    assert all(run.test_bpb is not None for number in (0, 1) for run in runs[number] if run.seed in fresh[0])
    scores = folder.store.scores()
    assert used.issuperset(scores[0].keys() | scores[1].keys())
    assert folder.store.trials()[1].n_runs == len(scores[1])
    # One after the other, so that a machine that drifts is in both alike.
    in_order = query(folder, "SELECT trial FROM runs WHERE purpose = 'confirmation' ORDER BY ended_tick")
    assert in_order == [(0,), (1,)] * 4
    gain = Evidence(folder).gain()
    means = dict(query(folder, "SELECT trial, AVG(val_bpb) FROM runs WHERE purpose = 'confirmation' GROUP BY trial"))
    assert gain and gain.value == pytest.approx(means[0] - means[1])


def test_a_result_is_confirmed_once_and_again_where_another_recipe_stands(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__confirmation_runs=2)
    answers = [change("lr", 0.002), change("d_ff", 256), change("lr", GOOD)]
    counts = []
    for _ in range(3):
        run_study(folder, answers, trials=1, workers=1)
        counts.append(query(folder, "SELECT COUNT(*) FROM runs WHERE purpose = 'confirmation'")[0][0])
    assert counts == [4, 4, 8]
    assert Evidence(folder).is_confirmed


def test_a_night_that_a_person_ends_begins_nothing_more(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__confirmation_runs=2)

    class Person(Observer):
        def trial_closed(self, trial: Trial) -> None:
            if trial.decision == "keep":
                folder.store.set_control("stop", "enough")

    run_study(folder, [change("lr", GOOD), change("d_ff", 256)], workers=1, observer=Person())
    assert query(folder, "SELECT COUNT(*) FROM runs WHERE purpose = 'confirmation'") == [(0,)]


def test_keeps_that_the_fresh_runs_contradict_are_taken_back_and_the_next_night_goes_on_from_the_baseline(
    tmp_path: Path,
) -> None:
    folder = make_study(tmp_path, decision__confirmation_runs=3)
    answers = [change("weight_decay", 0.0625), change("lr", GOOD)]
    notes: list[str] = []

    class Told(Observer):
        def note(self, text: str) -> None:
            notes.append(text)

    run_study(folder, answers, trials=1, workers=1, observer=Told())
    trial = folder.store.trials()[1]
    assert trial.decision == "discard" and trial.merge_commit and trial.improvement and trial.improvement > 0.1
    assert "P(better)" in trial.reason and "3 fresh runs of trial 1 and of the baseline say" in trial.reason
    assert [note for note in notes if note.startswith("the baseline stands again: 3 fresh runs")]
    assert Evidence(folder).incumbent.number == 0 and Evidence(folder).gain() is None
    assert_git_and_database_agree(folder)

    run_study(folder, answers, workers=1)
    again = folder.store.trials()[2]
    assert (again.parent, again.decision, folder.store.study()["incumbent"]) == (0, "keep", 2)
    assert again.recipe["weight_decay"] == folder.store.trials()[0].recipe["weight_decay"]
    assert_git_and_database_agree(folder)
    assert put_right(folder) == [], "every commit is one that can be made again"
    known = folder.store.trials_then(folder.store.opened_tick(2))
    assert [one.decision for one in known] == [None, "discard"], "as it stood when the next trial was proposed"
    during = folder.store.trials_then(query(folder, "SELECT kept_until FROM trials WHERE number = 1")[0][0])
    assert during[1].decision == "keep" and "taken back" not in during[1].reason


def test_a_night_killed_while_keeps_are_taken_back_takes_them_back_in_the_next(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__confirmation_runs=3)
    answers = [change("weight_decay", 0.0625)]
    if not (child := os.fork()):
        Store.take_back = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        run_study(folder, answers, workers=1)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    folder = StudyFolder(tmp_path, "one")
    assert folder.store.study()["incumbent"] == 1 and "discard" in git(folder, "tag", "-l", "-n1", "trial/0001")
    run_study(folder, answers, workers=1)
    assert folder.store.study()["incumbent"] == 0 and folder.store.trials()[1].decision == "discard"
    assert_git_and_database_agree(folder)


def test_with_several_workers_the_runs_that_a_keep_asks_of_its_reference_do_not_wait_for_the_candidates(
    tmp_path: Path,
) -> None:
    folder = make_study(tmp_path, decision__reference_runs=5)
    run_study(folder, [change("lr", GOOD)], workers=2)
    assert folder.store.trials()[1].decision == "keep"
    asked = "SELECT MIN(started_at) FROM runs WHERE trial = 0 AND seed >= 3"
    measured = "SELECT MAX(finished_at) FROM runs WHERE trial = 1 AND purpose = 'candidate'"
    assert query(folder, f"SELECT ({asked}) < ({measured})") == [(1,)]


def test_a_first_run_that_is_far_behind_is_stopped_and_counts_as_no_score(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__stop_early=True)
    run_study(folder, [change("lr", BAD), change("lr", GOOD)], workers=1)
    behind, ahead = folder.store.trials()[1:3]
    assert (behind.state, behind.outcome, behind.decision, behind.val_bpb) == ("stopped", "stopped", None, None)
    assert behind.reason == "stopped after 50% of its run" and 1 not in folder.store.scores()
    assert ahead.decision == "keep" and behind.energy_joules
    asked = {
        run.id: json.loads((folder.run_folder(run.id) / "request.json").read_text())["stop_above"]
        for run in folder.store.runs()
    }
    first = [min(folder.store.runs(number), key=lambda run: run.started_at or "").id for number in (1, 2)]
    assert [share for share, _ in asked[first[0]]] == [0.5, 0.7]
    assert [run_id for run_id, points in asked.items() if points] == first
    assert history.now(folder, MACHINE, 0).tried[str(behind.recipe_key)] == "trial 1 (stopped)"
    assert_git_and_database_agree(folder)


def test_without_the_setting_no_run_is_stopped(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", BAD)], workers=1)
    assert folder.store.trials()[1].decision == "discard"


def test_recipes_whose_curves_say_different_things_are_not_compared(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__stop_early=True)
    run_study(folder, [change("lr", BAD)], workers=1)
    trial = folder.store.trials()[1]
    assert stop_above(folder, trial)
    assert not stop_above(folder, replace(trial, recipe={**trial.recipe, "schedule": "wsd"}))


def test_a_kept_recipe_that_fails_on_a_fresh_seed_is_told(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__confirmation_runs=3)
    run_study(folder, [change("weight_decay", 0.125)])
    assert folder.store.trials()[1].decision == "keep"
    told = [event["message"] for event in folder.store.events(50) if event["kind"] == "confirmation_failed"]
    assert told and "trial 1 failed with seed" in told[0] and "loss is NaN" in told[0]
    assert_git_and_database_agree(folder)


@pytest.mark.parametrize(
    "answers", [[change("lr", GOOD), change("seq_len", 512)], [change("seq_len", 512), change("lr", GOOD)]]
)
def test_of_two_changes_that_help_at_once_neither_is_lost(tmp_path: Path, answers: list[str]) -> None:
    folder = make_study(tmp_path)
    # Both begin from the baseline at once; the first to be kept moves the incumbent under the other.
    fillers = [change("lr", value) for value in (BAD, 0.0004, 0.0003, 0.0002)]
    run_study(folder, [*answers, *fillers], workers=2)
    trials = folder.store.trials()
    first = next(trial for trial in trials if trial.decision == "keep" and trial.number in (1, 2))
    if trials[3 - first.number].decision == "keep":
        closed = query(folder, "SELECT number FROM trials WHERE number IN (1, 2) ORDER BY closed_tick")
        first = trials[closed[0][0]]
    overtaken = trials[3 - first.number]
    assert overtaken.parent == overtaken.reference == first.parent == 0
    assert overtaken.improvement_low is not None and overtaken.improvement_low > 0
    again = next(trial for trial in trials if trial.proposer == "carried")
    if "seq_len" in overtaken.changes:  # alone it is better than the recipe that stands
        assert overtaken.decision == "keep" and f"better than trial {first.number}'s recipe" in overtaken.reason
        kept, made_again = overtaken, first
    else:
        assert overtaken.outcome == "carried" and overtaken.merge_commit is None and "carried over" in overtaken.reason
        kept, made_again = first, overtaken
    assert (again.parent, again.changes, again.decision) == (kept.number, made_again.changes, "keep")
    assert f"Trial {made_again.number}'s change" in again.hypothesis
    assert query(folder, "SELECT carries FROM proposals WHERE proposer = 'carried'") == [(made_again.number,)]
    assert folder.store.study()["incumbent"] == again.number
    assert again.recipe["lr"] == GOOD and again.recipe["seq_len"] == 512
    assert_git_and_database_agree(folder)


def test_a_change_that_is_not_sure_to_help_gets_no_more_runs_once_its_parent_stands_no_more(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__reference_runs=2)
    # A gain of about one deviation asks for many runs; the large one is kept long before.
    run_study(folder, [change("lr", 0.00102), change("lr", GOOD), change("d_ff", 256)], workers=2)
    trials = folder.store.trials()
    small, large = trials[1], trials[2]
    assert large.decision == "keep"
    assert small.decision == "discard" and small.n_runs < 12
    assert small.reference == small.parent == 0 and abs(small.improvement or 1.0) < 0.05, (
        "at its parent, as it was made"
    )
    assert all(trial.proposer != "carried" for trial in trials)


def test_what_takes_many_runs_to_settle_waits_for_new_ideas_and_is_settled_in_the_end(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", 0.0015), change("d_ff", 256), change("d_ff", 768)], workers=1)
    order = [trial for (trial,) in query(folder, "SELECT trial FROM runs WHERE trial > 0 ORDER BY ended_tick")]
    assert order.index(3) < len(order) - 1 - order[::-1].index(1), "later ideas had their first runs meanwhile"
    assert [trial.decision for trial in folder.store.trials()[1:]] == ["keep", "discard", "discard"]


def test_a_large_gain_is_settled_at_once(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("d_ff", 256), change("lr", GOOD), change("d_ff", 768)], workers=1)
    kept, after = folder.store.trials()[2:]
    assert kept.decision == "keep" and after.parent == 2


def test_of_what_is_not_settled_when_a_night_ends_only_the_best_gets_more_runs(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", value) for value in (0.0012, 0.0013, 0.0014, 0.0011)], workers=1)
    trials = folder.store.trials()[1:]
    assert [trial.decision for trial in trials] == ["discard", "discard", "keep", "discard"]
    assert all("others look better" in trial.reason for trial in trials if trial.decision == "discard")
    assert sum(trial.n_runs for trial in trials) <= 10
    assert_git_and_database_agree(folder)


def test_a_night_killed_with_unsettled_trials_settles_them_in_the_next(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    folder.store.close()

    class Killer(Observer):
        def run_finished(self, run: Run, result: RunResult) -> None:
            if run.trial == 3:
                os.kill(os.getpid(), signal.SIGKILL)

    answers = [change("lr", 0.0012), change("lr", 0.0013), change("lr", 0.0014)]
    child = os.fork()
    if child == 0:
        run_study(StudyFolder(tmp_path, "one"), answers, workers=1, observer=Killer())
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    folder = StudyFolder(tmp_path, "one")
    assert len(folder.store.open_trials()) == 3
    run_study(folder, answers, workers=1)
    assert folder.store.open_trials() == [] and folder.store.study()["incumbent"] == 3
    assert_git_and_database_agree(folder)


def test_a_knob_of_a_keep_that_changed_several_is_put_back_and_what_it_is_worth_is_told(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    both = json.dumps({"changes": {"lr": GOOD, "d_ff": 256}, "reason": "together"})
    run_study(folder, [both, *(change("lr", n / 100_000) for n in range(40, 28, -1))], workers=1)
    trials = folder.store.trials()
    kept = trials[1]
    apart = [trial for trial in trials if trial.proposer == APART]
    assert kept.decision == "keep" and [list(trial.changes) for trial in apart] == [["lr"], ["d_ff"]]
    assert all(
        trial.parent == 1 and trial.recipe[knob] == trials[0].recipe[knob] for trial in apart for knob in trial.changes
    )
    assert min(trial.number for trial in apart) > 2, "a new idea comes first"
    told = tell_apart(Evidence(folder), kept)
    assert "lr put back: worse by +0.1" in told and "d_ff put back: not surely better" in told
    assert f"(trial {apart[0].number})" in told and tell_apart(Evidence(folder), apart[0]) == ""


def test_the_first_seeds_of_trials_go_round_those_of_their_reference(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", BAD), change("lr", 0.0003), change("lr", 0.0002)], workers=1)
    first = [min(folder.store.runs(number), key=lambda run: run.started_at or "").seed for number in (1, 2, 3)]
    assert sorted(first) == [0, 1, 2]
