"""A class of device is measured against the study's own before it does any of its runs, and told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from studies import MACHINE, make_study, query, run_study

from autoresearch.decide import Noise, offset
from autoresearch.evidence.status import status
from autoresearch.study.device_classes import REPEATS, DeviceClasses
from autoresearch.study.folder import StudyFolder
from autoresearch.workers.admission import Admitted, Refused, Repeat, Repeated
from autoresearch.workers.energy import Energy
from trainer.protocol import RunResult

NOISE = Noise(0.01, 0.0, 10.0)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A study whose baseline is measured with as many seeds as another class repeats."""
    folder = make_study(tmp_path, decision__baseline_runs=REPEATS)
    run_study(folder, [])
    return folder


def repeat_all(classes: DeviceClasses, folder: StudyFolder, above: list[float]) -> str | None:
    """Each run that is asked for is so much above its own; returns what a person is told."""
    told = None
    scores = folder.store.scores_on(MACHINE.name)
    for more in above:
        answer = classes.answer("L4")
        assert isinstance(answer, Repeat)
        trial, seed = map(int, answer.request.run_id.removesuffix("-again").split("-"))
        result = RunResult(answer.request.run_id, answer.request.seed, "complete", val_bpb=scores[trial, seed] + more)
        told = classes.repeated(Repeated("L4", answer.request.run_id, result, Energy(7.0, "nvml")))
    return told


def test_the_studys_own_class_has_its_runs_at_once_and_another_waits_for_the_first_of_them(tmp_path: Path) -> None:
    classes = DeviceClasses(make_study(tmp_path), "H200")
    assert classes.answer("H200") == Admitted()
    assert classes.answer("L4") is None


def test_runs_are_repeated_as_they_were_asked_for(folder: StudyFolder) -> None:
    classes = DeviceClasses(folder, "whatever")
    assert classes.answer(MACHINE.name) == Admitted()
    asked = [classes.answer("L4") for _ in range(REPEATS)]
    seeds = {answer.request.seed for answer in asked if isinstance(answer, Repeat)}
    assert len(seeds) == REPEATS and classes.answer("L4") is None, "all are under way"
    assert isinstance(classes.answer("A10"), Repeat), "each class for itself"
    classes.forget()
    assert isinstance(classes.answer("L4"), Repeat), "what was lost is done again"


def test_a_class_that_scores_alike_is_admitted_and_said(folder: StudyFolder) -> None:
    before = folder.store.totals()["joules"]
    told = repeat_all(DeviceClasses(folder, ""), folder, [0.0, 1e-4, -1e-4, 0.0, 0.0])
    assert told is not None and "L4 scores +0.0000 ± 0.0001 bits per byte" in told and "its runs count" in told
    assert DeviceClasses(folder, "").answer("L4") == Admitted(), "it is measured once, also by the next night"
    assert folder.store.totals()["joules"] == pytest.approx(before + 7.0 * REPEATS)
    assert status(folder).devices == [f"{told}."]
    assert query(folder, "SELECT COUNT(*) FROM runs") == [(REPEATS,)], "no runs of the trial"


def test_a_class_that_is_shown_to_score_otherwise_is_refused(folder: StudyFolder) -> None:
    classes = DeviceClasses(folder, "")
    told = repeat_all(classes, folder, [0.05, 0.051, 0.049, 0.05, 0.05])
    assert told is not None and "no run of this study is done there" in told
    assert classes.answer("L4") == Refused(told)


def test_where_the_study_has_fewer_runs_all_of_them_are_enough(tmp_path: Path) -> None:
    folder = make_study(tmp_path, decision__baseline_runs=3)
    run_study(folder, [])
    classes = DeviceClasses(folder, "")
    told = repeat_all(classes, folder, [0.0, 0.0, 0.0])
    assert told is not None and "3 pairs" in told and classes.answer("L4") == Admitted()


