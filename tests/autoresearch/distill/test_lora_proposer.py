"""A taught model proposes in this process: what it can say, what is taken of that, and what becomes of its failures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from command_line import Command
from histories import MENU, baseline, history, past_trial
from studies import GOOD, change, make_study, query, run_study
from taught import Adapter

from autoresearch.config import ProposerSettings
from autoresearch.distill.race.racers import Spec
from autoresearch.errors import UserError
from autoresearch.evidence import Evidence
from autoresearch.evidence.proposers import turns
from autoresearch.proposers import make_proposer
from autoresearch.proposers.lora import MOST_ROUNDS, TRIALS_BETWEEN_ATTEMPTS
from autoresearch.trial import History, Proposal
from autoresearch.workers.energy import Energy
from rails import Value, gate, recipe_key

pytestmark = pytest.mark.skipif(
    find_spec("peft") is None or find_spec("llguidance") is None, reason="the extra distill is not installed"
)
FORM = ("schema", "menu", "range")  # rails that a model held to its schema does not meet
ENDED = [past_trial(n, "lr", n / 10_000, 0.001 * n) for n in range(1, 11)]


@pytest.fixture(autouse=True)
def on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words are promised there alone."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def asked(folder: Path, known: History, **settings: Any) -> Proposal:
    return make_proposer(ProposerSettings(name=f"lora:{folder}", **settings)).propose(known)


def candidates(proposal: Proposal) -> list[dict[str, Any]]:
    return [each for attempt in proposal.attempts for each in json.loads(attempt.answer)["candidates"]]


def rail(raw: str, known: History) -> str | None:
    return gate(raw, known.recipe, known.menu, known.tried, known.limits).rail


class Everything(dict[str, str]):
    """Says of any recipe that it was tried."""

    def __bool__(self) -> bool:
        return True

    def get(self, key: str, default: Any = None) -> str:
        return "trial 1 (discard)"


# --- what it says ---


def test_a_night_of_a_taught_model_keeps_to_the_form_and_is_written_down(adapter: Adapter, tmp_path: Path) -> None:
    folder = make_study(tmp_path, limits__run_seconds=2.0, proposer__name=f"lora:{adapter.out}")
    run_study(folder, proposer=make_proposer(folder.settings.proposer), trials=5)
    wanted = "proposer, model, rail, prompt, prompt_tokens, completion_tokens, latency_seconds"
    found = query(folder, f"SELECT {wanted} FROM proposals WHERE proposer NOT IN ('apart', 'carried')")
    assert len(found) >= 5
    for by, model, blocked_by, prompt, read, written, seconds in found:
        assert (by, model) == ("lora", f"adapter on {adapter.base.name}") and blocked_by not in FORM
        assert "Knobs and where they stand" in prompt and read > 1000 and written > 40 and seconds > 0
    told = [json.loads(answer) for (answer,) in query(folder, "SELECT answer FROM attempts")]
    assert all(1 <= len(each["candidates"]) <= 4 for each in told)


def test_weights_of_no_sense_cannot_leave_the_schema_and_their_numbers_can_be_read(base: Path) -> None:
    for number in range(1, 7):
        known = replace(history([baseline()]), number=number)
        proposal = asked(base, known, temperature=1.5)
        assert not proposal.notes and rail(proposal.raw, known) is None
        assert [rail(json.dumps(each), known) for each in candidates(proposal)].count("schema") == 0
        told = json.loads(proposal.raw)
        for name, value in told.get("changes", {told.get("knob"): told.get("new_value")}).items():
            assert MENU.knobs[name].type != "float" or value == float(f"{value:.4g}")


def test_the_same_seed_says_the_same_and_another_trial_something_else(adapter: Adapter) -> None:
    known = history([baseline()])
    first, again = (asked(adapter.out, known) for _ in range(2))
    assert (first.raw, first.attempts[0].answer) == (again.raw, again.attempts[0].answer)
    assert asked(adapter.merged, known).attempts[0].answer == first.attempts[0].answer, "it is the same model"
    assert asked(adapter.out, replace(known, number=9)).attempts[0].answer != first.attempts[0].answer
    assert asked(adapter.out, replace(known, seed=9)).attempts[0].answer != first.attempts[0].answer


def test_what_was_tried_is_taken_out_and_where_nothing_is_left_the_rails_say_so(base: Path) -> None:
    known = history([baseline()])
    first = asked(base, known)
    changes = gate(first.raw, known.recipe, known.menu, known.tried, known.limits).changes
    second = asked(base, replace(known, tried={recipe_key({**known.recipe, **changes}): "trial 1 (discard)"}))
    assert second.raw != first.raw and second.attempts[-1].rail is None
    nothing = asked(base, replace(known, tried=Everything()))
    assert [attempt.rail for attempt in nothing.attempts] == ["novelty"] * MOST_ROUNDS
    assert nothing.proposer == "lora" and "trial 1 (discard)" in nothing.attempts[-1].reason


# --- which is taken ---


class Fond:
    """An adviser that is fond of changes of the same knobs."""

    text = "of no use to who is asked for one change at a time"

    def __init__(self, loved: Mapping[str, Value]) -> None:
        self._loved = loved

    def worth(self, changes: Mapping[str, Value]) -> float:
        return 1000.0 if changes.keys() == self._loved.keys() else 1.0

    def promises(self, changes: Mapping[str, Value]) -> str:
        return "much"


def test_alone_the_likeliest_is_taken_and_an_advisers_worth_weighs_more_than_a_little_likelihood(base: Path) -> None:
    known = history([baseline()])
    alone = asked(base, known)
    (attempt,) = alone.attempts
    likelihoods = [int(each) for each in attempt.reason.rpartition("likelihoods ")[2].replace(" %", "").split(", ")]
    likeliest, unlikely = (likelihoods.index(of(likelihoods)) for of in (max, min))
    assert len(likelihoods) == 4 and attempt.reason.startswith(f"candidate {likeliest + 1} of 4 is taken, 4 passed")
    loved = candidates(alone)[unlikely]["changes"]
    proposer: Any = make_proposer(ProposerSettings(name=f"lora:{base}"))
    (advised,) = proposer.propose(known, Fond(loved)).attempts
    assert advised.answer == attempt.answer
    assert advised.reason.startswith(f"candidate {unlikely + 1} of 4 is taken, 4 passed: much")
    (indifferent,) = proposer.propose(known, Fond({})).attempts
    assert indifferent.reason.startswith(f"candidate {likeliest + 1} of 4 is taken")


def test_beside_the_optimizer_its_ideas_are_ranked_and_bear_its_name(adapter: Adapter) -> None:
    settings = ProposerSettings(name=f"hybrid:lora:{adapter.out}", model_share=1.0)
    hybrid: Any = make_proposer(settings)
    early, late = history([baseline(), *ENDED[:4]]), history([baseline(), *ENDED])
    assert not hybrid.takes_long(early) and hybrid.propose(early).proposer == "gp"
    assert hybrid.takes_long(late)
    proposal = hybrid.propose(late)
    assert proposal.proposer == "lora" and "±" in proposal.attempts[-1].reason and rail(proposal.raw, late) is None


def test_its_share_is_earned_under_its_own_name(tmp_path: Path) -> None:
    folder = make_study(tmp_path, proposer__name=f"hybrid:lora:{tmp_path}")
    evidence = Evidence(folder)
    gains = [("lora", 0.0), ("gp", 0.02), ("gp", 0.03), ("llm", 0.5)] * 12
    ended = [past_trial(n, "lr", 0.002, gain, proposer=by) for n, (by, gain) in enumerate(gains, 1)]
    evidence.trials = [baseline(), *ended]
    asked_now = turns(evidence)
    assert asked_now is not None and asked_now.model == "lora" and asked_now.share < asked_now.most


def test_in_a_race_it_is_a_racer_like_others(adapter: Adapter, command: Command, tmp_path: Path) -> None:
    run_study(make_study(tmp_path / "home"), [change("lr", 0.002), change("n_head", 8), change("lr", GOOD)])
    name = f"lora:{adapter.out}"
    found = command("race", "one", "--proposers", "gp", name, "--hold-out", "0.3", "--out", str(tmp_path / "out"))
    assert found.code == 0, found.err
    told = json.loads((tmp_path / "out" / "race.json").read_text())
    assert [each["name"] for each in told["racers"]] == ["gp", name]
    assert told["racers"][1]["by"].keys() == {"lora"}
    said = command("race", "one", "--proposers", "gp", f"lora:{tmp_path}")
    assert said.code == 2 and "holds no model" in said.err and said.err.count("\n") == 1
    with pytest.raises(UserError, match="names no folder"):
        Spec.read("hybrid:lora:")


# --- what is no such model ---


def broken(kind: str, adapter: Adapter, folder: Path) -> Path:
    if kind == "missing":
        return folder
    if kind == "empty":
        folder.mkdir()
    elif kind == "not ended":
        (folder / "training").mkdir(parents=True)
    else:
        shutil.copytree(adapter.out, folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        if kind == "no weights":
            (folder / "adapter_model.safetensors").unlink()
        told = {"half a file": '{"peft_type"', "no lora": json.dumps({**config, "peft_type": "IA3"})}
        lost = json.dumps({**config, "base_model_name_or_path": "/nowhere/base"})
        (folder / "adapter_config.json").write_text({**told, "no weights": json.dumps(config)}.get(kind, lost))
    return folder


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "there is no such folder"),
        ("empty", "holds no model"),
        ("not ended", "a training that has not ended: go on with it"),
        ("half a file", "holds no whole LoRA"),
        ("no lora", "holds no whole LoRA"),
        ("no weights", "holds no whole LoRA"),
        ("its base is gone", "/nowhere/base, which is no longer there"),
    ],
)
def test_a_folder_without_such_a_model_is_one_line_before_there_is_a_study(
    kind: str, said: str, adapter: Adapter, command: Command, tmp_path: Path
) -> None:
    folder = broken(kind, adapter, tmp_path / "student")
    found = command("init", "mine", "--preset", "cpu-nano", "--proposer", f"hybrid:lora:{folder}")
    assert found.code == 2 and said in found.err and found.err.count("\n") == 1
    assert not (tmp_path / "home" / "mine").exists()


def test_a_package_that_is_not_installed_is_one_line(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    found = lambda name: None if name == "llguidance" else find_spec(name)  # noqa: E731
    monkeypatch.setattr("autoresearch.proposers.lora.find_spec", found)
    with pytest.raises(UserError, match=r"^llguidance not installed: run `pip install -e '.\[distill\]'`$"):
        make_proposer(ProposerSettings(name=f"lora:{adapter.out}"))


def test_a_folder_that_is_named_from_here_is_found_from_elsewhere_and_no_command_loads_torch(
    adapter: Adapter, tmp_path: Path
) -> None:
    code = f"""
