"""A night with a model on this machine: the meter of its workers is also that of its questions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cards import UUIDS, Cards
from endpoint import Endpoint, completion
from histories import history
from studies import STUB, change, make_study, query, wait_until

from autoresearch.config import EnergySettings, LimitSettings, ProposerSettings
from autoresearch.night import session
from autoresearch.night.asking import Asking
from autoresearch.night.session import Night
from autoresearch.proposers.classic import RandomProposer
from autoresearch.proposers.llm import LlmProposer
from autoresearch.study.folder import StudyFolder
from autoresearch.study.observer import Observer
from autoresearch.workers.energy import EnergyMeter
from autoresearch.workers.local import LocalLauncher


class Busy(Cards):
    """Ten joules more each time that somebody looks."""

    def millijoules(self, card: int) -> int:
        self.joules[card] = (self.joules[card] or 0.0) + 10.0
        return super().millijoules(card)


def test_a_night_tells_what_its_model_took(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # workers are on the processor
    cards = Busy(monkeypatch)
    cards.processes[1] = {os.getppid()}
    values = iter(range(1, 1000))
    endpoint.answer = lambda request: (200, completion(change("weight_decay", next(values) / 1000)))
    folder = make_study(tmp_path, proposer__name="llm")
    monkeypatch.setattr(StudyFolder, "prepare_data", lambda self: self.path)
    log = folder.path / "workers.log"
    launcher = LocalLauncher(["cpu"], EnergySettings(), log, command=STUB, uuids=UUIDS)
    monkeypatch.setattr(session, "start_workers", lambda folder, machine: launcher)
    Night(folder, Observer(), limits=LimitSettings(trials=4, min_free_disk_bytes=0)).run()
    asked = query(folder, "SELECT energy_joules, energy_source FROM proposals WHERE proposer = 'llm'")
    assert len(asked) == 4 and all(joules >= 10.0 and source == "nvml" for joules, source in asked)
    in_all = sum(joules for joules, _ in asked)
    assert folder.store.totals()["joules"] == pytest.approx(
        in_all + query(folder, "SELECT SUM(energy_joules) FROM runs")[0][0]
    )
    assert ("nvml",) not in query(folder, "SELECT DISTINCT energy_source FROM runs")


def test_a_question_asked_ahead_is_metered_while_it_is_asked(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    Busy(monkeypatch).processes[0] = {os.getppid()}
    proposer = LlmProposer(ProposerSettings(), RandomProposer())
    proposer.metered_by(EnergyMeter(EnergySettings(), UUIDS))
    asking = Asking(proposer)
    asking.ahead(1, history)
    wait_until(lambda: not asking.is_thinking)
    found = asking.proposal(history())
    assert found and (found[0].energy_joules or 0.0) >= 10.0 and found[0].energy_source == "nvml"