def test_of_a_class_that_is_not_compared_to_the_end_nothing_is_said_to_be_decided(folder: StudyFolder) -> None:
    assert repeat_all(DeviceClasses(folder, ""), folder, [0.0, 0.0]) is None
    (said,) = status(folder).devices
    assert "2 pairs" in said and said.endswith("it repeats more of them before it has runs of its own.")


def test_a_class_on_which_no_run_succeeds_is_refused_by_name(folder: StudyFolder) -> None:
    classes = DeviceClasses(folder, "")
    for _ in range(2):
        answer = classes.answer("L4")
        assert isinstance(answer, Repeat)
        result = RunResult(answer.request.run_id, 0, "failed", failure="out_of_memory", message="out of memory")
        assert classes.repeated(Repeated("L4", answer.request.run_id, result, Energy(1.0, "estimate"))) is None
    refused = classes.answer("L4")
    assert isinstance(refused, Refused) and refused.why.endswith("cannot be repeated on L4: out of memory")


def test_runs_that_were_lost_with_one_node_say_nothing_of_its_class(folder: StudyFolder) -> None:
    classes = DeviceClasses(folder, "")
    asked = [classes.answer("L4") for _ in range(REPEATS)]
    for answer in asked:
        assert isinstance(answer, Repeat)
        gone = RunResult(answer.request.run_id, 0, "failed", failure="worker_died", message="its node is gone")
        classes.repeated(Repeated("L4", answer.request.run_id, gone, Energy(1.0, "estimate")))
    assert [classes.answer("L4") for _ in range(REPEATS)] == asked, "each is tried once more"


def test_a_study_that_was_moved_repeats_its_runs_where_it_is_now(folder: StudyFolder, tmp_path: Path) -> None:
    folder.store.set_data(str(tmp_path / "text"), "0" * 64)
    moved = folder.path.rename(tmp_path / "elsewhere")
    answer = DeviceClasses(StudyFolder(tmp_path, "elsewhere"), "").answer("L4")
    assert isinstance(answer, Repeat)
    assert answer.request.data_dir == str(tmp_path / "text")
    assert Path(answer.request.result_path).parent == moved / "runs" / "0000-0"


def test_where_no_run_can_be_asked_for_again_a_class_is_refused(folder: StudyFolder) -> None:
    for request in folder.path.glob("runs/*/request.json"):
        request.unlink()
    refused = DeviceClasses(folder, "").answer("L4")
    assert isinstance(refused, Refused) and "request.json are gone" in refused.why


def test_a_run_that_nobody_could_begin_says_nothing_of_its_class(folder: StudyFolder) -> None:
    classes = DeviceClasses(folder, "")
    for _ in range(5):
        answer = classes.answer("L4")
        assert isinstance(answer, Repeat)
        classes.repeated(Repeated("L4", answer.request.run_id, RunResult("", 0, "cancelled"), Energy(0.0, "estimate")))
    assert isinstance(classes.answer("L4"), Repeat)


def test_a_budget_in_seconds_is_for_one_class(folder: StudyFolder) -> None:
    folder.settings = folder.settings.model_copy(update={"budget": {"seconds": 60.0}})
    refused = DeviceClasses(folder, "").answer("L4")
    assert isinstance(refused, Refused) and "a budget in seconds" in refused.why


@pytest.mark.parametrize(
    ("differences", "matters"),
    [
        ([0.0] * 5, False),
        ([1e-6] * 5, False),  # shown, and far too small to turn a decision
        ([0.02] * 5, True),
        ([0.02, -0.02, 0.03, -0.01, 0.01], False),  # not shown
        ([0.02, 0.021], True),
    ],
)
def test_an_offset_matters_when_it_is_shown_and_is_not_small_beside_the_noise(
    differences: list[float], matters: bool
) -> None:
    assert offset(differences).matters(NOISE) is matters
    assert offset([-part for part in differences]).matters(NOISE) is matters
    assert not offset(differences).matters(replace(NOISE, deviation=1.0))


def test_the_interval_of_an_offset_is_students() -> None:
    found = offset([0.01, 0.02, 0.03])
    assert found.n == 3 and found.value == pytest.approx(0.02)
    assert found.half_interval == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-6)