import os, sys
os.environ["AUTORESEARCH_HOME"] = {str(tmp_path)!r}
from autoresearch.cli import app
for arguments in (["init", "mine", "--preset", "cpu-nano", "--proposer", "lora:adapter"], ["status", "mine"]):
    app(arguments, standalone_mode=False)
from autoresearch.night.display import Display
from autoresearch.proposers import make_proposer
from autoresearch.study.folder import StudyFolder
from pathlib import Path
settings = StudyFolder(Path({str(tmp_path)!r}), "mine").settings.proposer
print(make_proposer(settings).model, settings.name, "torch" in sys.modules, sep="|")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=adapter.out.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"adapter on {adapter.base.name}|lora:{adapter.out}|False"


# --- a night with failures ---


def test_a_folder_that_breaks_in_the_night_is_a_note_and_the_optimizer_stands_in_for_a_while(
    adapter: Adapter, tmp_path: Path
) -> None:
    folder = shutil.copytree(adapter.out, tmp_path / "adapter")
    proposer = make_proposer(ProposerSettings(name=f"lora:{folder}"))
    weights = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(weights[:1000])
    known = history([baseline()])
    proposal = proposer.propose(known)
    assert proposal.proposer == "gp" and rail(proposal.raw, known) is None and not proposal.attempts
    (note,) = proposal.notes
    again = known.number + TRIALS_BETWEEN_ATTEMPTS
    assert note.startswith(f"adapter on {adapter.base.name} does not answer (it cannot be loaded: ")
    assert note.endswith(f"; gp proposes until trial {again}")
    (folder / "adapter_model.safetensors").write_bytes(weights)
    assert proposer.propose(replace(known, number=again - 1)).proposer == "gp"
    assert proposer.propose(replace(known, number=again)).proposer == "lora"


