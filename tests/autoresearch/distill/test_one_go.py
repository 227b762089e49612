"""Studies are distilled in one go: what is made, what is not made again, and who proposes the next night."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, Said
from taught import Adapter
from taught_scratch import TRAJECTORY, TaughtHere, line

from autoresearch.distill import one_go
from autoresearch.distill.race import outcome
from autoresearch.distill.race.racers import Spec
from autoresearch.distill.race.searches import Search
from autoresearch.distill.successor import successor
from autoresearch.distill.teach.lora_terms import LoraRequest
from autoresearch.distill.teach.messages import REQUEST, write
from autoresearch.distill.teach.scratch import teach_decoder
from autoresearch.distill.teach.scratch_terms import ScratchRequest
from autoresearch.evidence.raced import Raced, read_race
from autoresearch.study.folder import StudyFolder
from autoresearch.study.folder import home as home_of

FEW = ("--from", "nothing", "--steps", "6", "--batch", "4", "--hold-out", "0.08")
GP, SCRATCH, HYBRID = Spec("gp"), Spec("scratch:/there"), Spec("hybrid:scratch:/there")


def searched(ends: dict[str, float]) -> Any:
    """Nights that were not searched: in each the proposer whose name begins so ends there, all others at 2.5."""

    def nights(settings: dict[str, Any], nights: int, runs: int, console: object) -> list[Search]:
        found = []
        for world in outcome.SURROGATES:
            for name in settings:
                end = next((end for start, end in ends.items() if name.startswith(start)), 2.5)
                best: Sequence[float] = [*[3.0] * (runs - 1), end]
                found += [
                    Search(name, world, n, [each + n / 100 for each in best], 5, 0, 0, {"lr = 1": 5}, {name[:20]: 5})
                    for n in range(nights)
                ]
        return found

    return nights


@pytest.fixture
def example(command: Command) -> Command:
    assert command("import", "example", str(TRAJECTORY)).code == 0
    return command


@pytest.fixture
def quick(scratch: TaughtHere, monkeypatch: pytest.MonkeyPatch) -> None:
    """The student was taught before."""

    def taught(request: ScratchRequest, student: Path, console: object) -> None:
        shutil.copytree(scratch.decoder, student)
        write(request, student / REQUEST)

    monkeypatch.setattr(one_go, "teach_decoder", taught)
    monkeypatch.setattr(outcome, "simulated", searched({}))


def place(tmp_path: Path) -> Path:
    return tmp_path / "home" / "distilled" / "example"


def starts(said: Said) -> list[str]:
    assert said.code == 0, said.err
    return shlex.split(said.out.splitlines()[-1].removeprefix("next: "))


def test_a_study_becomes_a_student_that_has_raced_and_the_next_night_is_the_teachers_within_noise(
    example: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "simulated", searched({"hybrid": 2.4}))
    said = example("distill", "example", *FEW, "--nights", "2", "--runs", "4")
    assert starts(said) == ["autoresearch", "init", "example-2", "--proposer", "gp"]
    assert "gp stays, the teacher: after 4 runs" in said.out.splitlines()[-2]
    assert "warning: too thin for a language model: " in said.err
    student, race = place(tmp_path) / "student", place(tmp_path) / "race"
    raced = read_race(student)
    assert raced and raced.outcome and (raced.outcome.nights, raced.outcome.runs) == (2, 4)
    assert [racer.name.split("/")[0] for racer in raced.racers] == ["scratch:", "hybrid:scratch:", "gp", "random"]
    assert (student / "race.json").read_bytes() == (race / "race.json").read_bytes()
    card = (student / "README.md").read_text()
    assert card.count("## Its race") == 1 and "### Whole searches" in card and "| valid |" in card
    assert example(*starts(said)[1:], "--preset", "cpu-nano").code == 0, "the line is a command"


@pytest.mark.parametrize("winner", ["scratch:", "hybrid:scratch:"])
def test_a_student_that_wins_its_race_proposes_the_next_night(
    winner: str, example: Command, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "simulated", searched({winner: 2.3}))
    said = example("distill", "example", *FEW, "--nights", "8", "--runs", "4")
    folder = place(tmp_path) / "student"
    assert starts(said)[-2:] == ["--proposer", f"{winner}{folder}"]
    assert "+0.2000 [+0.2000, +0.2000] bits per byte, beyond noise" in said.out.splitlines()[-2]
    assert example(*starts(said)[1:], "--preset", "cpu-nano").code == 0
    assert StudyFolder(home_of(), "example-2").settings.proposer.name == f"{winner}{folder}"


def test_what_is_there_on_the_same_terms_is_not_done_again_and_a_longer_race_is(
    example: Command, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was there already")

    first = example("distill", "example", *FEW, "--nights", "2", "--runs", "4")
    with monkeypatch.context() as there:
        for name in ("teach_decoder", "write_corpus", "race", "outcome"):
            there.setattr(one_go, name, again)
        second = example("distill", "example", *FEW, "--nights", "2", "--runs", "4")
    assert starts(first) == starts(second) and second.out.count("is there already") == 3
    for name in ("teach_decoder", "write_corpus"):
        monkeypatch.setattr(one_go, name, again)
    assert "after 5 runs" in example("distill", "example", *FEW, "--nights", "2", "--runs", "5").out
    card = (place(tmp_path) / "student" / "README.md").read_text()
    assert card.count("## Its race") == 1 and "after 5 runs" in card


def test_what_was_made_on_other_terms_stays_and_is_one_line(
    example: Command, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert example("distill", "example", *FEW, "--nights", "0").code == 0
    monkeypatch.setattr(one_go, "teach_decoder", teach_decoder)
    before = {file: file.read_bytes() for file in place(tmp_path).rglob("*") if file.is_file()}
    for other in (("--hold-out", "0.4"), ("--steps", "7")):
        said = example("distill", "example", *FEW, "--nights", "0", *other)
        assert said.code == 2 and "name another folder with --out" in said.err.splitlines()[-1]
    assert {file: file.read_bytes() for file in place(tmp_path).rglob("*") if file.is_file()} == before


def test_without_whole_searches_no_teacher_is_replaced(
    example: Command, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "CLONE", tmp_path)
    said = example("distill", "example", *FEW)
    assert starts(said)[-1] == "gp" and "a race on held-out states alone replaces nobody" in said.out
    said = example("distill", "example", *FEW, "--nights", "2")
    assert said.code == 2 and "takes a clone of the repository" in said.err


def test_a_corpus_too_thin_teaches_no_language_model(example: Command, base: Path, tmp_path: Path) -> None:
    said = example("distill", "example", "--base", str(base))
    assert said.code == 2 and "too thin to teach a language model: 27 rows" in said.err
    assert not place(tmp_path).exists()


@pytest.mark.skipif(find_spec("llguidance") is None or find_spec("peft") is None, reason="the extra distill is missing")
def test_a_lora_is_taught_and_raced_likewise(
    example: Command, adapter: Adapter, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taught(request: LoraRequest, student: Path, console: object) -> None:
        assert (request.base, request.batch, request.epochs) == (str(base), 4, 3)
        shutil.copytree(adapter.out, student)
        write(request, student / REQUEST)

    monkeypatch.setattr(one_go, "teach", taught)
    few = ("--base", str(base), "--batch", "4", "--force", "--hold-out", "0.08", "--nights", "0")
    assert starts(example("distill", "example", *few))[-1] == "gp"
    raced = read_race(place(tmp_path) / "student")
    assert raced and [racer.name.rpartition(":")[0] for racer in raced.racers] == ["lora", "hybrid:lora", "", ""]
    assert example("distill", "example", *few).out.count("is there already") == 3


def test_nothing_to_race_on_is_told_before_anything_is_taught(command: Command, tmp_path: Path) -> None:
    assert command("init", "fresh", "--preset", "cpu-nano").code == 0
    said = command("distill", "fresh", *FEW)
    assert said.code == 2 and "has no held-out trial" in said.err and not (tmp_path / "home" / "distilled").exists()


def test_the_first_word_is_a_study_unless_it_is_a_command(command: Command) -> None:
    assert "there is no study 'mine'" in command("distill", "mine").err
    assert "there is no study 'mine'" in command("distill", "--nights", "0", "mine").err
    assert "there is no study 'corpus'" in command("distill", "all", "corpus").err
    assert "STUDY... | COMMAND ..." in command("distill", "--help").out
    assert "The folder to write" in " ".join(command("distill", "corpus", "--help").out.split())


def test_after_a_kill_the_same_command_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    subprocess.run(line("import", "example", TRAJECTORY, "--home", home), check=True, capture_output=True)
    arguments = line("distill", "example", *FEW, "--nights", "0", "--home", home)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        for said in running.stdout:
            if said.startswith("3 of 3"):
                break
        running.send_signal(signal.SIGKILL)
    weights = place(tmp_path) / "student" / "decoder.safetensors"
    before = weights.stat().st_mtime_ns, weights.stat().st_ino
    told = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert "step 6 of 6" not in told and "student is there already" in told
    assert (weights.stat().st_mtime_ns, weights.stat().st_ino) == before
    assert told.splitlines()[-1] == f"next: autoresearch init example-2 --proposer gp --home {home}"


# --- who proposes next ---


def raced(winner: str | None) -> Raced:
    searches = {"teacher": "gp", "nights": 8, "runs": 50, "winner": winner, "verdict": "So\x1b[2J it is.", "leads": []}
    return Raced.model_validate(
        {"studies": ["one"], "hold_out": 0.2, "seed": 0, "verdict": "", "racers": [], "outcome": searches}
    )


def test_only_a_student_replaces_its_teacher() -> None:
    for winner, spec in ((None, GP), (SCRATCH.label, SCRATCH), (HYBRID.label, HYBRID), ("random", GP)):
        found = successor(raced(winner), [SCRATCH, HYBRID], GP)
        assert found.spec == spec and "\x1b" not in found.why
        assert ("No student won, and gp stays" in found.why) == (winner == "random")


@pytest.mark.parametrize(
    "spoilt", ["{", "[]", '{"racers": 3}', '{"studies": [], "hold_out": NaN}', "hits", "huge", "\x00\xff"]
)
def test_a_race_that_is_none_is_none(spoilt: str, tmp_path: Path) -> None:
    told = raced(None).model_dump()
    mean = {"mean": 1e300 if spoilt == "huge" else 0.0, "low": None, "high": None}
    hits = {"hits": 9 if spoilt == "hits" else 1, "n": 3}
    told["racers"] = [{"name": "scratch:/x", "valid": hits, "earned": {**mean, "known": {"hits": 0, "n": 3}}}]
    text = json.dumps(told) if spoilt in ("hits", "huge") else spoilt
    (tmp_path / "race.json").write_text(text, encoding="utf-8")
    assert read_race(tmp_path) is None


def test_a_study_gone_on_with_is_named_in_the_line(tmp_path: Path) -> None:
    from studies import GOOD, change, make_study, run_study

    from autoresearch.distill.successor import Successor, line

    folder = make_study(tmp_path, "mine", decision__max_runs=2)
    make_study(tmp_path, "mine-2")
    run_study(folder, [change("lr", GOOD)], trials=1)
    assert line(Successor(HYBRID, ""), folder, None) == (
        "autoresearch init mine-3 --proposer hybrid:scratch:/there --from mine"
    )
