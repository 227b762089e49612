"""A race: figures that were checked by hand, and proposers that answer, fail, or answer with what they should not."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import histories
import published
import pytest
from command_line import Command
from endpoint import KEY, Endpoint, completion
from sample_study import HOSTILE
from studies import BAD, GOOD, change, make_study, run_study

from autoresearch.distill.race import racers
from autoresearch.distill.race.compete import SAMPLES, Race, race
from autoresearch.distill.race.figures import (
    PairTest,
    compared,
    figures,
    holm,
    mcnemar,
    mode_of,
    verdict,
)
from autoresearch.distill.race.held import NO_ANSWER, Answer, State, states_of
from autoresearch.distill.race.racers import MOST_SILENT, Racer, Spec, sample_seed
from autoresearch.distill.race.text import markdown, write
from autoresearch.errors import UserError
from autoresearch.evidence.shares import share_of
from autoresearch.exchange import import_study
from autoresearch.facts import to_json
from autoresearch.proposers import NothingLeft, make_proposer
from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import History, Proposal

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "distill.md"
EXAMPLE = ROOT / "trajectories" / "example" / "trajectory.jsonl"
# Kept, discarded, failed, blocked, and three that are held out: one of them blocked.
STORY = [
    change("lr", 0.002), change("d_ff", 256), change("beta1", 0.55), change("lr", 99), change("weight_decay", 0.125),
    change("n_head", 8), change("lr", GOOD), change("lr", 99), change("lr", BAD),
]  # fmt: skip
TIMES = ("seconds", "joules", "energy_sources")


class Recorded(ScriptedProposer):
    """A script that says it is a proposer which can be asked again."""

    def propose(self, history: History) -> Proposal:
        return Proposal(super().propose(history).raw, "random")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = make_study(tmp_path_factory.mktemp("night"), decision__max_runs=4)
    run_study(folder, proposer=Recorded(STORY), workers=1)
    return folder


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return import_study(tmp_path_factory.mktemp("example"), "example", EXAMPLE)


def raced(folder: StudyFolder, *names: str, hold_out: float = 0.34, seed: int = 0) -> Race:
    return race([folder], [Spec.read(name) for name in names], hold_out, seed)


def without_times(held: Race) -> Any:
    found = json.loads(to_json(held))
    for column in [*found["racers"], found["again"], found["teacher"]]:
        for name in TIMES:
            column.pop(name)
    return found


def state(trial: int, choice: Answer | None = None, **changes: Any) -> State:
    """One whose study chose that change."""
    return State("one", trial, histories.history(), choice or passed(**changes), None, lambda key: None)


def passed(gain: float | None = None, /, **changes: Any) -> Answer:
    return Answer(changes, None, gain)


BLOCKED = Answer(None, "range")


# --- figures ---


def test_a_share_has_wilsons_interval() -> None:
    found = share_of([True, True, False, False, False, False, False])
    # (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) with p = 2/7, by hand
    assert (found.hits, found.n) == (2, 7) and found.low == pytest.approx(0.0822, abs=5e-4)
    assert found.high == pytest.approx(0.6411, abs=5e-4)
    nothing, everything = share_of([False] * 4), share_of([True] * 4)
    assert nothing.low == 0 and everything.high == 1 and nothing.high == pytest.approx(1 - (everything.low or 0))
    assert share_of([]).share is None


def test_mcnemars_test_is_the_sign_test_of_what_differs() -> None:
    assert mcnemar(0, 5) == mcnemar(5, 0) == 2 / 32
    assert mcnemar(1, 5) == pytest.approx(2 * 7 / 64)
    assert mcnemar(3, 3) == mcnemar(0, 0) == 1.0


def test_holms_correction_keeps_order() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_the_mode_is_of_what_passed_and_the_first_of_several() -> None:
    one, other = passed(lr=0.1), passed(lr=0.2)
    assert mode_of([BLOCKED, BLOCKED, BLOCKED, other, one]) is other
    assert mode_of([other, one, one, BLOCKED, BLOCKED]) is one
    assert mode_of([BLOCKED, Answer(None, NO_ANSWER)]) is BLOCKED
    both = passed(a=1, b=2)
    assert mode_of([other, passed(b=2, a=1), both]).changes == both.changes


def test_matches_are_counted_by_hand() -> None:
    states = [state(1, lr=0.1), state(2, lr=0.1, d_ff=256), state(3, d_ff=256), state(4, BLOCKED)]
    entry = {
        0: [passed(0.5, lr=0.1), passed(1.0, lr=0.2), passed(lr=0.2)],  # exact; its mode has the knob alone
        1: [passed(lr=0.1), BLOCKED, BLOCKED],  # one of two knobs
        2: [BLOCKED, BLOCKED, passed(0.25, d_ff=256)],  # nothing; its mode exact
        3: [passed(lr=0.1), BLOCKED, Answer(None, NO_ANSWER)],  # there is no choice to match
    }
    found = figures("one", states, entry, 0)
    assert [(each.exact.hits, each.exact.n) for each in (found.one, found.mode)] == [(1, 3), (1, 3)]
    assert [(each.same_knobs.hits, each.shared_knob.hits) for each in (found.one, found.mode)] == [(1, 2), (2, 3)]
    assert (found.valid.hits, found.valid.n) == (3, 4) and found.blocked == {NO_ANSWER: 1, "range": 5}
    assert (found.valid_of_all.hits, found.samples) == (6, 12)
    assert found.earned.known.hits == 2 and found.earned.mean == pytest.approx((0.75 + 0.25) / 2)
    assert found.earned.low == pytest.approx(0.25) and found.earned.high == pytest.approx(0.75)
    # first samples: lr = 0.1 three times
    assert found.diversity.knob_entropy == found.diversity.pair_entropy == 0.0
    assert (found.diversity.most_frequent, found.diversity.most_frequent_share) == ("lr = 0.1", 1.0)
    assert 0 < found.diversity.knob_entropy_uniform < math.log2(3)
    assert found.seconds is None and found.joules is None


def test_one_measured_state_has_no_interval() -> None:
    found = figures("one", [state(1, lr=0.1)], {0: [passed(0.5, lr=0.1)]}, 0)
    assert found.earned.mean == 0.5 and found.earned.low is None


def test_a_lead_is_noise_until_it_is_not() -> None:
    for n, said in ((5, "within noise"), (8, "beyond noise")):
        states = [state(trial, lr=0.1) for trial in range(n)]
        entries = {
            name: {place: [passed(lr=value)] for place in range(n)}
            for name, value in {"good": 0.1, "bad": 0.2, "worse": 0.3}.items()
        }
        tests = compared(states, entries)
        columns = [figures(name, states, entry, 0) for name, entry in entries.items()]
        sentence = verdict(columns, tests)
        assert f"good won by exact match: it made the teacher's whole change in {n} of {n} states" in sentence
        assert said in sentence and "Holm's correction for 3 pairs" in sentence
        assert [test.p for test in tests if test.measure == "validity"] == [1.0] * 3
    assert tests[0] == PairTest("exact match", "good", "bad", 8, 0, 2 / 256, 6 / 256)
    assert "Nobody won by exact match: bad and worse each" in verdict(columns[1:], tests[2:3])
    assert "it raced alone" in verdict(columns[:1], [])


# --- states ---


def test_states_are_what_was_known_before_each_held_out_proposal(night: StudyFolder, example: StudyFolder) -> None:
    states = states_of(night, 0.34)
    assert [each.trial for each in states] == [7, 8, 9] and [each.history.number for each in states] == [7, 8, 9]
    assert states[0].choice.changes == {"lr": GOOD} and states[1].choice.rail == "range"
    assert states[0].choice.gain is not None and states[0].choice.gain > 0 > (states[2].choice.gain or 0)
    assert [each.trial for each in states_of(example, 0.2)] == list(range(35, 42)), "42 was the night's own idea"


def test_a_study_without_a_held_out_proposal_is_refused(tmp_path: Path, night: StudyFolder) -> None:
    with pytest.raises(UserError, match="no held-out trial"):
        states_of(night, 0.01)
    with pytest.raises(UserError, match="no held-out trial"):
        states_of(make_study(tmp_path), 0.5)


def test_the_documented_race_is_what_comes_out(example: StudyFolder) -> None:
    def columns(text: str, head: str, first: int) -> list[list[str]]:
        table = text[text.index(head) :].partition("\n\n")[0]
        rows = [line.split("|")[1:] for line in table.splitlines()]
        return [[row[0], *row[first : first + 2]] for row in rows if "a proposal" not in row[0]]

    told = markdown(raced(example, "tpe", "random", hold_out=0.5))
    found = columns(told, "| figure | tpe |", 1)
    assert len(found) == 18 and columns(PAGE.read_text("utf-8"), "| figure | gp |", 2) == found


# --- proposers ---


def test_a_model_that_says_what_the_teacher_said_matches_it(night: StudyFolder, endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (200, completion(change("lr", GOOD)))
    held = raced(night, "llm", "llm:other/model", "random")
    llm, other, _ = held.racers
    assert (llm.one.exact.hits, llm.one.exact.n, llm.mode.exact.hits) == (1, 2, 1)
    assert (llm.one.same_knobs.hits, llm.valid.hits) == (1, 1), "later it stands, and what is blocked matches nothing"
    assert llm.by == {"llm": 3 * SAMPLES} and llm.earned.known.hits == 1
    assert llm.earned.mean == states_of(night, 0.34)[0].choice.gain
    assert llm.joules is None and llm.seconds is not None, "nobody meters a model on the processor"
    assert {request["model"] for request in endpoint.requests} == {"test/model", "other/model"}
    assert other.name == "llm:other/model" and other.one == llm.one
    seeds = [request["seed"] for request in endpoint.requests if request["model"] == "test/model"]
    assert len(set(seeds)) == 3 * SAMPLES


def test_every_sample_draws_anew_and_none_as_the_study_did(example: StudyFolder) -> None:
    one = states_of(example, 0.2)[0]
    seeds = [sample_seed(one, 0, n) for n in range(SAMPLES)]
    assert len({*seeds, one.history.seed, sample_seed(one, 1, 0)}) == SAMPLES + 2
    answers = Racer(Spec("random"), example.settings).ask(one, 0, SAMPLES)
    assert len({to_json(answer.changes) for answer in answers}) == SAMPLES
    assert all(answer.energy_source in ("rapl", "estimate") and answer.joules is not None for answer in answers)


def test_the_same_race_gives_the_same(night: StudyFolder) -> None:
    first, again, other = (raced(night, "gp", "random", seed=seed) for seed in (0, 0, 1))
    assert without_times(first) == without_times(again) != without_times(other)
    assert first.again is not None and first.again.states == 3, "random proposed, and is asked again"
    assert first.again.one == first.racers[1].one, "it is asked once where it races too"
    assert first.teacher.blocked == {"range": 1} and first.teacher.one.exact.n == 0


def test_an_endpoint_that_is_down_is_no_answer_of_the_model(night: StudyFolder, endpoint: Endpoint) -> None:
    endpoint.answer = lambda request: (400, json.dumps({"error": {"message": f"{HOSTILE} {KEY}"}}))
    held = raced(night, "llm", "random")
    llm = held.racers[0]
    assert llm.blocked == {NO_ANSWER: 3 * SAMPLES} and llm.valid.hits == 0 and llm.by == {}
    assert len(endpoint.requests) <= 3 * MOST_SILENT, "after some silence nobody waits for the rest"
    assert "does not answer" in llm.notes[0] and "gp proposes" not in llm.notes[0]
    assert KEY not in to_json(held) + markdown(held) and "\x1b" not in to_json(held) + markdown(held)
    assert not re.search(r"(?<!\\)<", markdown(held)), "what an endpoint says of itself is no HTML"


def test_a_model_that_was_left_alone_in_its_night_is_asked(tmp_path: Path, endpoint: Endpoint) -> None:
    class Useless(ScriptedProposer):
        def propose(self, history: History) -> Proposal:
            return Proposal(super().propose(history).raw, "llm")

    folder = make_study(tmp_path, decision__max_runs=4)
    run_study(folder, proposer=Useless([change("lr", 99)] * 8), workers=1)
    held = raced(folder, "llm", hold_out=0.3)
    assert held.racers[0].by == {"llm": 2 * SAMPLES}


@pytest.mark.parametrize("fault", [RuntimeError(HOSTILE), NothingLeft(), None])
def test_a_proposer_that_fails_has_no_answer_and_the_race_goes_on(
    night: StudyFolder, monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    class Failing:
        name = "tpe"

        def propose(self, history: History) -> Any:
            if fault:
                raise fault

    made = lambda wanted: Failing() if wanted.name == "tpe" else make_proposer(wanted)  # noqa: E731
    monkeypatch.setattr(racers, "make_proposer", made)
    held = raced(night, "tpe", "random")
    assert held.racers[0].blocked == {NO_ANSWER: 3 * SAMPLES} and held.racers[1].valid.hits > 0
    assert len(held.racers[0].notes) == 1 and "\x1b" not in held.racers[0].notes[0]


def test_hostile_answers_are_blocked_and_shown_nowhere(night: StudyFolder, endpoint: Endpoint, tmp_path: Path) -> None:
    said = json.dumps({"knob": HOSTILE, "new_value": f"{HOSTILE}{KEY}", "reason": f"{HOSTILE}{KEY}"})
    endpoint.answer = lambda request: (200, completion(said))
    held = raced(night, "llm", "random")
    assert held.racers[0].valid.hits == 0 and held.racers[0].blocked == {"menu": 3 * SAMPLES}
    write(held, tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        text = file.read_text()
        assert not [part for part in ("<script", "\x1b", "\u202e", KEY, "onerror") if part in text], file


def test_an_import_without_a_menu_can_be_raced(tmp_path: Path) -> None:
    folder = import_study(tmp_path / "home", "theirs", published.write(tmp_path / "published.jsonl"))
    held = raced(folder, "gp", "random", hold_out=0.2)
    assert held.teacher.blocked == {"novelty": 9, "range": 1}, "by then it repeated itself, or changed nothing"
    assert held.again is None, "its model is not configured here"
    assert held.racers[0].valid.hits == 10 and held.racers[0].one.exact.n == 0
    assert held.verdict.startswith("Nobody won by exact match: there is no held-out state")


# --- the command ---


def test_the_command_shows_a_table_and_writes_three_files(command: Command, tmp_path: Path) -> None:
    import_study(tmp_path / "home", "example", EXAMPLE)
    out = tmp_path / "out"
    said = command("race", "example", "--proposers", "gp", "random", "--hold-out", "0.1", "--out", str(out))
    assert said.code == 0 and "teacher again" in said.out and "joules a proposal" in said.out
    assert sorted(path.name for path in out.iterdir()) == ["race.json", "race.md", "race.svg"]
    found = json.loads((out / "race.json").read_text())
    assert [column["name"] for column in found["racers"]] == ["gp", "random"] and found["samples"] == SAMPLES
    assert found["verdict"] in said.out and (out / "race.svg").read_text().startswith("<svg")
    assert found["answers"][0]["teacher"]["by"] == "gp" and len(found["answers"][0]["answers"]["gp"]) == SAMPLES
    commas = command("race", "example", "--proposers", "random,random", "--hold-out", "0.1")
    assert commas.code == 0 and "it raced alone" in commas.out


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["gpp", "tpe"], "there is no proposer 'gpp'; did you mean"),
        (["gp:model"], "only llm and hybrid take a model"),
        (["llm"], "llm needs a language model: set OPENAI_BASE_URL"),
        ([","], "--proposers names nobody"),
    ],
)
def test_a_name_that_is_none_is_one_line(command: Command, tmp_path: Path, names: list[str], said: str) -> None:
    import_study(tmp_path / "home", "example", EXAMPLE)
    found = command("race", "example", "--proposers", *names)
    assert found.code == 2 and said in found.err and found.err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_line(command: Command, tmp_path: Path) -> None:
    import_study(tmp_path / "home", "example", EXAMPLE)
    (tmp_path / "file").write_text("")
    found = command("race", "example", "--proposers", "random", "--out", str(tmp_path / "file"))
    assert found.code == 2 and "cannot be written" in found.err
