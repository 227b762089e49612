"""Promotion: the best recipes trained longer on fresh seeds, and what that says of the search's ranking."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
from pathlib import Path
from statistics import fmean

import pytest
from rich.console import Console
from studies import GOOD, STUB, change, make_study, query, run_study
from studies import write_promoted as write

from autoresearch.config import EnergySettings
from autoresearch.errors import UserError
from autoresearch.evidence import Evidence
from autoresearch.evidence.evidence import order_by_chance
from autoresearch.evidence.longer_runs import Divergence, LongerRuns, longer_runs, survivor
from autoresearch.facts import to_json
from autoresearch.morning.promote import best_recipes, promote
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.longer_runs import longer_runs_view
from autoresearch.workers.launcher import Event, Finished
from autoresearch.workers.local import LocalLauncher

SHRINKS, FADES, DIVERGES_LATE = 0.8125, 0.90625, 0.96875  # values of beta2: see the stub worker
ANSWERS = [change("lr", GOOD), *(change("beta2", value) for value in (SHRINKS, FADES, DIVERGES_LATE))]
ANSWERS += [change("n_layer", 2)]  # its worker dies the first time; no gain in it
LR, SHRINK, FADE, LATE, DISCARDED = range(1, 6)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search whose four kept recipes gain 0.16, 0.3, 0.12 and 0.25 over the baseline."""
    folder = make_study(
        tmp_path_factory.mktemp("searched"),
        decision__reference="baseline",
        decision__reference_runs=3,
        decision__reference_max=3,
        decision__max_runs=3,
    )
    run_study(folder, ANSWERS)
    assert query(folder, "SELECT decision FROM trials WHERE number > 0") == [("keep",)] * 4 + [("discard",)]
    folder.store.set_data(str(folder.path), "the stub reads none")
    folder.store.close()
    return folder.path


@pytest.fixture
def folder(searched: Path, tmp_path: Path) -> StudyFolder:
    shutil.copytree(searched, tmp_path / "one")
    return StudyFolder(tmp_path, "one")


class Stubs(LocalLauncher):
    """Two stub workers; after `finished` runs something happens."""

    def __init__(self, folder: StudyFolder, finished: int = 0, happens: str = "") -> None:
        super().__init__(["cpu"] * 2, EnergySettings(), folder.path / "workers.log", command=STUB)
        self.submitted = 0
        self._left, self._happens = finished, happens

    def submit(self, *arguments: object) -> None:
        self.submitted += 1
        super().submit(*arguments)  # type: ignore[arg-type]

    def next_event(self, timeout_seconds: float) -> Event | None:
        event = super().next_event(timeout_seconds)
        if isinstance(event, Finished):
            self._left -= 1
            if self._left == 0 and self._happens:
                os.kill(os.getpid(), getattr(signal, self._happens))
        return event


def run(folder: StudyFolder, launcher: LocalLauncher | None = None, **asked: float) -> tuple[str, str]:
    """How the promotion ended, and what it said on the way."""
    console = Console(width=200, file=io.StringIO(), highlight=False)
    ended = promote(folder, console, launcher=launcher or Stubs(folder), **asked)  # type: ignore[arg-type]
    return ended, console.file.getvalue()  # type: ignore[attr-defined]


def numbers(folder: StudyFolder) -> list[tuple[object, ...]]:
    """What does not depend on when and how often a promotion was interrupted."""
    return query(folder, "SELECT trial, factor, seed, state, val_bpb, test_bpb, failed_step FROM promotions")


def shown(folder: StudyFolder) -> str:
    console = Console(width=200, file=io.StringIO(), highlight=False)
    console.print(longer_runs_view(longer_runs(folder)))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_promotion_tells_wins_that_held_shrank_faded_and_diverged_late(folder: StudyFolder) -> None:
    ended, said = run(folder, top=5)
    assert ended == "18 runs done, as asked"
    assert "trial 2 seed 1000: val_bpb" in said and "(18 of 18)" in said
    (found,) = longer_runs(folder)
    rows = {row.trial: row for row in found.rows}
    assert {number: row.verdict for number, row in rows.items()} == {
        0: "baseline", LR: "held", SHRINK: "shrank", FADE: "lost", LATE: "diverged", DISCARDED: "lost",
    }  # fmt: skip
    assert rows[LR].label == "lr 0.001 -> 0.004"
    assert rows[LR].long_gain == pytest.approx(0.16, abs=0.01)
    assert rows[SHRINK].search_gain == pytest.approx(0.30, abs=0.01)
    assert rows[SHRINK].long_gain == pytest.approx(0.075, abs=0.01)  # a quarter at 16 times the budget
    low, gain, high = rows[SHRINK].long_low, rows[SHRINK].long_gain, rows[SHRINK].long_high
    assert low is not None and gain is not None and high is not None and low < gain < high
    assert rows[LATE].diverged == [Divergence(seed, 26, True) for seed in found.seeds]
    # search: shrink, (late,) lr, fade, n_layer; here: lr, shrink, fade, n_layer
    assert found.n_ranked == 4 and found.spearman == pytest.approx(0.8) and found.held is None
    assert found.by_chance == pytest.approx(4 / 24), "the order itself and three that swap two neighbours"
    assert "held cannot be told from 4 recipes besides the baseline: Spearman +0.80, which" in found.sentence
    assert "chance alone gives or betters in 17 % of cases" in found.sentence
    assert "seed 1000 at step 26 (late), seed" in found.sentence
    assert found.energy_joules == pytest.approx(sum(run.energy_joules for run in folder.store.promoted_runs()))
    to_json(longer_runs(folder))
    text = shown(folder)
    assert all(word in text for word in ("held", "shrank", "lost", "diverged", "lr 0.001 -> 0.004", "+0.16"))


