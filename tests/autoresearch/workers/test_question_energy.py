"""Energy of a question to a model on this machine: told apart from that of the runs beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pynvml
import pytest
from cards import UUIDS, Cards
from studies import wait_until

from autoresearch.config import EnergySettings
from autoresearch.workers import energy
from autoresearch.workers.energy import Energy, EnergyMeter

SERVER = os.getppid()  # a process that this one has not started


class Seconds:
    now = 0.0


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    seconds = Seconds()
    monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: seconds.now))
    return seconds


@pytest.fixture
def cards(seconds: Seconds, monkeypatch: pytest.MonkeyPatch) -> Cards:
    return Cards(monkeypatch)


@pytest.fixture
def worker() -> Iterator[int]:
    """The id of a process that this one has started."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        yield child.pid


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> EnergyMeter:
    monkeypatch.setattr(energy, "SAMPLE_SECONDS", 3600.0)  # looked at by hand only
    return EnergyMeter(EnergySettings(gpu_watts=300.0), UUIDS)


def test_a_question_and_a_run_divide_a_gpu_for_as_long_as_it_is_asked(
    cards: Cards, meter: EnergyMeter, worker: int
) -> None:
    cards.processes[0] = {worker, SERVER}
    meter.start("a", None, (0,))
    cards.joules[0] = 1100.0  # the run alone
    meter.begin()
    cards.joules[0] = 1160.0  # together
    assert meter.end() == Energy(30.0, "nvml")
    cards.joules[0] = 1170.0  # the run alone
    assert meter.stop("a", None, (0,), cpu_seconds=1.0) == Energy(100.0 + 30.0 + 10.0, "nvml")


@pytest.mark.parametrize("known", [2, 1], ids=["torch sees it", "hidden from torch"])
def test_a_gpu_that_only_the_model_is_on_is_counted_whole(
    cards: Cards, meter: EnergyMeter, worker: int, known: int
) -> None:
    meter = EnergyMeter(EnergySettings(), UUIDS[:known])
    cards.processes = {0: {worker}, 1: {SERVER}}
    meter.start("a", None, (0,))
    for joules in (70.0, 30.0):
        meter.begin()
        cards.joules = {card: (before or 0.0) + joules for card, before in cards.joules.items()}
        assert meter.end() == Energy(joules, "nvml")
    assert meter.stop("a", None, (0,), cpu_seconds=1.0) == Energy(100.0, "nvml")


def test_a_model_on_two_gpus_takes_its_part_of_both(cards: Cards, meter: EnergyMeter) -> None:
    cards.processes = {0: {SERVER}, 1: {SERVER}}
    meter.start("a", None, (0,))
    meter.begin()
    cards.joules = {0: 1100.0, 1: 5100.0}
    assert meter.end() == Energy(50.0 + 100.0, "nvml")


def test_where_only_workers_compute_a_question_takes_nothing_from_them(
    cards: Cards, meter: EnergyMeter, worker: int
) -> None:
    cards.processes[0] = {worker}
    meter.start("a", None, (0,))
    meter.begin()
    cards.joules[0] = 1100.0
    assert meter.end() is None
    assert meter.stop("a", None, (0,), cpu_seconds=1.0) == Energy(100.0, "nvml")


def test_a_model_that_is_loaded_for_the_question_is_counted_from_then_on(
    cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "SAMPLE_SECONDS", 0.005)
    meter = EnergyMeter(EnergySettings(), UUIDS)
    meter.begin()
    cards.joules[0] = 1100.0  # nobody is on it
    cards.processes[0] = {SERVER}
    looks = cards.looks
    wait_until(lambda: cards.looks > looks + 4)
    cards.joules[0] = 1150.0
    assert meter.end() == Energy(50.0, "nvml")
    wait_until(lambda: not any(thread.name == "power" for thread in threading.enumerate()))


def test_a_gpu_that_tells_nothing_gives_an_estimate_of_the_questions_time(
    cards: Cards, meter: EnergyMeter, seconds: Seconds
) -> None:
    cards.processes[0], cards.joules[0] = {SERVER}, None
    meter.start("a", None, (0,))
    meter.begin()
    seconds.now = 2.0
    assert meter.end() == Energy(300.0, "estimate")
    assert meter.stop("a", None, (0,), cpu_seconds=1.0) == Energy(300.0, "estimate")


def test_a_gpu_that_tells_its_power_alone_has_it_integrated_for_a_question_too(
    cards: Cards, meter: EnergyMeter, seconds: Seconds
) -> None:
    cards.processes[1], cards.joules[1], cards.watts[1] = {SERVER}, None, 100.0
    meter = EnergyMeter(EnergySettings(), UUIDS)
    meter.begin()
    seconds.now, cards.watts[1] = 2.0, 300.0
    assert meter.end() == Energy(400.0, "nvml power")


def test_without_a_driver_a_question_is_not_metered(meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    meter.begin()
    assert meter.end() is None


def test_a_driver_that_does_not_tell_processes_leaves_a_question_unmetered(
    cards: Cards, meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_old(card: int) -> None:
        raise pynvml.NVMLLibraryMismatchError("an old driver")

    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", too_old)
    meter.begin()
    assert meter.end() is None
