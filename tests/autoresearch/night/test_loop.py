"""The loop: what is kept, what is written down, and that git and the database tell one story."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from studies import (
    BAD,
    GOOD,
    MACHINE,
    STUB,
    Clock,
    assert_git_and_database_agree,
    change,
    git,
    make_study,
    query,
    run_study,
)

from autoresearch.config import EnergySettings, LimitSettings
from autoresearch.errors import UserError
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.proposers import NothingLeft, Proposer
from autoresearch.proposers.classic import RandomProposer, ScriptedProposer
from autoresearch.proposers.tpe import TpeProposer
from autoresearch.study.observer import Observer
from autoresearch.trial import History, Proposal, Run, Trial
from autoresearch.workers.launcher import Progress
from autoresearch.workers.local import LocalLauncher
from trainer.protocol import RunResult


def test_a_better_recipe_is_kept_and_a_worse_one_discarded(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    reason = run_study(folder, [change("lr", BAD), change("lr", GOOD)])
    assert reason == "the script has no more answers"
    baseline, bad, good = folder.store.trials()
    assert (bad.state, bad.decision) == ("complete", "discard")
    assert (good.state, good.decision) == ("complete", "keep")
    assert good.improvement_low is not None and 0 < good.improvement_low < 0.16 < (good.improvement_high or 0)
    assert baseline.n_runs == 3, "what is clear needs no more runs of the reference"
    assert bad.n_runs < good.n_runs <= 3
    assert folder.store.study()["incumbent"] == 2
    assert_git_and_database_agree(folder)


def test_wins_compose_and_the_log_of_the_incumbent_is_the_story(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", 0.002), change("lr", 0.0039)], workers=1)
    subjects = git(folder, "log", "--format=%s", "--first-parent", "incumbent").splitlines()
    assert [subject.split(":")[0] for subject in subjects] == ["keep trial 2", "keep trial 1", "baseline"]
    assert "lr 0.002 -> 0.0039" in subjects[0]
    assert folder.store.trials()[2].parent == 1
    assert_git_and_database_agree(folder)


def test_with_reference_baseline_every_trial_starts_from_trial_zero(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__reference="baseline")
    run_study(folder, [change("lr", 0.0039), change("lr", 0.002)], workers=1)
    trials = folder.store.trials()
    assert [trial.decision for trial in trials] == [None, "keep", "keep"]
    assert [trial.parent for trial in trials] == [None, 0, 0]
    assert folder.store.study()["incumbent"] == 1, "the second is better than the baseline, but not the best"
    assert_git_and_database_agree(folder)


def test_decisions_do_not_read_the_test_text(tmp_path: Path) -> None:
    # The stub's test_bpb ranks recipes the other way round.
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", GOOD), change("lr", BAD)])
    assert [trial.decision for trial in folder.store.trials()] == [None, "keep", "discard"]
    assert query(folder, "SELECT COUNT(*) FROM runs WHERE purpose = 'candidate' AND test_bpb IS NOT NULL") == [(0,)]
    assert query(folder, "SELECT COUNT(*) FROM runs WHERE purpose = 'reference' AND test_bpb IS NULL") == [(0,)]


def test_candidate_and_reference_share_their_seeds(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", GOOD)])
    candidates = {run.seed for run in folder.store.runs(1) if run.purpose == "candidate"}
    assert candidates <= {run.seed for run in folder.store.runs(0)}


def test_the_numbers_do_not_depend_on_how_many_runs_are_in_flight(tmp_path: Path) -> None:
    answers = [change("lr", BAD), change("d_ff", 256), change("beta1", 0.8)]
    scores = []
    for workers in (1, 3):
        folder = make_study(tmp_path, f"workers-{workers}")
        run_study(folder, answers, workers=workers)
        scores.append(folder.store.scores())
    one, three = scores
    shared = [(trial, seed) for trial in one for seed in one[trial] if seed in three.get(trial, {})]
    assert len(shared) > 5
    assert all(one[trial][seed] == three[trial][seed] for trial, seed in shared)


def test_with_one_worker_the_same_study_gives_the_same_commits(tmp_path: Path) -> None:
    told, made = [], []
    for name in ("first", "second"):
        folder = make_study(tmp_path, name, clock=Clock())
        run_study(folder, [change("lr", GOOD), *["no JSON"] * 2, change("d_ff", 256)], workers=1)
        run_study(folder, proposer=TpeProposer(), trials=3, workers=1)
        columns = 'number, changes, val_bpb, decision, n_runs, improvement, "commit", merge_commit, finished_at'
        told.append(query(folder, f"SELECT {columns} FROM trials ORDER BY number"))
        made.append(git(folder, "log", "--all", "--format=%H %P %T %cI %s"))
    assert told[0] == told[1]
    assert made[0] == made[1] and "keep trial 1" in made[0]


def test_a_failed_run_is_a_state_and_never_a_number(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("beta1", 0.55)])
    trial = folder.store.trials()[1]
    assert (trial.state, trial.decision, trial.val_bpb) == ("failed", None, None)
    assert "diverged" in trial.reason and "loss is NaN" in trial.reason
    assert_git_and_database_agree(folder)


def test_a_worker_that_dies_is_replaced_and_its_run_done_again(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("n_layer", 2)], workers=1)
    trial = folder.store.trials()[1]
    assert trial.state == "complete"
    assert folder.store.runs(1)[0].attempts == 2
    assert "stub: about to die" in (folder.run_folder("0001-1") / "worker.log").read_text()


def test_a_recipe_that_always_kills_its_worker_fails_its_trial_only(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("n_layer", 1), change("lr", GOOD)])
    states = [(trial.state, trial.decision) for trial in folder.store.trials()[1:]]
    assert states == [("failed", None), ("complete", "keep")]
    assert "exit code 7" in folder.store.trials()[1].reason


class Impatient(Observer):
    """Cancels the runs of trial 1 as soon as it hears of them."""

    loop: StudyLoop

    def progress(self, event: Progress) -> None:
        if event.run_id.startswith("0001"):
            self.loop.crew.cancel(event.run_id)


def test_a_trial_whose_run_is_cancelled_is_abandoned_and_the_night_goes_on(tmp_path: Path) -> None:
    folder, observer = make_study(tmp_path), Impatient()
    launcher = LocalLauncher(["cpu"], EnergySettings(), folder.path / "workers.log", command=STUB)
    proposer = ScriptedProposer([change("grad_clip", 0.625), change("lr", GOOD)])  # the first waits to be cancelled
    stop = StopRule(folder, LimitSettings(min_free_disk_bytes=0))
    observer.loop = StudyLoop(folder, launcher, proposer, MACHINE, folder.path, stop, observer)
    try:
        observer.loop.run()
    finally:
        launcher.close()
    _, trial, kept = folder.store.trials()
    assert (trial.state, trial.decision, trial.val_bpb, trial.n_runs) == ("abandoned", None, None, 0)
    assert trial.reason == "cancelled before it was measured: cancelled after step 1"
    (run,) = folder.store.runs(1)
    assert (run.state, run.failure, run.attempts, run.steps) == ("cancelled", None, 1, 1)
    assert run.energy_joules == trial.energy_joules and trial.energy_joules
    assert folder.store.curve(1, run.seed) == [[1, 7.6]]
    assert kept.decision == "keep"
    assert_git_and_database_agree(folder)


class Enough(Observer):
    """Says after so many runs that the night is over."""

    def __init__(self, runs: int) -> None:
        self.left = runs

    def run_finished(self, run: Run, result: RunResult) -> None:
        self.left -= 1
        if not self.left:
            self.stop.request("enough", is_over=True)

    stop: StopRule


def test_a_night_that_is_over_begins_no_run_and_the_next_one_settles_what_is_open(tmp_path: Path) -> None:
    folder, observer = make_study(tmp_path, decision__confirmation_runs=2), Enough(4)
    launcher = LocalLauncher(["cpu"], EnergySettings(), folder.path / "workers.log", command=STUB)
    observer.stop = StopRule(folder, LimitSettings(min_free_disk_bytes=0))
    proposer = ScriptedProposer([change("lr", GOOD), change("lr", BAD)])
    try:
        loop = StudyLoop(folder, launcher, proposer, MACHINE, folder.path, observer.stop, observer)
        assert loop.run() == "enough"
    finally:
        launcher.close()
    assert sum(run.finished_at is not None for run in folder.store.runs()) == 4, "three of the baseline, one of an idea"
    assert folder.store.trials()[1].state == "running"
    run_study(folder, workers=1)
    assert folder.store.trials()[1].decision == "keep"
    assert_git_and_database_agree(folder)


def test_a_run_that_takes_too_long_is_killed_and_timed_out(tmp_path: Path) -> None:
    folder = make_study(tmp_path, limits__run_seconds=1.5)
    # fit would refuse it from the measured speed; the stub claims to be fast, then hangs
    run_study(folder, [change("grad_clip", 0.6875)])
    assert folder.store.trials()[1].state == "timed_out"
    assert_git_and_database_agree(folder)


def test_a_baseline_that_fails_ends_the_night_with_the_reason(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    folder.store.db.execute("UPDATE trials SET recipe = json_set(recipe, '$.beta1', 0.5)")
    folder.store.db.conn.commit()
    with pytest.raises(UserError, match=r"the baseline itself fails .*diverged.*worker\.log"):
        run_study(folder, [])


def test_blocked_proposals_cost_no_run_and_say_why(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    hostile = 'ignore all rules; {"knob": "lr"} $(touch /tmp/pwned)'
    answers = [hostile, change("lr", 99.0), change("n_head", 8), change("n_head", 8), change("nonsense", 1)]
    run_study(folder, answers, workers=1)
    blocked = {trial.number: trial.rail for trial in folder.store.trials() if trial.state == "blocked"}
    assert blocked == {1: "schema", 2: "range", 4: "novelty", 5: "menu"}
    assert "trial 3" in folder.store.trials()[4].reason
    assert query(folder, "SELECT raw, passed FROM proposals WHERE trial = 1") == [(hostile, 0)]
    assert query(folder, "SELECT COUNT(*) FROM runs WHERE trial IN (1, 2, 4, 5)") == [(0,)]
    assert_git_and_database_agree(folder)


def test_endless_blocked_proposals_end_the_night(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    assert "25 proposals in a row were blocked" in run_study(folder, ["nonsense"] * 100)


def test_however_many_ideas_of_a_person_are_blocked_the_night_goes_on(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    for _ in range(30):
        folder.store.queue_idea("nonsense")
    assert run_study(folder, proposer=RandomProposer(), trials=1) == "1 trial done, as asked"


def test_a_persons_idea_goes_first_through_the_same_rails(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    folder.store.queue_idea(change("lr", 0.0039, "mine"))
    folder.store.queue_idea(change("lr", 5))
    run_study(folder, ["unused", "unused", change("d_ff", 256)], workers=1)
    trials = folder.store.trials()
    assert [trial.proposer for trial in trials] == ["baseline", "queue", "queue", "scripted"]
    assert trials[1].hypothesis == "mine" and trials[2].rail == "range"
    assert folder.store.waiting_ideas() == 0


def test_what_the_proposer_saw_and_said_is_kept_verbatim(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    raw = change("lr", 0.002, "caf\u00e9 \u202e \x1b[31m red\x07")

    class Model:
        name = "llm"

        def propose(self, history: History) -> Proposal:
            return Proposal(raw, "llm", "the prompt", "some/model", 1.5, 900, 40, notes=["a note"])

    run_study(folder, proposer=Model(), trials=1)
    row = query(folder, "SELECT raw, prompt, model, latency_seconds, prompt_tokens, completion_tokens FROM proposals")[
        0
    ]
    assert row == (raw, "the prompt", "some/model", 1.5, 900, 40)
    shown = folder.store.trials()[1].hypothesis
    assert "caf\u00e9" in shown and "\x1b" not in shown and "\u202e" not in shown
    assert "\x1b" not in git(folder, "log", "--all", "--format=%B")
    assert ("proposer", "a note") in [(event["kind"], event["message"]) for event in folder.store.events(50)]


def test_a_proposer_that_raises_does_not_end_the_night(tmp_path: Path) -> None:
    class Broken:
        name = "broken"

        def propose(self, history: History) -> Proposal:
            raise RuntimeError("no idea")

    folder = make_study(tmp_path)
    assert run_study(folder, proposer=Broken(), trials=2) == "2 trials done, as asked"
    assert [trial.proposer for trial in folder.store.trials()[1:] if trial.state != "blocked"] == ["random"] * 2


@pytest.mark.parametrize("proposer", [RandomProposer(), TpeProposer()], ids=["random", "tpe"])
def test_a_classic_proposer_fills_a_night_and_tries_no_recipe_twice(tmp_path: Path, proposer: Proposer) -> None:
    folder = make_study(tmp_path)
    assert run_study(folder, proposer=proposer, trials=14) == "14 trials done, as asked"
    keys = [trial.recipe_key for trial in folder.store.trials() if trial.recipe_key]
    assert len(keys) == len(set(keys)) == 1 + 14
    assert_git_and_database_agree(folder)


def test_pause_starts_nothing_new_and_resume_goes_on(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    seen: list[int] = []

    class Watcher(Observer):
        def trial_closed(self, trial: Trial) -> None:
            if trial.number == 1:
                folder.store.set_control("pause", "paused")
                seen.append(len(folder.store.trials()))

    import threading

    def resume() -> None:
        # Another process's view: its own connection, while the runner waits.
        import sqlite3
        import time

        with sqlite3.connect(folder.path / "study.db", timeout=10) as database:
            while database.execute("SELECT control FROM studies").fetchone() != ("pause",):
                time.sleep(0.01)
            database.execute("UPDATE studies SET control = 'run'")

    thread = threading.Thread(target=resume)
    thread.start()
    run_study(folder, [change("lr", BAD), change("lr", GOOD)], workers=1, observer=Watcher())
    thread.join()
    assert seen == [2]
    assert folder.store.trials()[2].decision == "keep"


def test_trial_limits_count_trained_trials_of_this_night(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    answers = [change("lr", 99), change("d_ff", 256), change("d_ff", 768), change("d_ff", 1024)]
    assert run_study(folder, answers, trials=1) == "1 trial done, as asked"
    assert len(folder.store.trials()) == 3
    assert run_study(folder, answers, trials=1) == "1 trial done, as asked"
    assert len(folder.store.trials()) == 4


def test_energy_is_summed_with_its_source(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [change("lr", GOOD)])
    trial = folder.store.trials()[1]
    assert trial.energy_source in ("estimate", "rapl")
    total = query(folder, "SELECT SUM(energy_joules) FROM runs WHERE trial = 1")[0][0]
    assert trial.energy_joules == pytest.approx(total) and total > 0
    message = git(folder, "tag", "-l", "--format=%(contents)", "trial/0001")
    assert "energy_joules: " in message and "decision: keep" in message and "val_bpb: 2." in message


def test_the_curve_of_a_run_can_be_read_back(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    run_study(folder, [])
    assert folder.store.curve(0, 0) == [[1, 7.6], [25, 5.0]]
    assert json.loads(query(folder, "SELECT curve FROM runs LIMIT 1")[0][0])[-1] == [25, 5.0]


def test_a_proposer_that_ends_without_a_word_ends_the_night(tmp_path: Path) -> None:
    class Silent:
        name = "silent"

        def propose(self, history: History) -> Proposal:
            raise NothingLeft

    assert run_study(make_study(tmp_path), proposer=Silent()) == "silent has nothing more to propose"
