"""Whole searches in a race: simulated nights, real runs with stub workers, and who has won."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import Command
from rich.console import Console
from search import outcome as nights_of
from search.night import AtOnce, simulate_in
from studies import GOOD, STUB, change, make_study, query, run_study

from autoresearch.distill.race import outcome
from autoresearch.distill.race.outcome import teacher_of
from autoresearch.distill.race.racers import Spec
from autoresearch.distill.race.real import real_searches
from autoresearch.distill.race.searches import REAL, Search, found_in, leads_in, search_of, verdict, winner_of
from autoresearch.errors import UserError
from autoresearch.proposers.bayes import BayesProposer
from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.study import requests
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import History, Proposal
from autoresearch.workers.local import LocalLauncher
from rails import Value
from trainer.protocol import RunResult

CLI = (sys.executable, str(Path(__file__).parents[2] / "support" / "stub_cli.py"))


class Mine(ScriptedProposer):
    """A script that says who it is."""

    def __init__(self, answers: Sequence[str], who: str) -> None:
        super().__init__(list(answers))
        self.who = who

    def propose(self, history: History) -> Proposal:
        return Proposal(super().propose(history).raw, self.who)


def taught(home: Path, who: str = "gp") -> StudyFolder:
    """A study that can be raced, at home in `home`, whose trials `who` has proposed."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "text.txt").write_text("".join(f"Line {n} says {n * n}.\n" for n in range(4000)))
    folder = make_study(
        home,
        "mine",
        decision__max_runs=4,
        limits__run_seconds=5.0,
        workers=1,
        data__source=str(home / "text.txt"),
        data__vocab_size=300,
        data__val_bytes=9000,
        data__test_bytes=9000,
    )
    run_study(folder, proposer=Mine([change("lr", GOOD), change("lr", 99), change("beta1", 0.55)], who), workers=1)
    return folder


def night(proposer: str, night: int, *best: float | None, world: str = "smooth", **counts: Any) -> Search:
    facts: dict[str, Any] = {"asked": 10, "failed": 1, "blocked": 2, "proposed": {"lr in part 1 of 10": 4}, "by": {}}
    return Search(proposer, world, night, [*best], **{**facts, **counts})


def nights(proposer: str, ends: Sequence[float], world: str = "smooth") -> list[Search]:
    return [night(proposer, n, 3.0, end, world=world) for n, end in enumerate(ends)]


# --- figures ---


def test_figures_of_nights_are_checked_by_hand() -> None:
    searches = [night("gp", n, 3.0, 2.8, 2.6, 2.4 + 0.1 * n) for n in range(3)]
    searches += [night("tpe", 0, 3.0, 2.45, 2.45, 2.45), night("tpe", 1, 3.0, 2.9, 2.7), night("tpe", 2, 3.0)]
    gp, tpe = found_in(searches, "gp", 4)
    assert list(gp.best) == [1, 2, 4] and tpe.nights == 3
    last = gp.best[4]
    assert last and last.mean == pytest.approx(2.5) and last.high == pytest.approx(2.5 + 4.3027 * 0.1 / math.sqrt(3))
    assert (gp.to_teacher, gp.never) == (4, 1), "its level is 2.5, where two of three nights end"
    assert (tpe.to_teacher, tpe.never) == (None, 2), "two of three never come there"
    assert tpe.gain and tpe.gain.mean == pytest.approx(((2.4 - 2.45) + (2.5 - 2.7) + (2.6 - 3.0)) / 3)
    assert tpe.p == 0.25 and gp.gain is None, "three of three on one side"
    assert (tpe.failed.hits, tpe.failed.n, tpe.blocked.hits) == (3, 30, 6)
    assert gp.entropy == 0.0 and tpe.of_teachers is None
    varied = found_in([*nights("gp", [2.5]), night("tpe", 0, 3.0, 2.5, proposed={"a": 1, "b": 1})], "tpe", 2)
    assert [each.entropy for each in varied] == [0.0, 1.0] and varied[0].of_teachers == 0.0


def test_one_real_night_has_no_interval_and_claims_nothing() -> None:
    searches = [night("gp", 0, None, 2.8, 2.7, world=REAL), night("tpe", 0, 2.9, 2.6, 2.5, world=REAL)]
    gp, tpe = found_in(searches, "gp", 3)
    assert gp.best[1] is None and (best := tpe.best[3]) and (best.mean, best.low, best.high) == (2.5, None, None)
    assert tpe.gain and tpe.gain.mean == pytest.approx(0.2) and (tpe.gain.low, tpe.p) == (None, None)
    assert leads_in(searches, "gp", 3) == [] and winner_of([]) is None


