"""What a study's settings ask of the workers: how many there are, and what each run is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from autoresearch.config import Settings
from autoresearch.errors import UserError
from autoresearch.program import told
from autoresearch.study.device_classes import DeviceClasses
from autoresearch.study.folder import StudyFolder
from autoresearch.trial import Recipe, window_of
from autoresearch.workers.fleet import Fleet
from autoresearch.workers.launcher import Launcher
from autoresearch.workers.local import LocalLauncher
from autoresearch.workers.machine import Machine, look
from rails import clean
from trainer.protocol import RunRequest

# -P: nothing is imported from the folder that a person happens to be in.
PLAIN_COMMAND = (sys.executable, "-P", "-m", "autoresearch.program.command")


def machine_of(settings: Settings) -> Machine:
    """This machine, as the settings ask for it. Raises UserError as `look` does."""
    return look(settings.device, settings.backend, False if settings.trainer else settings.compile)


def machine_of_runs(folder: StudyFolder, note: Callable[[str], None]) -> Machine:
    """The machine that runs are done on: this one, or a node of the cluster, which is waited for.

    Raises UserError where it cannot do what study.toml asks, or is of another kind than that of the study's earlier
    runs while a budget is in seconds.
    """
    settings = folder.settings
    Fleet(folder.path).forget()  # what a killed night left
    if settings.workers.launcher == "ray":
        if settings.trainer is not None:
            raise UserError("a program of your own is run on this machine only: set workers.launcher = 'local'")
        from autoresearch.workers.ray_launcher import machine_of_cluster

        machine = machine_of_cluster(settings, note)
    else:
        machine = machine_of(settings)
    others = folder.store.devices() - {machine.name}
    if others and "seconds" in settings.budget:
        raise UserError(
            f"study {folder.name} has a budget in seconds and runs that were made on {', '.join(sorted(others))}; on "
            f"{machine.name} a second buys another training: go on there, or start a new study"
        )
    if others and settings.workers.launcher == "local":  # on a cluster it is measured
        note(
            f"earlier runs of study {folder.name} were made on {clean(', '.join(sorted(others)), 200)}, those of this "
            f"night on {machine.name}: by how much scores differ between them is not measured"
        )
    return machine


def start_workers(folder: StudyFolder, machine: Machine) -> Launcher:
    """As many warm workers as the settings and the machine or the cluster give; the caller ends them."""
    settings, log, own = folder.settings, folder.path / "workers.log", folder.settings.trainer
    if settings.workers.launcher == "ray":
        from autoresearch.workers.ray_launcher import RayLauncher

        text = folder.store.study()["data_dir"]
        classes = DeviceClasses(folder, machine.name)
        return RayLauncher(settings, log, text and Path(text), classes, Fleet(folder.path))
    processes = settings.tensor_parallel * settings.data_parallel
    devices = machine.places(settings)
    if own is not None:
        told.check(own, folder.menu)
        environment = partial(
            told.environment, alone=len(devices) == 1, threads=max(1, machine.devices // len(devices))
        )
        command, place = (own.words, own.folder) if own.recipe == "adapter" else (PLAIN_COMMAND, None)
        return LocalLauncher(
            devices, settings.energy, log, command, 1, machine.uuids, environment, Path(place) if place else None
        )
    return LocalLauncher(devices, settings.energy, log, processes=processes, uuids=machine.uuids)


def end_workers(folder: StudyFolder, launcher: Launcher) -> str | None:
    """Ends them at once. Returns how busy they were, in words, where they were a cluster's."""
    launcher.close()
    fleet = Fleet(folder.path)
    cluster = fleet.read()
    fleet.forget()
    return cluster.in_all() if cluster else None


def make_request(
    folder: StudyFolder,
    machine: Machine,
    data_dir: Path,
    *,
    run_id: str,
    recipe: Recipe,
    seed: int,
    budget: Mapping[str, float],
    place: Path,
    score_test: bool,
    stop_above: Sequence[tuple[float, float]] = (),
) -> RunRequest:
    """One run under the study's terms; `place`, its folder, is made. `seed` counts within the study."""
    settings, baseline = folder.settings, folder.store.trial(0)
    assert baseline is not None
    place.mkdir(parents=True, exist_ok=True)
    seed = settings.seed * 1000 + seed
    own, script = settings.trainer, next(iter(folder.script_at(recipe).values()), None)
    return RunRequest(
        run_id=run_id,
        recipe=recipe,
        seed=seed,
        budget=dict(budget),
        data_dir=str(data_dir),
        result_path=str(place / "result.json"),
        backend=settings.backend,
        compile=settings.compiles(machine.kind, machine.compile_fault is None),
        repeatable=settings.repeatable,
        tensor_parallel=settings.tensor_parallel,
        data_parallel=settings.data_parallel,
        score_test=score_test,
        memory_bytes=machine.run_cap(settings),
        stop_above=[[*limit] for limit in stop_above],
        # no setting: one window for the whole study
        score_window=None if own else window_of(baseline.recipe),
        program=told.tell(own, recipe, seed, budget, place, script) if own else {},
    )
