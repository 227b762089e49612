"""A short night on a GPU: real text, the real worker, compiled, the card's own counter."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("autoresearch.night.loop", reason="a study needs all packages that autoresearch declares")

from studies import assert_git_and_database_agree, change, query
from worker_process import write_texts

from autoresearch.config import EnergySettings, LimitSettings
from autoresearch.night.limits import StopRule
from autoresearch.night.loop import StudyLoop
from autoresearch.proposers.classic import ScriptedProposer
from autoresearch.study.folder import create_study
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.machine import look

DEVICE = "cuda"
SETTINGS: dict[str, str | int] = {
    "budget.tokens": 25 * 8 * 256,  # the fewest steps that the menu's constraint admits
    "data.vocab_size": 512,
    "data.val_bytes": 20_000,
    "data.test_bytes": 20_000,
    "decision.baseline_runs": 2,
    "decision.reference_runs": 2,
    "decision.reference_max": 2,
    "decision.max_runs": 2,
}


@pytest.mark.gpu
def test_a_study_of_three_trials_ends_with_three_outcomes(tmp_path: Path) -> None:
    machine = look(DEVICE)
    text = {"data.source": str(write_texts(tmp_path / "text"))}
    folder = create_study(tmp_path, "one", "cpu-nano", machine, {**SETTINGS, **text, "device": DEVICE})
    launcher = LocalLauncher([f"{DEVICE}:0"], EnergySettings(), folder.path / "workers.log")
    stop = StopRule(folder, LimitSettings(trials=3, min_free_disk_bytes=0))
    proposer = ScriptedProposer([change("lr", 0.002), change("beta2", 0.9), change("grad_clip", 0.5)])
    try:
        StudyLoop(folder, launcher, proposer, machine, folder.prepare_data(), stop).run()
    finally:
        launcher.close()

    trials = folder.store.trials()
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert [trial.state for trial in trials] == ["complete"] * 4
    assert all(trial.decision in ("keep", "discard") for trial in trials[1:])
    assert_git_and_database_agree(folder)
    runs = query(folder, "SELECT state, device, val_bpb, energy_joules, energy_source FROM runs")
    assert len(runs) >= 5
    assert {(state, device) for state, device, *_ in runs} == {("complete", f"{DEVICE}:0")}
    assert all(val_bpb > 0 and joules > 0 and source.startswith("nvml") for *_, val_bpb, joules, source in runs)