def test_a_recipe_of_longer_windows_is_promoted_with_both_scores(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__reference_runs=3, decision__reference_max=3, decision__max_runs=3)
    run_study(folder, [change("seq_len", 512), change("seq_len", 128)])
    folder.store.set_data(str(folder.path), "the stub reads none")
    _, said = run(folder, top=2, seeds=2)
    (found,) = longer_runs(folder)
    baseline, longer, shorter = found.rows
    assert (baseline.trial, longer.trial, shorter.trial) == (0, 1, 2) and baseline.context == ""
    assert query(folder, "SELECT COUNT(*) FROM promotions WHERE trial = 0 AND window_bpb = val_bpb") == [(2,)]
    own, fixed = (fmean(getattr(r, f"{name}_bpb") for r in folder.store.promoted_runs() if r.trial == 1)
                  for name in ("val", "window"))  # fmt: skip
    assert longer.context.startswith(f"scored at the baseline's window of 256: {fixed:.4f} ± 0.")
    assert ", a gain over the baseline there of -0.0" in longer.context
    assert f"; at its own 512: {own:.4f} ± 0." in longer.context
    assert shorter.context.startswith("scored at its own window of 128, not at the baseline's 256")
    text = shown(folder)
    assert "Trial 1 was scored at the baseline's window of 256: " in found.sentence and found.sentence[:60] in text
    assert len(re.findall(r"trial 1 seed \d+: val_bpb \d\.\d{4} \(\d\.\d{4} in windows of 256 tokens\)", said)) == 2
    assert said.count("in windows of") == 2, "the others have no second score"
    to_json(longer_runs(folder))


def test_its_runs_are_longer_score_the_test_text_and_share_seeds_that_the_search_never_had(folder: StudyFolder) -> None:
    run(folder, top=2, budget_factor=2.5, seeds=2)
    requests = [json.loads(path.read_text()) for path in sorted(folder.path.glob("promotions/x2.5/*/request.json"))]
    assert [request["budget"] for request in requests] == [{"tokens": 500_000}] * 6
    assert all(request["score_test"] for request in requests)
    searched = {seed for (seed,) in query(folder, "SELECT seed FROM runs")}
    by_trial: dict[int, set[int]] = {}
    for trial, seed in query(folder, "SELECT trial, seed FROM promotions"):
        by_trial.setdefault(trial, set()).add(seed)
    assert set(by_trial) == {0, SHRINK, LATE}  # the baseline and the two best of the search
    assert len({frozenset(seeds) for seeds in by_trial.values()}) == 1 and not by_trial[0] & searched
    assert {request["seed"] for request in requests} == by_trial[0]
    assert query(folder, "SELECT DISTINCT tokens FROM promotions") == [(500_000,)]


def test_kept_recipes_go_before_better_numbers_that_nobody_replicated(folder: StudyFolder) -> None:
    folder.store.db.execute("UPDATE trials SET decision = 'discard' WHERE number = ?", [SHRINK])
    folder.store.db.conn.commit()
    chosen = [trial.number for trial in best_recipes(Evidence(folder), 4)]
    assert chosen == [0, LATE, LR, FADE, SHRINK]


def test_a_promotion_killed_in_the_middle_goes_on_to_the_same_numbers(folder: StudyFolder, tmp_path: Path) -> None:
    shutil.copytree(folder.path, tmp_path / "calm" / "one")
    calm = StudyFolder(tmp_path / "calm", "one")
    run(calm, top=2)
    folder.store.close()
    child = os.fork()
    if child == 0:
        try:
            study = StudyFolder(tmp_path, "one")
            run(study, Stubs(study, finished=4, happens="SIGKILL"), top=2)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])

    folder = StudyFolder(tmp_path, "one")
    before = query(folder, "SELECT trial, seed, finished_at FROM promotions")
    assert len(before) == 3, "the fourth had ended, but was not written down"
    written = {path: path.stat().st_mtime_ns for path in folder.path.glob("promotions/x16/*/result.json")}
    launcher = Stubs(folder)
    assert run(folder, launcher, top=2)[0] == "9 runs done, as asked"
    assert launcher.submitted <= 9 - len(written) < 6  # its workers may still have been writing
    assert set(before) < set(query(folder, "SELECT trial, seed, finished_at FROM promotions"))
    assert all(path.stat().st_mtime_ns == then for path, then in written.items()), "a finished run was done again"
    assert sorted(numbers(folder)) == sorted(numbers(calm))


