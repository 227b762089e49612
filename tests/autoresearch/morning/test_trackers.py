"""Trackers get each closed trial as it is in the database, and what goes wrong with them does not end a night."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studies import BAD, GOOD, change, make_study, query, run_study

from autoresearch.config import PRESETS, parse_settings
from autoresearch.errors import UserError
from autoresearch.evidence import Evidence
from autoresearch.morning.trackers import Trackers, measured
from autoresearch.study.folder import StudyFolder

NIGHT = [change("lr", GOOD), change("lr", BAD), change("lr", 7.0), change("beta1", 0.51)]  # 7 blocked, 0.51 diverges


def tracked_night(folder: StudyFolder, *names: str, answers: list[str] = NIGHT, workers: int = 2) -> list[str]:
    """One night with these trackers. Returns what was said about them."""
    said: list[str] = []
    with Trackers(folder, names, said.append) as trackers:
        run_study(folder, answers, observer=trackers, workers=workers)
    return said


@pytest.fixture
def files() -> Any:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(folder: StudyFolder) -> tuple[dict[str, dict[int, float]], dict[int, str]]:
        """(name -> step -> value, step -> outcome), as TensorBoard reads them."""
        found = EventAccumulator(str(folder.path / "tracking" / "tensorboard")).Reload()
        scalars = {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in found.Tags()["scalars"]}
        texts = {event.step: event.tensor_proto.string_val[0].decode() for event in found.Tensors("outcome")}
        return scalars, texts

    return read


def test_tensorboard_shows_every_closed_trial_as_the_database_has_it(tmp_path: Path, files: Any) -> None:
    folder = make_study(tmp_path)
    assert tracked_night(folder, "tensorboard") == []
    scalars, outcomes = files(folder)
    assert outcomes == {0: "baseline", 1: "keep", 2: "discard", 3: "blocked", 4: "failed"}
    assert scalars["improvement"] == pytest.approx(
        dict(query(folder, "SELECT number, improvement FROM trials WHERE improvement IS NOT NULL"))
    )
    assert set(scalars["val_bpb"]) == set(scalars["val_bpb_half_interval"]) == {0, 1, 2}, "a failure is no number"
    assert scalars["recipe/lr"] == pytest.approx({0: 0.001, 1: GOOD, 2: BAD, 4: scalars["recipe/lr"][4]})
    assert 3 not in scalars["recipe/lr"], "a blocked proposal has no recipe"
    assert "recipe/precision" not in scalars
    assert scalars["incumbent_val_bpb"][4] < scalars["incumbent_val_bpb"][0]
    assert scalars["tokens_per_second"][0] == scalars["tokens"][0] == 200_000
    assert scalars["flops"][0] == pytest.approx(200_000 * 4e6)
    runs, joules = query(folder, "SELECT COUNT(*), SUM(energy_joules) FROM runs WHERE trial = 2")[0]
    assert scalars["seconds"][2] == pytest.approx(1.1 * runs)
    assert scalars["energy_joules"][2] == pytest.approx(joules)
    assert 0 < scalars["study_kwh"][0] < max(scalars["study_kwh"].values())


def test_the_names_that_trackers_get_stay_as_they_are(tmp_path: Path) -> None:
    """Dashboards that people have made go by them."""
    folder = make_study(tmp_path)
    run_study(folder, NIGHT)
    evidence = Evidence(folder)
    values = [measured(evidence, trial).values() for trial in evidence.trials]
    always = {"n_runs", "study_kwh", "outcome", "incumbent_val_bpb"}
    spent = {"energy_joules", "seconds"}
    scored = {"val_bpb", "val_bpb_half_interval", "tokens_per_second", "tokens", "flops"}
    knobs = {f"recipe/{knob}" for knob in folder.menu.knobs if knob != "precision"}
    assert values[0].keys() == always | spent | scored | knobs
    assert values[1].keys() == always | spent | scored | knobs | {"improvement"}
    assert values[3].keys() == always, "a blocked proposal has cost nothing and has no recipe"
    assert values[4].keys() == (always | spent | knobs | {"tokens_per_second"})


def test_the_next_night_goes_on_in_the_same_place(tmp_path: Path, files: Any) -> None:
    folder = make_study(tmp_path)
    answers = [change("lr", BAD), change("lr", 7.0)]
    tracked_night(folder, "tensorboard", answers=answers[:1])
    tracked_night(folder, "tensorboard", answers=answers)
    scalars, outcomes = files(folder)
    assert outcomes == {0: "baseline", 1: "discard", 2: "blocked"}
    assert list(scalars["study_kwh"]) == [0, 1, 2]


def test_tracking_loads_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    make_study(tmp_path)
    code = f"""
import sys
from pathlib import Path
from autoresearch.study.folder import StudyFolder
from autoresearch.morning.trackers import Trackers
folder = StudyFolder(Path({str(tmp_path)!r}), "one")
with Trackers(folder, ["tensorboard"], print) as trackers:
    trackers.trial_closed(folder.store.trial(0))
print(sorted({{"torch", "tensorflow"}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_told_before_the_night_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = make_study(tmp_path)
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"tracker {name} is not installed: run `pip install -e '\.\[{name}\]'`"):
        Trackers(folder, [name])


def test_a_folder_named_like_the_package_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path)
    (tmp_path / "cwd" / "wandb").mkdir(parents=True)  # as wandb itself leaves it where it has run
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "cwd")])
    with pytest.raises(UserError, match="tracker wandb is not installed"):
        Trackers(folder, ["wandb"])
    sys.modules.pop("wandb", None)


