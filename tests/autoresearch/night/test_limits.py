"""When a night ends: each limit, whose word comes first, and that what it says is true."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from studies import make_study

from autoresearch.config import LimitSettings
from autoresearch.night.limits import StopRule, uptime
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Proposal
from autoresearch.workers.energy import JOULES_PER_KWH, Energy
from trainer.protocol import RunResult

GIB = 2**30


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 10, 21, 0, tzinfo=UTC)
        self.seconds = 5000.0  # of the clock that cannot jump

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path, clock: Clock) -> StudyFolder:
    folder = make_study(tmp_path, energy__price_per_kwh=1, energy__currency="CHF")
    folder.store.clock = clock
    return folder


@pytest.fixture
def rule(folder: StudyFolder, clock: Clock) -> Callable[..., StopRule]:
    def make(until: datetime | None = None, **limits: Any) -> StopRule:
        return StopRule(folder, LimitSettings(**limits), until, clock, lambda: clock.seconds)

    return make


def spend(folder: StudyFolder, seed: int, kwh: float) -> None:
    """A run of the baseline that ends now."""
    folder.store.queue_runs([(0, seed, "reference")])
    run = next(run for run in folder.store.runs() if run.seed == seed)
    folder.store.hand_out_run(run)
    result = RunResult(run.id, seed, "complete", val_bpb=2.8)
    folder.store.finish_run(run, result, Energy(kwh * JOULES_PER_KWH, "estimate"))


def test_without_limits_a_night_goes_on(rule: Callable[..., StopRule], clock: Clock, folder: StudyFolder) -> None:
    stop = rule()
    for seed in range(3):
        stop.trial_started()
        spend(folder, seed, 1e6)
        clock.now += timedelta(days=1000)
    assert stop.reason() is None


def test_hours_count_from_the_start_of_the_night(rule: Callable[..., StopRule], clock: Clock) -> None:
    stop = rule(hours=1.5)
    clock.seconds += 1.5 * 3600 - 1
    assert stop.reason() is None
    clock.seconds += 1
    assert stop.reason() == "the limit of 1.5 hours is reached"
    assert rule(hours=1.5).reason() is None, "the next night has its own"


@pytest.mark.parametrize("days", [-1, 1])
def test_hours_are_not_those_of_a_clock_that_somebody_sets(
    rule: Callable[..., StopRule], clock: Clock, days: int
) -> None:
    stop = rule(hours=1.5)
    clock.now += timedelta(days=days)
    assert stop.reason() is None
    clock.seconds += 1.5 * 3600
    assert stop.reason() == "the limit of 1.5 hours is reached"


def test_the_machines_own_clock_for_hours_goes_on() -> None:
    before = uptime()
    assert 0 < before <= uptime()


def test_the_end_of_the_window_is_a_moment_in_any_timezone(rule: Callable[..., StopRule], clock: Clock) -> None:
    end = datetime(2026, 3, 11, 7, 0, tzinfo=ZoneInfo("Europe/Zurich"))
    stop = rule(until=end)
    clock.now = datetime(2026, 3, 11, 5, 59, 59, tzinfo=UTC)
    assert stop.reason() is None
    clock.now = datetime(2026, 3, 11, 6, 0, tzinfo=UTC)
    assert stop.reason() == f"it is {end.astimezone():%H:%M}, the end of the night"


def test_trials_are_those_that_began_in_this_night(rule: Callable[..., StopRule]) -> None:
    stop = rule(trials=2)
    for expected in (None, None, "2 trials done, as asked"):
        assert stop.reason() == expected
        stop.trial_started()
    assert rule(trials=2).reason() is None


def test_energy_counts_what_this_night_has_used(
    rule: Callable[..., StopRule], clock: Clock, folder: StudyFolder
) -> None:
    spend(folder, 0, 50.0)
    clock.now += timedelta(hours=1)
    stop = rule(kwh=2)
    clock.now += timedelta(hours=1)
    spend(folder, 1, 1.99)
    assert stop.reason() is None
    spend(folder, 2, 0.01)
    assert stop.reason() == "the limit of 2 kWh is reached"


def test_cost_is_energy_at_the_studys_price(rule: Callable[..., StopRule], folder: StudyFolder) -> None:
    stop = rule(cost=2.5)
    spend(folder, 0, 2.4)
    assert stop.reason() is None
    spend(folder, 1, 0.1)
    assert stop.reason() == "the limit of 2.5 CHF is reached"


def test_energy_and_cost_count_what_the_model_took_on_this_machine(
    rule: Callable[..., StopRule], clock: Clock, folder: StudyFolder
) -> None:
    def answer(kwh: float) -> None:
        folder.store.open_trial(0, Proposal("", "llm", energy_joules=kwh * JOULES_PER_KWH, energy_source="nvml"))

    answer(50.0)
    clock.now += timedelta(hours=1)
    energy, cost = rule(kwh=2), rule(cost=2)
    clock.now += timedelta(hours=1)
    spend(folder, 0, 1.0)
    answer(0.99)
    assert energy.reason() is None and cost.reason() is None
    answer(0.01)
    assert energy.reason() == "the limit of 2 kWh is reached"
    assert cost.reason() == "the limit of 2 CHF is reached"


def test_tokens_that_have_a_price_end_the_night_and_those_of_earlier_nights_do_not(
    tmp_path: Path, clock: Clock
) -> None:
    prices: dict[str, Any] = {
        "proposer__price_per_million_prompt_tokens": 1,
        "proposer__price_per_million_completion_tokens": 4,
    }
    folder = make_study(tmp_path, **prices, energy__price_per_kwh=1, energy__currency="CHF")
    folder.store.clock = clock

    def answer(read: int | None, written: int | None) -> None:
        folder.store.open_trial(0, Proposal("", "llm", prompt_tokens=read, completion_tokens=written))

    answer(10**9, 10**9)
    clock.now += timedelta(hours=1)
    stop = StopRule(folder, LimitSettings(cost=2.5), None, clock, lambda: clock.seconds)
    clock.now += timedelta(hours=1)
    answer(None, None)
    spend(folder, 0, 0.5)
    answer(999_999, 250_000)
    assert stop.reason() is None
    answer(1, None)
    assert stop.reason() == "the limit of 2.5 CHF is reached"


def test_a_disk_that_fills_up_ends_the_night(
    rule: Callable[..., StopRule], folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    free = 3 * GIB

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    stop = rule(min_free_disk_bytes=3 * GIB)
    assert stop.reason() is None
    free -= GIB // 2
    reason = stop.reason()
    assert reason is not None and reason.startswith("only 2.5 GiB of disk are free")
    assert set(asked) == {folder.path}, "the disk that the study is on"


def test_a_persons_word_is_heard_from_another_process(rule: Callable[..., StopRule], folder: StudyFolder) -> None:
    stop = rule()
    command_line = StudyFolder(folder.path.parent, "one").store
    command_line.set_control("pause", "paused")
    assert stop.paused() and stop.reason() is None
    command_line.set_control("run", "resumed")
    assert not stop.paused()
    command_line.set_control("stop", "stop")
    assert stop.reason() == "stopped by `autoresearch stop`"


def test_the_first_reason_given_is_the_one_that_is_told(rule: Callable[..., StopRule], folder: StudyFolder) -> None:
    stop = rule(trials=1)
    stop.trial_started()
    folder.store.set_control("stop", "stop")
    assert stop.reason() == "stopped by `autoresearch stop`"
    stop.request("ended by SIGTERM")
    stop.request("the script has no more answers")
    assert stop.reason() == "ended by SIGTERM"


def test_a_reason_does_not_go_away(rule: Callable[..., StopRule], folder: StudyFolder, clock: Clock) -> None:
    stop = rule(hours=1)
    clock.seconds += 2 * 3600
    assert stop.reason() == stop.reason() == "the limit of 1 hours is reached"
