"""The database: whole transactions, two processes at once, an older file opened by newer code, sums that follow."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from sqlite_utils import Database, Migrations
from studies import Clock

from autoresearch.config import DecisionRule
from autoresearch.decide import Comparison, Noise, pool_noise
from autoresearch.study.store import Store, opening
from autoresearch.study.store import migrations as shipped
from autoresearch.trial import Proposal, Recipe, Run
from autoresearch.workers.energy import Energy
from rails import Verdict, recipe_key
from trainer.protocol import RunResult

RECIPE: Recipe = {"lr": 0.001, "n_layer": 4}
PASSED = Verdict(True, None, "", {"lr": 0.002}, "faster", -0.01)
COMPARISON = Comparison(0.02, 0.01, 9.0, 0.98)
NOISE = Noise(0.02, 0.0, 9.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "study.db", Clock())
    store.create_study("one", "{}", "0" * 64, RECIPE, recipe_key(RECIPE), "c0ffee")
    return store


def other(store: Store) -> sqlite3.Connection:
    """What another process sees and may do; each statement is a transaction of its own, and none waits."""
    return sqlite3.connect(store.path, timeout=0, isolation_level=None)


def begin_trial(store: Store, number: int = 1) -> None:
    recipe: Recipe = {**RECIPE, "lr": 0.001 + number / 1000}
    assert store.open_trial(0, Proposal("{}", "tpe")) == number
    store.start_trial(number, PASSED, recipe, recipe_key(recipe), f"{number:040x}", seed=0)


def measure(
    store: Store, trial: int, seed: int, val_bpb: float | None, joules: float = 10.0, source: str = "rapl"
) -> None:
    run = next(run for run in store.runs(trial) if run.seed == seed)
    store.hand_out_run(run)
    if val_bpb is None:
        result = RunResult(run.id, seed, "failed", failure="diverged", message="loss is NaN", failed_step=9)
    else:
        test_bpb = val_bpb + 1 if run.purpose == "reference" else None
        result = RunResult(run.id, seed, "complete", val_bpb=val_bpb, test_bpb=test_bpb, curve=[[1, 7.5]])
    store.finish_run(run, result, Energy(joules, source), NOISE)


def order(runs: list[Run]) -> list[tuple[int, int]]:
    return [(run.trial, run.seed) for run in runs]


# --- migrations ---


def test_a_database_is_migrated_once(store: Store) -> None:
    applied = "SELECT name, applied_at FROM _sqlite_migrations ORDER BY id"
    before = other(store).execute(applied).fetchall()
    Store(store.path).close()
    assert other(store).execute(applied).fetchall() == before
    assert [name for name, _ in before] == [
        "m001_trajectory", "m002_speed", "m003_imports", "m004_promotions", "m005_cancelled_runs", "m006_logical_time",
            "m007_menu_text", "m008_compute", "m009_window_score", "m010_carried_and_confirmed",
            "m011_begun_from", "m012_taken_back", "m013_stopped_early", "m014_attempts", "m015_lessons",
            "m016_proposer_energy", "m017_script", "m018_repeats",
    ]  # fmt: skip


def test_a_database_of_an_earlier_version_is_upgraded_with_what_is_in_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_trial(store)
    store.close()
    newer = Migrations("autoresearch")
    newer(name="m001_trajectory")(shipped.m001_trajectory)

    @newer()
    def m999_mood(db: Database) -> None:
        db.execute("ALTER TABLE trials ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'")

    monkeypatch.setattr(opening, "migrations", newer)
    upgraded = Store(store.path)
    assert [row["mood"] for row in upgraded.db.query("SELECT mood FROM trials")] == ["calm", "calm"]
    assert [trial.number for trial in upgraded.trials()] == [0, 1]


def test_a_migration_that_fails_changes_nothing_and_can_be_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migrations("autoresearch")
    broken(name="m001_trajectory")(shipped.m001_trajectory)

    @broken()
    def m999_mood(db: Database) -> None:
        db.execute("ALTER TABLE trials ADD COLUMN mood TEXT")
        raise RuntimeError("no room on disk")

    with monkeypatch.context() as patch:
        patch.setattr(opening, "migrations", broken)
        with pytest.raises(RuntimeError):
            Store(store.path)
    assert "mood" not in {row[1] for row in other(store).execute("PRAGMA table_info(trials)")}
    assert len(Store(store.path).trials()) == 1


# --- transactions ---


def test_the_journal_is_a_write_ahead_log_that_lasts(store: Store) -> None:
    assert other(store).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_transaction_that_fails_leaves_nothing_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_trial(store)
    tables = ("studies", "trials", "proposals", "runs", "events")
    before = [other(store).execute(f"SELECT * FROM {table}").fetchall() for table in tables]

    def full(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store, "_event", full)  # the last thing that each of these writes
    for write in (
        lambda: store.finish_trial(1, "failed", "why", incumbent=(1, "abc"), carried=(1, "{}")),
        lambda: store.set_control("pause", "paused"),
        lambda: store.open_trial(0, Proposal("{}", "llm", notes=["a note"])),
    ):
        with pytest.raises(sqlite3.OperationalError):
            write()
    assert [other(store).execute(f"SELECT * FROM {table}").fetchall() for table in tables] == before
    monkeypatch.undo()
    store.set_control("pause", "paused")
    assert other(store).execute("SELECT control FROM studies").fetchone() == ("pause",)


def test_a_broken_rule_of_the_schema_rolls_back_everything_before_it(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        store.queue_runs([(0, 0, "reference"), (99, 0, "reference")])  # there is no trial 99
    assert store.runs() == []
    with pytest.raises(sqlite3.IntegrityError):
        store.set_control("dance", "?")  # type: ignore[arg-type]
    assert store.control == "run"


def test_what_is_written_is_seen_by_others_at_once(store: Store) -> None:
    begin_trial(store)
    store.queue_idea("{}")
    assert not store.db.conn.in_transaction
    assert other(store).execute("SELECT state FROM trials WHERE number = 1").fetchone() == ("running",)
    assert other(store).execute("SELECT COUNT(*) FROM proposals").fetchone() == (2,)


def test_a_reader_is_never_in_the_way_of_the_runner(store: Store) -> None:
    reader = other(store)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM trials").fetchall()
    begin_trial(store)
    measure(store, 1, 0, 2.8)
    assert reader.execute("SELECT COUNT(*) FROM trials").fetchone() == (1,), "it goes on seeing its own moment"


def test_a_word_from_the_command_line_never_breaks_the_runners_transaction(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite refuses, at once, a write in a transaction that has read what somebody else has changed since.
    original, words = store._rows, []

    def rows_and_then_a_word(*arguments: object) -> object:
        found = original(*arguments)  # type: ignore[arg-type]
        with suppress(sqlite3.OperationalError):  # the runner holds the lock: the command line waits, as it should
            other(store).execute("INSERT INTO events (at, kind, message) VALUES ('', 'word', '')")
            words.append(found)
        return found

    monkeypatch.setattr(store, "_rows", rows_and_then_a_word)
    begin_trial(store)
    measure(store, 1, 0, 2.8)
    store.finish_trial(1, "complete", "why", decision="discard", comparison=COMPARISON, noise=NOISE)
    store.queue_idea("{}")
    assert words and store.trials()[1].decision == "discard"


def test_two_processes_write_at_once_and_nothing_is_lost(store: Store) -> None:
    command_line = f"""