def test_a_tracker_that_fails_in_the_night_is_left_out_of_it_with_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    def no_room(self: EventFileWriter, event: object) -> None:
        raise OSError("No space left on device\x1b[31m")

    folder = make_study(tmp_path)
    said: list[str] = []
    with Trackers(folder, ["tensorboard"], said.append) as trackers:
        monkeypatch.setattr(EventFileWriter, "add_event", no_room)
        run_study(folder, NIGHT, observer=trackers)
    assert said == [
        "tracker tensorboard failed (OSError: No space left on device); the night goes on without it",
    ]
    assert query(folder, "SELECT message FROM events WHERE kind = 'tracker'") == [(said[0],)]
    assert query(folder, "SELECT COUNT(*) FROM trials WHERE state NOT IN ('proposed', 'running')") == [(5,)]


def test_a_tracker_that_cannot_start_is_left_out_too(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = make_study(tmp_path)
    (folder.path / "tracking").write_text("a file in the way")
    (said,) = tracked_night(folder, "tensorboard", answers=[change("lr", BAD)])
    assert said.startswith("tracker tensorboard failed (FileExistsError")
    assert query(folder, "SELECT decision FROM trials WHERE number = 1") == [("discard",)]


def test_trackers_are_off_unless_the_settings_name_them(tmp_path: Path) -> None:
    for preset in PRESETS.glob("*/study.toml"):
        text = preset.read_text("utf-8")
        assert parse_settings(text, "study.toml").trackers == []
        switched_on = text.replace("# trackers", "trackers")
        assert parse_settings(switched_on, "study.toml").trackers == ["tensorboard"], "the line as it stands must work"
        with pytest.raises(UserError, match=r"trackers\.0: .*'tensorboard', 'wandb' or 'trackio'.*'mlflow'"):
            parse_settings(switched_on.replace('["tensorboard"]', '["mlflow"]'), "study.toml")
    folder = make_study(tmp_path)
    tracked_night(folder, answers=[])
    assert not (folder.path / "tracking").exists()


@pytest.fixture
def offline_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb = pytest.importorskip("wandb")
    yield wandb
    wandb.teardown()


def test_wandb_goes_on_with_one_run_and_takes_trials_in_any_order(tmp_path: Path, offline_wandb: Any) -> None:
    folder = make_study(tmp_path)
    tracked_night(folder, "wandb")
    first_run, first = wandb_night(folder)
    assert {row["trial"]: row["outcome"] for row in first} == {
        "0": '"baseline"', "1": '"keep"', "2": '"discard"', "3": '"blocked"', "4": '"failed"'
    }  # fmt: skip
    by_trial = {row["trial"]: row for row in first}
    assert float(by_trial["1"]["recipe/lr"]) == GOOD and "val_bpb" not in by_trial["4"]
    with Trackers(folder, ["wandb"]) as trackers:  # as with several workers: trial 2 closes before trial 1
        for number in (2, 1):
            trial = folder.store.trial(number)
            assert trial is not None
            trackers.trial_closed(trial)
    second_run, second = wandb_night(folder)
    assert [row["trial"] for row in second] == ["2", "1"]
    assert second_run == first_run and first_run[:2] == ("autoresearch", "one")


def wandb_night(folder: StudyFolder) -> tuple[tuple[str, str, str], list[dict[str, str]]]:
    """(project, name, id) and the rows of the one night that lies there; takes it away."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # as at the end of a process: only now is all of it on disk
    (file,) = (folder.path / "tracking" / "wandb").glob("offline-run-*/*.wandb")
    records = [Record.FromString(data) for data in wandb_records(file.read_bytes())]
    shutil.rmtree(folder.path / "tracking")
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    rows = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    return (run.project, run.display_name, run.run_id), rows


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of an offline run: a LevelDB log (blocks of 32 KiB; CRC, length, type) behind 7 bytes of its own."""
    at, record = 7, b""
    while at < len(data):
        if 2**15 - at % 2**15 < 7:  # too little of the block is left for a header
            at += 2**15 - at % 2**15
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_without_a_login_is_told_before_the_night_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline_wandb: Any
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = make_study(tmp_path)
    with pytest.raises(UserError, match=r"tracker wandb: .*Log in, set WANDB_MODE=offline"):
        Trackers(folder, ["wandb"])


def test_trackio_goes_on_with_one_run_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is imported first
    trackio = pytest.importorskip("trackio")
    folder = make_study(tmp_path)
    answers = [change("lr", GOOD), change("lr", 7.0)]
    tracked_night(folder, "trackio", answers=answers[:1])
    tracked_night(folder, "trackio", answers=answers)
    (run,) = trackio.Api().runs("autoresearch")
    assert run.name.startswith("one-")
    rows = trackio.sqlite_storage.SQLiteStorage.get_logs("autoresearch", run.name)
    assert {row["step"]: row["outcome"] for row in rows} == {0: "baseline", 1: "keep", 2: "blocked"}
    assert next(row["recipe/lr"] for row in rows if row["step"] == 1) == GOOD