def test_a_proposer_wins_only_beyond_noise() -> None:
    rng = random.Random(0)
    teacher = [2.2 + 0.02 * rng.gauss() for _ in range(10)]
    both = {world: nights("gp", teacher, world) for world in ("smooth", "steps")}
    for lead, spread, won in ((0.05, 0.01, "tpe"), (0.005, 0.05, None), (-0.05, 0.01, None)):
        searches = [search for group in both.values() for search in group]
        for world in both:
            searches += nights("tpe", [end - lead + spread * rng.gauss() for end in teacher], world)
            searches += nights("random", [end + 0.1 for end in teacher], world)
        leads = leads_in(searches, "gp", 2)
        sentence = verdict(leads, "gp", 2, 2)
        assert winner_of(leads) == won
        assert [each.proposer for each in leads] == ["tpe", "random"]
        assert leads[0].gain.mean == pytest.approx(lead, abs=spread)
        assert sentence.count(". ") == 0 and "Holm's correction for 2 proposers" in sentence
        assert sentence.startswith("tpe won: " if won else "Nobody won, and gp stays")
        assert ("within noise" in sentence) == (spread > 0.01)
        assert ("is behind the teacher by +0.0" in sentence) == (leads[0].gain.mean < 0)


def test_a_lead_must_hold_on_the_mean_over_surrogates() -> None:
    ends = [2.2 + 0.01 * n for n in range(10)]
    searches = [*nights("gp", ends), *nights("gp", ends, "steps"), *nights("tpe", [end - 0.1 for end in ends])]
    searches += nights("tpe", [end + 0.3 for end in ends], "steps")
    assert winner_of(leads_in(searches, "gp", 2)) is None


def test_few_nights_cannot_make_a_winner_and_the_sentence_says_so() -> None:
    ends = [2.2 + 0.01 * n for n in range(5)]
    leads = leads_in([*nights("gp", ends), *nights("tpe", [end - 0.5 for end in ends])], "gp", 2)
    assert winner_of(leads) is None and "in 5 nights none can be beyond it" in verdict(leads, "gp", 2, 1)
    one = leads_in([*nights("gp", ends[:1]), *nights("tpe", [1.0])], "gp", 2)
    assert winner_of(one) is None and "of one night nothing is claimed" in verdict(one, "gp", 2, 1)
    assert "nobody else searched" in verdict([], "gp", 2, 1)


# --- what a study tells ---


class Valley:
    """A world whose best learning rate is GOOD."""

    def truth(self, recipe: Mapping[str, Value]) -> float:
        return 2.5 + 0.1 * abs(math.log(float(recipe["lr"]) / GOOD))

    def run(self, recipe: Mapping[str, Value], seed: int, night: int) -> RunResult:
        rng = random.Random(f"{night}/{seed}/{sorted(recipe.items())}")
        if float(recipe["beta1"]) < 0.6:
            return RunResult("run", seed, "failed", failure="diverged", message="it did", total_seconds=10.0)
        score = self.truth(recipe) + rng.gauss(0, 0.005)
        return RunResult("run", seed, "complete", val_bpb=score, test_bpb=score, total_seconds=10 + rng.random())


@pytest.mark.parametrize("workers", [1, 3])
def test_a_study_still_knows_what_stood_after_each_of_its_runs(tmp_path: Path, workers: int) -> None:
    folder = make_study(tmp_path, seed=3, decision__confirmation_runs=5)
    seen = simulate_in(folder, Valley(), AtOnce(BayesProposer()), 3, 60, workers)
    both = [
        (told, stood.told)
        for told, stood in zip(folder.store.standings()[:60], seen, strict=True)
        if stood.told is not None  # not before the baseline is closed
    ]
    assert len(both) >= 57 and [told for told, _ in both] == pytest.approx([stood for _, stood in both])
    assert len(folder.store.merged()) > 2, "the incumbent has moved"


def test_the_teacher_is_who_proposed_most_trials_and_else_gp(tmp_path: Path) -> None:
    assert teacher_of([taught(tmp_path / "a", "tpe"), make_study(tmp_path / "b")]) == (Spec("tpe"), [])
    for who in ("llm", "agent <7>\x1b[2J"):
        spec, (note,) = teacher_of([taught(tmp_path / who[:3], who)])
        assert spec == Spec("gp") and "cannot be asked again" in note and "\x1b" not in note
    assert teacher_of([make_study(tmp_path / "c")]) == (Spec("gp"), [])


def test_failed_and_blocked_trials_and_buckets_are_counted(tmp_path: Path) -> None:
    found = search_of(taught(tmp_path), "gp", REAL, 0, [2.9])
    assert (found.asked, found.failed, found.blocked, found.by) == (3, 1, 1, {"gp": 3})
    assert found.proposed == {"beta1 in part 2 of 10": 1, "lr in part 7 of 10": 1}


# --- the command ---