def test_a_gpu_without_memory_and_a_time_that_is_too_short_are_notes(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from autoresearch.proposers.lora_model import TaughtModel

    late = asked(adapter.out, history([baseline()]), timeout_seconds=1e-9)
    assert late.proposer == "gp" and "no whole answer in the time that it has" in late.notes[0]

    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(TaughtModel, "_answers", full)
    proposal = asked(adapter.out, history([baseline()]))
    assert proposal.proposer == "gp" and "the GPU has no memory left for an answer" in proposal.notes[0]


class Metering:
    """A meter of one joule a question, which does something when one begins."""

    def __init__(self, begins: Any) -> None:
        self.begin = begins

    def end(self) -> Energy:
        return Energy(1.0, "nvml")


def test_a_question_is_metered_and_one_that_nobody_waits_for_ends(adapter: Adapter) -> None:
    proposer: Any = make_proposer(ProposerSettings(name=f"hybrid:lora:{adapter.out}", model_share=1.0))
    proposer.metered_by(Metering(lambda: None))
    known = history([baseline(), *ENDED])
    proposal = proposer.propose(known)
    assert (proposal.energy_joules, proposal.energy_source) == (float(len(proposal.attempts)), "nvml")
    proposer.metered_by(Metering(proposer.hang_up))
    proposal = proposer.propose(known)
    assert proposal.proposer == "gp" and proposal.energy_joules == 1.0 and "no whole answer" in proposal.notes[0]
