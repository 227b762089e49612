"""Energy of a run: from the best counter there is, never counted twice, and an estimate that says so otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest
from cards import UUIDS, Cards
from studies import wait_until

from autoresearch.config import EnergySettings
from autoresearch.workers import energy, nvml
from autoresearch.workers.energy import Energy, EnergyMeter

SETTINGS = EnergySettings(watts_per_core=10.0, gpu_watts=300.0)


class Counters:
    """A machine whose counters a test moves by hand."""

    def __init__(self, folder: Path) -> None:
        self.rapl = folder / "powercap"
        self.rapl.mkdir()
        self.seconds = 0.0
        self.cpu = {"user": 0.0, "system": 0.0, "nice": 0.0, "idle": 0.0}
        self.workers: dict[int, float] = {}

    def zone(self, name: str, kind: str, joules: float) -> None:
        zone = self.rapl / name
        zone.mkdir(exist_ok=True)
        (zone / "name").write_text(f"{kind}\n")
        (zone / "energy_uj").write_text(f"{int(joules * 1e6)}\n")

    def packages(self, first: float, second: float) -> None:
        self.zone("intel-rapl:0", "package-0", first)
        self.zone("intel-rapl:1", "package-1", second)

    def meter(self) -> EnergyMeter:
        return EnergyMeter(SETTINGS, UUIDS, self.rapl)

    def process(self, pid: int) -> SimpleNamespace:
        if pid not in self.workers:
            raise psutil.NoSuchProcess(pid)
        return SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=self.workers[pid], system=0.0))


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counters:
    counters = Counters(tmp_path)
    fake = SimpleNamespace(
        cpu_times=lambda: SimpleNamespace(**counters.cpu), Process=counters.process, Error=psutil.Error
    )
    monkeypatch.setattr(energy, "psutil", fake)
    monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: counters.seconds))

    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    return counters


@pytest.fixture
def cards(counters: Counters, monkeypatch: pytest.MonkeyPatch) -> Cards:
    return Cards(monkeypatch)


def test_the_packages_are_shared_by_processor_time(counters: Counters) -> None:
    counters.packages(7.0, 3.0)
    meter = counters.meter()
    meter.start("a", None, ())
    meter.start("b", None, ())
    counters.packages(67.0, 43.0)
    counters.cpu |= {"user": 15.0, "system": 5.0, "idle": 99.0}
    assert meter.stop("a", None, (), cpu_seconds=5.0) == Energy(25.0, "rapl")
    assert meter.stop("b", None, (), cpu_seconds=15.0) == Energy(75.0, "rapl")


def test_zones_inside_a_package_are_not_counted_again(counters: Counters) -> None:
    counters.packages(0.0, 0.0)
    counters.zone("intel-rapl:0:0", "core", 0.0)
    meter = counters.meter()
    meter.start("a", None, ())
    counters.packages(60.0, 40.0)
    counters.zone("intel-rapl:0:0", "core", 55.0)
    counters.cpu["user"] = 10.0
    assert meter.stop("a", None, (), cpu_seconds=10.0).joules == pytest.approx(100.0)


def test_the_whole_platforms_zone_is_not_added_to_its_packages(counters: Counters) -> None:
    counters.zone("intel-rapl:0", "package-0", 0.0)
    counters.zone("intel-rapl:1", "psys", 0.0)
    meter = counters.meter()
    meter.start("a", None, ())
    counters.zone("intel-rapl:0", "package-0", 60.0)
    counters.zone("intel-rapl:1", "psys", 90.0)
    counters.cpu["user"] = 10.0
    assert meter.stop("a", None, (), cpu_seconds=10.0).joules == pytest.approx(60.0)


def test_workers_that_run_under_nice_share_the_packages_too(counters: Counters) -> None:
    counters.packages(0.0, 0.0)
    meter = counters.meter()
    for run in "ab":
        meter.start(run, None, ())
    counters.packages(60.0, 40.0)
    counters.cpu["nice"] = 20.0
    joules = [meter.stop(run, None, (), cpu_seconds=10.0).joules for run in "ab"]
    assert joules == pytest.approx([50.0, 50.0])


def test_a_run_never_gets_more_than_the_machine_used(counters: Counters) -> None:
    counters.packages(0.0, 0.0)
    meter = counters.meter()
    meter.start("a", None, ())
    counters.packages(60.0, 40.0)
    counters.cpu["user"] = 9.9  # the kernel counts in ticks and the worker exactly
    assert meter.stop("a", None, (), cpu_seconds=10.0) == Energy(100.0, "rapl")


def unreadable(counters: Counters) -> None:
    (counters.rapl / "intel-rapl:0" / "energy_uj").unlink()


def garbled(counters: Counters) -> None:
    (counters.rapl / "intel-rapl:1" / "energy_uj").write_text("")


def wrapped(counters: Counters) -> None:
    counters.packages(1.0, 140.0)


@pytest.mark.parametrize("trouble", [unreadable, garbled, wrapped])
def test_a_counter_that_fails_gives_an_estimate_from_processor_time(
    counters: Counters, trouble: Callable[[Counters], None]
) -> None:
    counters.packages(200_000.0, 100.0)
    meter = counters.meter()
    assert meter.source() == "rapl"
    meter.start("a", None, ())
    trouble(counters)
    counters.cpu["user"] = 20.0
    assert meter.stop("a", None, (), cpu_seconds=4.0) == Energy(40.0, "estimate")


def test_without_any_counter_there_is_an_estimate(counters: Counters) -> None:
    meter = counters.meter()
    assert meter.source() == meter.source([0]) == "estimate"
    meter.start("a", None, ())
    assert meter.stop("a", None, (), cpu_seconds=4.0) == Energy(40.0, "estimate")


def test_a_run_whose_start_was_not_seen_is_estimated(counters: Counters) -> None:
    counters.packages(7.0, 3.0)
    meter = counters.meter()
    assert meter.stop("a", None, (), cpu_seconds=4.0) == Energy(40.0, "estimate")
    assert meter.stop("a", None, (), cpu_seconds=None) == Energy(0.0, "estimate")


def test_a_worker_that_reports_no_processor_time_is_asked_for_it(counters: Counters) -> None:
    counters.workers[42] = 100.0
    meter = counters.meter()
    meter.start("a", 42, ())
    counters.workers[42] = 103.0
    assert meter.stop("a", 42, (), cpu_seconds=None) == Energy(30.0, "estimate")


def test_a_worker_that_was_killed_counts_as_busy_until_then(counters: Counters) -> None:
    counters.workers[42] = 100.0
    meter = counters.meter()
    meter.start("a", 42, ())
    counters.seconds = 8.0
    del counters.workers[42]
    assert meter.stop("a", 42, (), cpu_seconds=None) == Energy(80.0, "estimate")


def test_a_gpus_own_counter_gives_joules(counters: Counters, cards: Cards) -> None:
    counters.packages(7.0, 3.0)
    meter = counters.meter()
    assert (meter.source(), meter.source([0]), meter.source([0, 1])) == ("rapl", "nvml", "nvml")
    meter.start("a", None, (0,))
    meter.start("b", None, (1,))
    cards.joules |= {0: 1250.5, 1: 5100.0}
    assert meter.stop("a", None, (0,), cpu_seconds=4.0) == Energy(250.5, "nvml")
    assert meter.stop("b", None, (1,), cpu_seconds=4.0) == Energy(100.0, "nvml")
    meter.start("both", None, (0, 1))
    cards.joules |= {0: 1260.5, 1: 5130.0}
    assert meter.stop("both", None, (0, 1), cpu_seconds=4.0) == Energy(40.0, "nvml")


def test_runs_that_share_a_gpu_divide_its_energy_moment_by_moment(counters: Counters, cards: Cards) -> None:
    meter = counters.meter()
    meter.start("a", None, (0,))
    cards.joules[0] = 1100.0  # a alone
    meter.start("b", None, (0,))
    cards.joules[0] = 1160.0  # together
    assert meter.stop("a", None, (0,), cpu_seconds=4.0) == Energy(130.0, "nvml")
    cards.joules[0] = 1170.0  # b alone
    assert meter.stop("b", None, (0,), cpu_seconds=4.0) == Energy(40.0, "nvml")


def test_a_run_on_the_processor_is_not_charged_the_gpu(counters: Counters, cards: Cards) -> None:
    meter = counters.meter()
    meter.start("a", None, ())
    cards.joules[0] = 99_999.0
    assert meter.stop("a", None, (), cpu_seconds=4.0) == Energy(40.0, "estimate")


@pytest.mark.parametrize("before, after", [(None, None), (1000.0, None), (1000.0, 3.0)], ids=["none", "lost", "reset"])
def test_a_gpu_without_a_counter_is_estimated_from_wall_time(
    counters: Counters, cards: Cards, before: float | None, after: float | None
) -> None:
    cards.joules[0] = before
    meter = counters.meter()
    meter.start("a", None, (0,))
    cards.joules[0], counters.seconds = after, 2.0
    assert meter.stop("a", None, (0,), cpu_seconds=4.0) == Energy(600.0, "estimate")


def test_runs_that_share_a_gpu_without_a_counter_share_its_estimate(counters: Counters) -> None:
    meter = counters.meter()
    meter.start("a", None, (0,))
    meter.start("b", None, (0,))
    counters.seconds = 2.0
    assert meter.stop("a", None, (0,), cpu_seconds=4.0) == Energy(300.0, "estimate")
    counters.seconds = 3.0
    assert meter.stop("b", None, (0,), cpu_seconds=4.0) == Energy(600.0, "estimate")


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power is read when a run begins and ends only."""
    monkeypatch.setattr(energy, "SAMPLE_SECONDS", 3600.0)