def test_nights_are_raced_on_the_benchmark(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "SURROGATES", ("steps",))  # the other one takes longer to fit
    taught(tmp_path / "home")
    arguments = ["race", "mine", "--proposers", "random", "--hold-out", "1", "--nights", "2", "--runs", "8"]
    said = command(*arguments, "--out", str(tmp_path / "out"))
    assert said.code == 0, said.err
    text = (tmp_path / "out" / "race.json").read_text()
    found = json.loads(text)["outcome"]
    assert (found["teacher"], found["winner"], found["nights"], found["runs"]) == ("gp", None, 2, 8)
    assert [(each["world"], each["proposer"]) for each in found["found"]] == [("steps", "random"), ("steps", "gp")]
    assert [len(search["best"]) for search in found["searches"]] == [8] * 4
    first, second = found["searches"][:2]
    assert first["best"][0] == second["best"][0], "the same baseline"
    assert found["verdict"] in said.out and "Surrogate: steps" in (tmp_path / "out" / "race.md").read_text()
    assert (tmp_path / "out" / "race-outcome.svg").read_text().startswith("<svg")


def test_a_night_is_the_same_whenever_it_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nights_of._worlds, "valley", Valley())
    first, again, other = (nights_of.search("one", {"name": "random"}, "valley", n, 12) for n in (0, 0, 1))
    assert first == again and first.proposed != other.proposed and len(first.best) == 12


def test_without_the_benchmark_it_is_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "CLONE", tmp_path)
    taught(tmp_path / "home")
    said = command("race", "mine", "--proposers", "random", "--nights", "2")
    assert said.code == 2 and "takes a clone of the repository" in said.err and said.err.count("\n") == 1


def test_a_benchmark_that_fails_is_one_line(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "SURROGATES", ("none",))
    taught(tmp_path / "home")
    said = command("race", "mine", "--proposers", "random", "--hold-out", "1", "--nights", "2")
    assert said.code == 2 and "KeyError: 'none'" in said.err and said.err.count("\n") == 1


def test_real_runs_are_made_in_studies_of_their_own_and_not_again(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "LocalLauncher", partial(LocalLauncher, command=STUB))
    first = taught(tmp_path / "home", "tpe")
    out = tmp_path / "out"
    said = command("race", "mine", "--proposers", "random", "--hold-out", "1", "--out", str(out), "--real", "3")
    assert said.code == 0, said.err
    found = json.loads((out / "race.json").read_text())["outcome"]
    assert (found["real_runs"], found["winner"], found["nights"], found["leads"]) == (3, None, 0, [])
    assert "n = 1 night each, nothing is claimed" in found["verdict"] and found["verdict"] in said.out
    assert [(each["world"], each["proposer"]) for each in found["found"]] == [("real", "random"), ("real", "tpe")]
    studies = {name: StudyFolder(out / "real", name) for name in ("random", "tpe")}
    ended = "SELECT trial, seed, finished_at FROM runs"
    before = {name: query(folder, ended) for name, folder in studies.items()}
    for name, folder in studies.items():
        assert folder.settings.proposer.name == name and folder.menu_text == first.menu_text
        assert folder.settings.decision == first.settings.decision and folder.settings.seed == first.settings.seed
        (best,) = (search["best"] for search in found["searches"] if search["proposer"] == name)
        assert best == pytest.approx(folder.store.standings()[:3], abs=1e-6)

    def again(study: StudyFolder, runs: int) -> list[Search]:
        specs, quiet = [Spec("random"), Spec("tpe")], Console(quiet=True)
        return real_searches(study, specs, runs, out / "real", quiet)[0]

    assert [search.best for search in again(first, 3)] == [search["best"] for search in found["searches"]]
    assert before == {name: query(folder, ended) for name, folder in studies.items()}, "they had their runs"
    assert [len(search.best) for search in again(first, 7)] == [7, 7]
    assert all(len(folder.store.standings()) == 7 for folder in studies.values()), "no run only to settle"
    purposes = {row[0] for folder in studies.values() for row in query(folder, "SELECT purpose FROM runs")}
    assert "confirmation" not in purposes, "nobody asked for more runs than these"
    with pytest.raises(UserError, match="name another --out"):
        again(make_study(tmp_path / "other", decision__max_runs=5), 3)


def test_ctrl_c_leaves_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught(tmp_path / "home")
    monkeypatch.setenv("AUTORESEARCH_HOME", str(tmp_path / "home"))
    arguments = ["race", "mine", "--proposers", "random", "--hold-out", "1", "--out", str(tmp_path / "out")]
    race = subprocess.Popen([*CLI, *arguments, "--real", "1000"], stdout=subprocess.PIPE, text=True)
    assert race.stdout is not None
    for line in race.stdout:
        if line.startswith("trial 2"):
            race.send_signal(signal.SIGINT)
            break
    rest = race.stdout.read()
    assert race.wait() == 0 and "before all real runs of random, gp were made: the same command" in rest
    assert StudyFolder(tmp_path / "out" / "real", "gp").store.runs() == []
