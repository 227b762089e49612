"""A decoder is taught from nothing, and proposes: what becomes of the training, and what it proposes then."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Command
from histories import MENU, baseline, history, past_trial
from studies import make_study, query, run_study
from taught_scratch import FEW, TaughtHere, line

from autoresearch.config import ProposerSettings
from autoresearch.errors import UserError
from autoresearch.proposers import make_proposer
from autoresearch.proposers.bayes import BayesProposer
from autoresearch.proposers.belief import Belief
from autoresearch.proposers.hybrid import HEAD_START, Advice
from autoresearch.proposers.scratch import ScratchProposer
from autoresearch.trial import History, Proposal
from rails import Knob, Menu, Value, gate

FORM = ("schema", "menu", "range")
ENDED = [past_trial(n, "lr", n / 10_000, 0.001 * n) for n in range(1, 12)]


def asked(folder: Path, known: History, name: str = "scratch") -> Proposal:
    return make_proposer(ProposerSettings(name=f"{name}:{folder}")).propose(known)


# --- the training ---


def test_what_was_held_out_is_not_taught(scratch: TaughtHere) -> None:
    (night,) = json.loads((scratch.corpus / "nights.json").read_text())
    report = json.loads((scratch.corpus / "report.json").read_text())
    assert (
        len(night["points"]) + len(night["failed"]) <= report["studies"][0]["trials"] - report["held_out"]["rows"] + 1
    )
    assert all(0 <= share <= 1 for row in night["points"] for share in row)
    assert len(night["scores"]) == len(night["points"]) == len(night["runs"])


def test_a_training_killed_and_begun_again_gives_the_same_bytes(scratch: TaughtHere, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    arguments = line("distill", "train", scratch.corpus, "--out", out, *FEW)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        for said in running.stdout:
            if said.startswith("step 2 of"):
                break
        running.send_signal(signal.SIGKILL)
    assert (out / "training" / "state.pt").exists() and not (out / "decoder.safetensors").exists()
    said = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert "step 2 of" not in said and "step 6 of 6" in said
    for name in ("decoder.safetensors", "decoder.json"):
        assert (out / name).read_bytes() == (scratch.decoder / name).read_bytes()


def test_it_learns_from_what_it_is_taught(scratch: TaughtHere) -> None:
    history = json.loads((scratch.decoder / "training.json").read_text())["history"]
    assert [step for step, _ in history] == [2, 4, 6] and history[-1][1] < history[0][1]


def test_a_corpus_without_nights_and_a_folder_with_a_decoder_are_one_line_each(
    scratch: TaughtHere, command: Command, tmp_path: Path
) -> None:
    said = command("distill", "train", str(tmp_path), "--base", "scratch", "--out", str(tmp_path / "out"))
    assert said.code == 2 and "holds no nights.json" in said.err and said.err.count("\n") == 1
    said = command("distill", "train", str(scratch.corpus), "--base", "scratch", "--out", str(scratch.decoder))
    assert said.code == 2 and "remove it, or name another folder" in said.err and said.err.count("\n") == 1


def test_a_decoder_is_gone_on_with_and_keeps_what_it_knows_by_name(scratch: TaughtHere, tmp_path: Path) -> None:
    out = tmp_path / "on"
    arguments = line("distill", "train", "--out", out, "--from", scratch.decoder, *FEW)
    subprocess.run(arguments, check=True, capture_output=True)
    before, after = (json.loads((each / "decoder.json").read_text()) for each in (scratch.decoder, out))
    assert before == after and len(after["slots"]) == 13
    losses = [json.loads((each / "training.json").read_text())["loss"] for each in (scratch.decoder, out)]
    assert losses[1] < losses[0] and "Gone on from: a decoder of sha256" in (out / "README.md").read_text()


# --- what it proposes ---


def test_a_night_of_it_keeps_to_the_form_and_is_written_down(scratch: TaughtHere, tmp_path: Path) -> None:
    folder = make_study(tmp_path, limits__run_seconds=2.0, proposer__name=f"scratch:{scratch.decoder}")
    run_study(folder, proposer=make_proposer(folder.settings.proposer), trials=6)
    found = query(folder, "SELECT proposer, rail, trial FROM proposals WHERE proposer NOT IN ('apart', 'carried')")
    assert len(found) >= 5 and all(by == "scratch" and rail not in FORM for by, rail, _ in found)
    assert query(folder, "SELECT count(*) FROM attempts")[0][0], "candidates of those that it sampled are kept"


def test_the_same_history_gets_the_same_proposal_and_another_trial_another(scratch: TaughtHere) -> None:
    known = history([baseline(), *ENDED])
    first, again = (asked(scratch.decoder, known) for _ in range(2))
    assert first.raw == again.raw and first.proposer == "scratch"
    assert asked(scratch.decoder, replace(known, number=40)).raw != first.raw
    assert gate(first.raw, known.recipe, known.menu, known.tried, known.limits).passed


def test_on_a_menu_that_it_was_taught_it_has_something_to_say_after_the_baseline(scratch: TaughtHere) -> None:
    first = asked(scratch.decoder, history([baseline()]))
    assert "a taught decoder" in first.raw and first.attempts
    assert "a taught decoder" not in asked(scratch.decoder, history([baseline("running")])).raw


def test_knobs_that_it_never_heard_of_are_changed_too_and_those_beyond_its_room_are_not(scratch: TaughtHere) -> None:
    knobs = {f"k{n}": Knob(f"k{n}", "float", 0.0, 1.0, (), "linear", 0.5, "") for n in range(40)}
    menu = Menu(knobs=knobs, constraints=(), max_changes=40)
    trials = [replace(baseline(), recipe=menu.defaults(), recipe_key="0")]
    for n in range(1, 12):
        changes = {f"k{n}": 0.9}
        recipe = {**menu.defaults(), **changes}
        trials.append(past_trial(n, "lr", 0.1, n / 100, changes=changes, recipe=recipe, recipe_key=str(n)))
    changed: set[str] = set()
    for number in range(20, 40):
        known = replace(history(trials, menu=menu), number=number)
        changed |= gate(asked(scratch.decoder, known).raw, known.recipe, menu, known.tried, known.limits).changes.keys()
    assert changed and changed <= {f"k{n}" for n in range(32)}


class Counting(Advice):
    """What it was asked for, and what it made of that."""

    def __init__(self, known: History, belief: Belief) -> None:
        super().__init__(known, belief)
        self.gains: list[float] = []

    def worth(self, changes: Mapping[str, Value]) -> float:
        self.gains.append(super().worth(changes))
        return self.gains[-1]


def test_beside_an_optimizer_the_optimizer_takes_its_pick(scratch: TaughtHere) -> None:
    known = history([baseline(), *ENDED])
    belief = BayesProposer().belief(known)
    assert belief is not None
    model = ScratchProposer(scratch.decoder, BayesProposer())

    adviser = Counting(known, belief)
    proposal = model.propose(known, adviser)
    changes = gate(proposal.raw, known.recipe, MENU, known.tried, known.limits).changes
    assert len(adviser.gains) > 1 and belief.of(changes).gain == pytest.approx(max(adviser.gains))
    assert "likelihoods" in proposal.attempts[0].reason


def test_beside_an_optimizer_it_begins_where_it_was_taught_on_the_menu(scratch: TaughtHere) -> None:
    known = history([baseline()])
    first, late = asked(scratch.decoder, known, "hybrid:scratch"), replace(known, number=HEAD_START + 1)
    assert first.proposer == "scratch" and asked(scratch.decoder, late, "hybrid:scratch").proposer == "gp"
    stranger = Menu(
        knobs={"lr": MENU.knobs["lr"], "k": Knob("k", "float", 0.0, 1.0, (), "linear", 0.5, "")},
        constraints=(),
        max_changes=2,
    )
    assert asked(scratch.decoder, history([], menu=stranger), "hybrid:scratch").proposer == "gp"


def test_where_its_weights_do_not_fit_the_optimizer_proposes_and_a_note_says_so(
    scratch: TaughtHere, tmp_path: Path
) -> None:
    folder = tmp_path / "decoder"
    shutil.copytree(scratch.decoder, folder)
    weights = (folder / "decoder.safetensors").read_bytes()
    (folder / "decoder.safetensors").write_bytes(weights[: len(weights) // 2])
    proposal = asked(folder, history([baseline(), *ENDED]))
    assert proposal.proposer == "gp" and "is no decoder of its shape" in proposal.notes[0]


@pytest.mark.parametrize("spoilt", ["no folder", "no weights", "no config"])
def test_a_folder_without_a_decoder_is_one_line_before_the_night(
    spoilt: str, scratch: TaughtHere, tmp_path: Path
) -> None:
    folder = tmp_path / "decoder"
    if spoilt != "no folder":
        shutil.copytree(scratch.decoder, folder)
        (folder / ("decoder.safetensors" if spoilt == "no weights" else "decoder.json")).unlink()
    with pytest.raises(UserError, match="`autoresearch distill train --base scratch`"):
        make_proposer(ProposerSettings(name=f"scratch:{folder}"))