from pathlib import Path
from autoresearch.study.store import Store
store = Store(Path({str(store.path)!r}))
print("ready", flush=True)
for number in range(60):
    store.queue_idea(str(number))
"""
    with subprocess.Popen([sys.executable, "-c", command_line], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        for number in range(1, 61):
            store.open_trial(0, Proposal(str(number), "tpe"))
    assert process.returncode == 0
    assert len(store.trials()) == 61
    assert store.waiting_ideas() == 60


# --- rules that the schema itself keeps ---


def test_only_a_complete_trial_can_have_a_score(store: Store) -> None:
    begin_trial(store)
    for state in ("running", "failed", "timed_out", "blocked", "abandoned"):
        with pytest.raises(sqlite3.IntegrityError):
            other(store).execute("UPDATE trials SET state = ?, val_bpb = 2.8 WHERE number = 1", [state])
    other(store).execute("UPDATE trials SET state = 'complete', val_bpb = 2.8 WHERE number = 1")


@pytest.mark.parametrize(
    "wrong",
    [
        "UPDATE trials SET state = 'fine'",
        "UPDATE trials SET decision = 'maybe'",
        "UPDATE runs SET state = 'lost'",
        "UPDATE runs SET purpose = 'fun'",
        "UPDATE studies SET control = 'dance'",
        "INSERT INTO studies (id, name, created_at, settings, menu_sha256, incumbent, incumbent_commit, control) "
        "SELECT 2, name, created_at, settings, menu_sha256, incumbent, incumbent_commit, control FROM studies",
        "INSERT INTO runs SELECT * FROM runs",
    ],
)
def test_the_schema_knows_its_own_words(store: Store, wrong: str) -> None:
    begin_trial(store)
    with pytest.raises(sqlite3.IntegrityError):
        other(store).execute(wrong)


# --- the queue ---


def test_runs_for_references_come_first_then_by_trial_and_seed(store: Store) -> None:
    begin_trial(store, 1)
    begin_trial(store, 2)
    store.queue_runs([(2, 3, "candidate"), (1, 5, "reference"), (0, 1, "reference"), (0, 0, "reference")])
    assert order(store.pending_runs()) == [(0, 0), (0, 1), (1, 5), (1, 0), (2, 0), (2, 3)]


def test_a_run_with_a_worker_is_pending_until_it_ends(store: Store) -> None:
    begin_trial(store)
    run = store.pending_runs()[0]
    store.hand_out_run(run)
    assert [(run.state, run.attempts) for run in store.pending_runs()] == [("running", 1)]
    store.take_back_run(run, "its worker died")
    assert [(run.state, run.attempts) for run in store.pending_runs()] == [("queued", 1)]
    measure(store, 1, 0, 2.8)
    assert store.pending_runs() == []
    assert store.runs(1)[0].attempts == 2


def test_a_run_that_is_asked_for_twice_is_queued_once(store: Store) -> None:
    begin_trial(store)
    measure(store, 1, 0, 2.8)
    store.queue_runs([(1, 0, "candidate"), (1, 1, "candidate"), (1, 1, "candidate")])
    assert order(store.pending_runs()) == [(1, 1)]
    assert store.scores() == {1: {0: 2.8}}


def test_ideas_wait_in_line_and_each_is_taken_once(store: Store) -> None:
    for raw in ("first", "second"):
        store.queue_idea(raw)
    for number, raw in enumerate(("first", "second"), 1):
        idea = store.next_idea()
        assert idea is not None and idea.raw == raw
        assert store.open_trial(0, idea) == number
        assert (store.proposal(number) or {})["raw"] == raw
    assert store.next_idea() is None and store.waiting_ideas() == 0


# --- sums ---


def stderr_of(store: Store, trial: int) -> float | None:
    """As exports carry it."""
    found: float | None = store.db.table("trials").get(trial)["val_bpb_stderr"]
    return found


def test_the_sums_of_a_complete_trial_follow_its_later_runs(store: Store) -> None:
    begin_trial(store)
    measure(store, 1, 0, 2.80)
    store.finish_trial(
        1, "complete", "why", decision="keep", comparison=COMPARISON, noise=NOISE, merge_commit="abc",
        incumbent=(1, "abc"),
    )  # fmt: skip
    store.queue_runs([(1, 7, "reference"), (1, 8, "confirmation")])
    trial = store.trials()[1]
    assert (trial.val_bpb, trial.n_runs, trial.test_bpb, trial.energy_joules) == (2.80, 1, None, 10.0)
    assert stderr_of(store, 1) == pytest.approx(NOISE.deviation)
    measure(store, 1, 7, 2.90, joules=5.0, source="estimate")
    trial = store.trials()[1]
    assert trial.val_bpb == pytest.approx(2.85) and trial.test_bpb == pytest.approx(3.90)
    assert (trial.n_runs, trial.energy_joules, trial.energy_source) == (2, 15.0, "estimate+rapl")
    assert stderr_of(store, 1) == pytest.approx(NOISE.deviation / 2**0.5)
    assert (trial.state, trial.decision, trial.improvement) == ("complete", "keep", 0.02), "what was decided stays"
    measure(store, 1, 8, 9.0)
    assert (store.trials()[1].n_runs, store.trials()[1].val_bpb) == (2, trial.val_bpb), "confirming is no part of it"
    assert store.scores_now() == store.scores() and 8 not in store.scores()[1]


def test_a_failed_run_is_counted_in_energy_and_in_no_mean(store: Store) -> None:
    begin_trial(store)
    measure(store, 1, 0, 2.80)
    store.queue_runs([(1, 1, "candidate")])
    measure(store, 1, 1, None, joules=7.0)
    assert store.trials()[1].val_bpb is None, "an open trial has no score yet"
    store.finish_trial(1, "complete", "why", noise=NOISE)
    trial = store.trials()[1]
    assert (trial.val_bpb, trial.n_runs, trial.energy_joules) == (2.80, 1, 17.0)


def test_a_failed_trial_has_no_score_even_if_some_of_its_runs_have(store: Store) -> None:
    begin_trial(store)
    measure(store, 1, 0, 2.80)
    store.finish_trial(1, "failed", "the second run diverged", noise=NOISE)
    trial = store.trials()[1]
    assert (trial.val_bpb, trial.n_runs, trial.energy_joules) == (None, 1, 10.0) and stderr_of(store, 1) is None


def test_totals_since_a_moment_count_what_ended_after_it(store: Store) -> None:
    begin_trial(store, 1)
    measure(store, 1, 0, 2.80, joules=100.0)
    begin_trial(store, 2)
    since = store.trials()[2].started_at
    measure(store, 2, 0, 2.81, joules=11.0)
    store.open_trial(0, Proposal("nonsense", "tpe"))
    store.block_trial(3, Verdict(False, "schema", "no JSON", {}, "", None))
    assert (store.totals()["trained"], store.totals()["runs"], store.totals()["joules"]) == (2, 2, 111.0)
    assert (store.totals(since)["trained"], store.totals(since)["runs"], store.totals(since)["joules"]) == (1, 1, 11.0)
    assert store.totals("2999")["joules"] == 0


def test_totals_count_tokens_from_the_moment_of_the_answer_also_of_one_that_nobody_has_judged(store: Store) -> None:
    def tokens(since: str | None = None) -> tuple[int, int]:
        totals = store.totals(since)
        return totals["prompt_tokens"], totals["completion_tokens"]

    assert tokens() == (0, 0)
    begin_trial(store)
    store.open_trial(0, Proposal("a", "llm", prompt_tokens=100, completion_tokens=10))
    store.open_trial(0, Proposal("b", "llm"))
    number = store.open_trial(0, Proposal("c", "llm", prompt_tokens=7))
    proposal = store.proposal(number)
    assert proposal and tokens() == (107, 10) and tokens(proposal["created_at"]) == (7, 0)


def test_only_complete_runs_are_scores(store: Store) -> None:
    begin_trial(store)
    store.queue_runs([(1, 1, "candidate"), (1, 2, "candidate"), (0, 0, "reference")])
    measure(store, 1, 1, 2.9)
    measure(store, 1, 0, 2.8)
    measure(store, 1, 2, None)
    assert store.scores() == {1: {0: 2.8, 1: 2.9}}
    assert pool_noise(store.scores().values(), DecisionRule()).dof == DecisionRule().prior_runs + 1


def test_a_text_of_any_kind_comes_back_as_it_was(store: Store) -> None:
    raw = "Robert'); DROP TABLE trials; -- \0 \x1b[31m \u202e \U0001f319 " + "x" * 60_000
    number = store.open_trial(0, Proposal(raw, "llm", prompt=raw, model="m'o\"d"))
    proposal = store.proposal(number)
    assert proposal is not None and (proposal["raw"], proposal["prompt"], proposal["model"]) == (raw, raw, "m'o\"d")


def test_a_text_that_no_file_can_hold_does_not_stop_the_night(store: Store) -> None:
    number = store.open_trial(0, Proposal("half a character: \ud800", "llm"))
    assert (store.proposal(number) or {})["raw"] == "half a character: ?"


def test_a_curve_comes_back_as_it_was(store: Store) -> None:
    begin_trial(store)
    assert store.curve(1, 0) == [] and store.curve(1, 9) == []
    measure(store, 1, 0, 2.8)
    assert store.curve(1, 0) == [[1, 7.5]]
    assert json.loads(other(store).execute("SELECT curve FROM runs").fetchone()[0]) == [[1, 7.5]]


def test_events_are_read_in_the_order_in_which_they_happened(store: Store) -> None:
    for number in range(5):
        store.log("note", str(number))
    assert [event["message"] for event in store.events(3)] == ["2", "3", "4"]
    times = [event["at"] for event in store.events(9)]
    assert times == sorted(times) and all(re.fullmatch(r"2026-01-01T00:00:\d\d\.000Z", at) for at in times)
