"""What a night's report says of a student: beside its race, without one, and whatever the race's file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from studies import BAD, GOOD, change, make_study, run_study

from autoresearch.evidence.meters import meters_of
from autoresearch.evidence.shares import Average, Share
from autoresearch.facts import to_json
from autoresearch.morning.report.facts import facts
from autoresearch.morning.report.markdown import markdown
from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.study.folder import StudyFolder
from autoresearch.terminal.meters import meter_lines
from autoresearch.trial import History, Proposal

ANSWERS = [change("lr", GOOD), change("lr", BAD), change("lr", 99), change("beta1", 0.6), change("beta1", 0.7)]
WHO = ["scratch", "gp", "scratch", "scratch", "gp"]


class InTurns(ScriptedProposer):
    """A script that several wrote."""

    def __init__(self) -> None:
        super().__init__(list(ANSWERS))
        self._who = list(WHO)

    def propose(self, history: History) -> Proposal:
        return Proposal(super().propose(history).raw, self._who.pop(0))


def night(home: Path, name: str) -> StudyFolder:
    folder = make_study(home, decision__max_runs=2, limits__run_seconds=5.0, proposer__name=name)
    run_study(folder, proposer=InTurns(), trials=len(ANSWERS), workers=1)
    return folder


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    home = tmp_path_factory.mktemp("student")
    return night(home, f"hybrid:scratch:{home / 'student'}")


def racer(name: str, hits: int, mean: float | None) -> dict[str, Any]:
    low, high = (None, None) if mean is None else (mean - 0.001, mean + 0.001)
    earned = {"known": {"hits": 0 if mean is None else 9, "n": 40}, "mean": mean, "low": low, "high": high}
    return {"name": name, "valid": {"hits": hits, "n": 40}, "earned": earned}


def race(winner: str | None, mean: float | None = 5.0) -> dict[str, Any]:
    """Of a student that lay elsewhere then."""
    names = ("scratch:/then", "hybrid:scratch:/then", "gp")
    lead = {"proposer": names[1], "nights": 8, "gain": {"mean": 0.02, "low": 0.01, "high": 0.03}, "p": 0.01}
    outcome = {"teacher": "gp", "nights": 8, "runs": 50, "winner": winner, "verdict": "", "leads": [lead]}
    racers = [racer(names[0], 40, mean), racer(names[1], 39, 0.1), racer(names[2], 40, None)]
    return {"studies": ["one"], "hold_out": 0.2, "seed": 0, "verdict": "", "racers": racers, "outcome": outcome}


def told(folder: StudyFolder, race: dict[str, Any] | str | None) -> dict[str, str]:
    """Meter -> what it says."""
    place = folder.path.parent / "student"
    place.mkdir(exist_ok=True)
    (place / "race.json").unlink(missing_ok=True)
    if race is not None:
        (place / "race.json").write_text(race if isinstance(race, str) else json.dumps(race))
    return {line.name: line.text for line in meter_lines(meters_of(folder))}


def test_a_night_is_told_beside_its_race(hybrid: StudyFolder) -> None:
    lines = told(hybrid, race("hybrid:scratch:/then"))
    assert lines["scratch was valid"] == (
        "2 of 3 [21, 94 %], of its proposals passed the rails; in its race 40 of 40 [91, 100 %], the difference "
        "beyond noise"
    )
    earned = lines["scratch earned"]
    own = meters_of(hybrid).student
    assert own and (own.earned.n, own.optimizers.n) == (2, 2) and own.earned.mean and own.optimizers.mean
    assert own.earned.mean > own.optimizers.mean, "the good learning rate was its idea"
    assert "(n = 2), bits per byte a proposal that was measured" in earned and "(n = 2) by gp" in earned
    assert "in its race +5.0000 [+4.9990, +5.0010] (n = 9), the difference beyond noise" in earned
    assert lines["its race"] == (
        "won, hybrid:scratch against gp, its teacher: +0.0200 [+0.0100, +0.0300] bits per byte at the end of "
        "8 simulated nights of 50 runs"
    )


def test_a_race_that_was_lost_or_had_no_searches_says_so(hybrid: StudyFolder) -> None:
    assert told(hybrid, race(None))["its race"].startswith("not won, hybrid:scratch against gp")
    assert told(hybrid, race("scratch:/then"))["its race"].startswith("not won"), "it won alone, not as it was asked"
    lines = told(hybrid, {**race(None), "outcome": None})
    assert lines["its race"] == "not won, hybrid:scratch had no whole searches in it, without which nobody wins"
    assert told(hybrid, race(None, None))["scratch earned"].endswith("in its race - (n = 0)"), "nothing to compare"


@pytest.mark.parametrize("spoilt", [None, "{", '{"racers": [], "studies": "x"}', "[" * 100_000])
def test_without_a_race_one_line_says_so(spoilt: str | None, hybrid: StudyFolder) -> None:
    lines = told(hybrid, spoilt)
    assert lines["its race"].startswith("none to compare with, ")
    assert lines["its race"].endswith(" holds no race.json that can be read")
    assert "race" not in lines["scratch was valid"] + lines["scratch earned"]


def test_the_page_and_the_markdown_have_it_and_no_text_of_the_race_is_markup(hybrid: StudyFolder) -> None:
    hostile = race("hybrid:scratch:/then")
    hostile["outcome"]["teacher"] = "<b>gp</b>\x1b[2J| [x](http://y)"
    told(hybrid, hostile)
    known = facts(hybrid)
    assert {"scratch was valid", "scratch earned", "its race"} <= {line.name for line in known.meters}
    page = markdown(known)
    assert "- its race: won, " in page and "<b>" not in page and "\x1b" not in page and r"\](http&#58;//y)" in page
    assert '"student"' in to_json(meters_of(hybrid))


def test_a_night_without_a_student_has_none_of_it(tmp_path: Path) -> None:
    folder = night(tmp_path, "gp")
    assert not [line.name for line in meter_lines(meters_of(folder)) if "race" in line.name or "valid" in line.name]
    assert '"student"' not in to_json(meters_of(folder))


def test_figures_differ_only_beyond_noise() -> None:
    assert Share.of(9, 10).is_like(Share.of(40, 40)) and not Share.of(60, 100).is_like(Share.of(40, 40))
    assert Share.of(40, 40).is_like(Share.of(9, 10)) and Share.of(0, 0).is_like(Share.of(1, 2)) is None
    near, far = Average.of([0.0, 0.2, 0.1]), Average(9, 0.5, 0.45, 0.55)
    assert near.low == pytest.approx(0.1 - 4.30265 * 0.1 / 3**0.5, abs=1e-6) and not near.is_like(far)
    assert near.is_like(Average(9, 0.2, 0.1, 0.3)) and Average.of([0.1]).is_like(far) is None