def test_ctrl_c_finishes_what_is_in_flight_and_says_how_to_go_on(folder: StudyFolder) -> None:
    ended, said = run(folder, Stubs(folder, finished=1, happens="SIGINT"), top=2)
    done = len(numbers(folder))
    assert 1 <= done < 9
    assert ended == f"ended by SIGINT: {9 - done} of 9 runs left; the same command goes on with them"
    assert "SIGINT: finishing the runs in flight" in said
    assert run(folder, top=2)[0] == "9 runs done, as asked"


def test_more_seeds_add_runs_and_keep_those_that_are_there(folder: StudyFolder) -> None:
    run(folder, top=1, seeds=1)
    first = numbers(folder)
    launcher = Stubs(folder)
    run(folder, launcher, top=1, seeds=3)
    assert launcher.submitted == 4 and set(first) < set(numbers(folder))


def test_a_worker_that_dies_once_is_replaced(folder: StudyFolder) -> None:
    _, said = run(folder, top=5, seeds=1)
    assert "trial 5 seed 1000: the worker process ended with exit code 7; it is tried once more" in said
    assert query(folder, f"SELECT state FROM promotions WHERE trial = {DISCARDED}") == [("complete",)]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"top": 0}, "--top 0"),
        ({"seeds": 0}, "--seeds 0"),
        ({"budget_factor": 1.0}, "--budget-factor 1: it must be above 1"),
        ({"budget_factor": float("nan")}, "--budget-factor nan"),
        ({"budget_factor": 1.000001}, "stays as it is"),
    ],
)
def test_a_promotion_that_means_nothing_is_refused(folder: StudyFolder, asked: dict[str, float], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        promote(folder, Console(file=io.StringIO()), **asked)  # type: ignore[arg-type]
    assert numbers(folder) == []


def test_a_study_with_nothing_to_promote_is_refused(folder: StudyFolder, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(UserError, match="the baseline of study new is not measured yet: `autoresearch run new`"):
        promote(make_study(tmp_path, "new"), console)
    alone = make_study(tmp_path, "alone")
    run_study(alone, [])
    with pytest.raises(UserError, match="no complete trial yet"):
        promote(alone, console)
    with sqlite3.connect(folder.path / "study.db") as database:
        database.execute("UPDATE studies SET source = '{}'")
    with pytest.raises(UserError, match="was imported"):
        promote(folder, console)


# --- arithmetic over rows that no worker made ---


def ranked(folder: StudyFolder, *levels: float) -> LongerRuns:
    """Two runs of the baseline at 2.75, and of the best recipes of the search, the best one first."""
    for trial, level in zip((0, SHRINK, LATE, LR, FADE, DISCARDED), (2.75, *levels), strict=False):
        write(folder.store, trial, {1000: level, 1001: level + 0.01})
    (found,) = longer_runs(folder)
    return found


def test_a_ranking_turned_round_is_called_so(folder: StudyFolder) -> None:
    found = ranked(folder, 2.9, 2.8, 2.7, 2.6)
    assert found.spearman == pytest.approx(-1.0) and found.held is False
    assert "was turned round: Spearman -1.00 over 4 recipes besides the baseline, as bad as chance" in found.sentence
    assert "gives in 4.2 % of cases" in found.sentence
    best = survivor(found)
    assert best and best.trial == FADE


def test_three_recipes_are_too_few_to_say_that_a_ranking_held(folder: StudyFolder) -> None:
    found = ranked(folder, 2.5, 2.6, 2.7)
    assert found.n_ranked == 3 and found.spearman == pytest.approx(1.0) and found.held is None
    assert found.by_chance == pytest.approx(1 / 6)
    assert "cannot be told from 3 recipes besides the baseline: Spearman +1.00, the same order, which" in found.sentence
    assert "chance alone gives 1 time in 6." in found.sentence and "search held:" not in found.sentence


def test_half_of_an_order_is_no_ranking_that_held(folder: StudyFolder) -> None:
    found = ranked(folder, 2.6, 2.5, 2.7)
    assert found.spearman == pytest.approx(0.5) and found.held is None
    assert "Spearman +0.50, which chance alone gives or betters in 50 % of cases" in found.sentence


def test_four_recipes_in_the_same_order_held(folder: StudyFolder) -> None:
    found = ranked(folder, 2.5, 2.6, 2.7, 2.8)
    assert found.held and found.by_chance == pytest.approx(1 / 24)
    assert "the ranking of the search held: Spearman +1.00 over 4 recipes besides the baseline" in found.sentence


def test_five_recipes_may_have_one_pair_of_neighbours_swapped(folder: StudyFolder) -> None:
    found = ranked(folder, 2.4, 2.5, 2.7, 2.6, 2.8)
    assert found.spearman == pytest.approx(0.9) and found.held and found.by_chance == pytest.approx(5 / 120)
    for trial in (SHRINK, LATE):
        write(folder.store, trial, {1002: 2.45 + 0.2 * (trial == SHRINK), 1003: 2.45 + 0.2 * (trial == SHRINK)})
    (again,) = longer_runs(folder)
    assert again.spearman == pytest.approx(0.8) and again.held is None, "two pairs: chance does as well in 7 %"


@pytest.mark.parametrize("recipes", [3, 4, 5, 6, 7, 8, 20])
def test_chance_alone_agrees_below_one_in_twenty_less_often_than_that(recipes: int) -> None:
    rng = random.Random(0)
    orders = [*itertools.permutations(range(recipes))] if recipes <= 5 else []
    orders = orders or [tuple(rng.sample(range(recipes), recipes)) for _ in range(150)]
    found = [order_by_chance(range(recipes), order) for order in orders]
    # All orders of a few recipes; of more, a draw, whose share is off by up to 0.035.
    spare = 0.0 if recipes <= 5 else 0.035
    for below in zip(*found, strict=True):
        assert sum(p < 0.05 for p in below) / len(orders) <= 0.05 + spare
    assert order_by_chance(range(recipes), range(recipes))[1] == 1.0


def test_two_recipes_make_no_ranking(folder: StudyFolder) -> None:
    write(folder.store, 0, {1000: 2.9})
    write(folder.store, LR, {1000: 2.7})
    (found,) = longer_runs(folder)
    assert (found.spearman, found.held) == (None, None)
    assert "too few recipes are measured for a ranking" in found.sentence


def test_gains_are_over_the_baseline_in_bits_per_byte_also_on_the_test_text(folder: StudyFolder) -> None:
    baseline, candidate = {1000: 2.80, 1001: 2.83, 1002: 2.86}, {1000: 2.71, 1001: 2.75, 1002: 2.76}
    write(folder.store, 0, baseline)  # type: ignore[arg-type]
    write(folder.store, LR, candidate)  # type: ignore[arg-type]
    row = longer_runs(folder)[0].rows[1]
    expected = fmean(baseline.values()) - fmean(candidate.values())
    assert row.long_gain == pytest.approx(expected) and row.test_gain == pytest.approx(expected)
    assert row.long_low is not None and row.long_high is not None
    assert row.long_low + row.long_high == pytest.approx(2 * expected)
    assert (row.n_runs, row.n_test_runs) == (3, 3) and row.long_val_bpb == pytest.approx(2.74)


def test_failures_are_states_and_never_numbers(folder: StudyFolder) -> None:
    write(folder.store, 0, {1000: 2.80, 1001: "timed_out"})
    write(folder.store, LR, {1000: "out_of_memory", 1001: "timed_out"})
    write(folder.store, FADE, {1000: "diverged", 1001: 2.5})
    (found,) = longer_runs(folder)
    rows = {row.trial: row for row in found.rows}
    assert rows[LR].verdict == "not measured" and rows[LR].long_val_bpb is None
    assert [failure.failure for failure in rows[LR].failures] == ["out_of_memory", "timed_out"]
    # One good seed does not make up for one that blew up; at step 9 it was not late: the search's runs have 25.
    assert rows[FADE].verdict == "diverged" and rows[FADE].diverged == [Divergence(1000, 9, False)]
    assert survivor(found) is None
    assert "Trial 0 failed with seed 1001: timed out." in found.sentence
    assert "Trial 3 diverged with seed 1000 at step 9." in found.sentence
    assert "not measured" in shown(folder)


def test_each_budget_is_told_by_itself_the_longest_last(folder: StudyFolder) -> None:
    for factor in (16.0, 4.0):
        write(folder.store, 0, {1000: 2.8}, factor)
        write(folder.store, LR, {1000: 2.6}, factor)
    assert [(found.factor, found.budget) for found in longer_runs(folder)] == [
        (4.0, "800,000 tokens a run"),
        (16.0, "3,200,000 tokens a run"),
    ]
    assert longer_runs(make_study(folder.path.parent, "new")) == []
    assert "Nothing is promoted yet" in shown(StudyFolder(folder.path.parent, "new"))