@pytest.mark.usefixtures("by_hand")
def test_a_gpu_that_tells_its_power_alone_has_it_integrated(counters: Counters, cards: Cards) -> None:
    cards.joules[0], cards.watts[0] = None, 100.0
    meter = counters.meter()
    assert (meter.source([0]), meter.source([0, 1])) == ("nvml power", "nvml power")
    counters.seconds = 50.0
    meter.start("a", None, (0,))
    counters.seconds, cards.watts[0] = 52.0, 300.0
    meter.start("b", None, (0,))  # a alone: 2 s, from 100 W to 300 W
    counters.seconds, cards.watts[0] = 53.0, 200.0
    assert meter.stop("a", None, (0,), cpu_seconds=4.0) == Energy(400.0 + 125.0, "nvml power")
    counters.seconds = 54.0
    assert meter.stop("b", None, (0,), cpu_seconds=4.0) == Energy(125.0 + 200.0, "nvml power")


@pytest.mark.usefixtures("by_hand")
def test_power_that_is_lost_on_the_way_gives_an_estimate(counters: Counters, cards: Cards) -> None:
    cards.joules[0], cards.watts[0] = None, 100.0
    meter = counters.meter()
    meter.start("a", None, (0,))
    counters.seconds, cards.watts[0] = 2.0, None
    assert meter.stop("a", None, (0,), cpu_seconds=4.0) == Energy(600.0, "estimate")


def test_power_is_read_while_a_run_is_in_flight_and_not_longer(
    counters: Counters, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[float] = []

    def milliwatts(card: int) -> int:
        counters.seconds += 1.0
        read.append(counters.seconds)
        return 100_000

    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", milliwatts)
    monkeypatch.setattr(energy, "SAMPLE_SECONDS", 0.005)
    cards.joules[0] = None
    meter = counters.meter()
    for run in "ab":
        already = len(read)
        meter.start(run, None, (0,))
        wait_until(lambda already=already: len(read) > already + 5)  # type: ignore[misc]
        found = meter.stop(run, None, (0,), cpu_seconds=4.0)
        assert found.source == "nvml power" and found.joules >= 500.0
        wait_until(lambda: not any(thread.name == "power" for thread in threading.enumerate()))


def test_a_slice_of_a_card_is_not_charged_its_neighbours(counters: Counters, cards: Cards) -> None:
    """With MIG the counter is the whole card's, and a slice's own UUID is that of no card."""
    cards.sliced.add(0)
    cards.watts[0] = 100.0
    for meter in (counters.meter(), EnergyMeter(SETTINGS, ["a slice"], counters.rapl)):
        assert meter.source([0]) == "estimate"
        meter.start("a", None, (0,))
        cards.joules[0] = 9000.0
        counters.seconds += 2.0
        assert meter.stop("a", None, (0,), cpu_seconds=4.0) == Energy(600.0, "estimate")


def test_the_counter_is_that_of_the_card_the_worker_sees(counters: Counters, cards: Cards) -> None:
    """With CUDA_VISIBLE_DEVICES=1 the worker's cuda:0 is the driver's card 1."""
    meter = EnergyMeter(SETTINGS, UUIDS[1:], counters.rapl)
    meter.start("a", None, (0,))
    cards.joules |= {0: 9000.0, 1: 5250.0}
    assert meter.stop("a", None, (0,), cpu_seconds=1.0) == Energy(250.0, "nvml")


@pytest.mark.parametrize(
    ("visible", "there"),
    [
        (None, True),
        ("", False),
        ("-1", False),
        ("NoDevFiles", False),
        ("1,0", True),
        ("GPU-8932f937", True),
        ("7", True),
    ],
)
def test_a_gpu_is_there_unless_it_is_hidden(
    cards: Cards, monkeypatch: pytest.MonkeyPatch, visible: str | None, there: bool
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nvml.is_there() is there


def test_without_a_driver_only_a_jetson_has_a_gpu(
    counters: Counters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvml, "JETSON", tmp_path / "nv_tegra_release")
    assert not nvml.is_there()
    nvml.JETSON.touch()
    assert nvml.is_there()
