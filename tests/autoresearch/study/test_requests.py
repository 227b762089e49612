"""What a study's settings and its machine make of a run's request."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch.study import history
from autoresearch.study.folder import StudyFolder, create_study
from autoresearch.study.preset import load_preset
from autoresearch.study.requests import make_request
from autoresearch.workers.machine import CONTEXT_BYTES, Machine
from trainer.protocol import RunRequest

GIB = 2**30
H200 = Machine("cuda", "H200", 1, 140 * GIB, ("fp32", "bf16"))
NO_COMPILER = Machine("cuda", "H200", 1, 140 * GIB, ("fp32", "bf16"), compile_fault="no g++; install g++")
CPU = Machine("cpu", "some", 2, 8 * GIB, ("fp32", "bf16"))


def request(study: StudyFolder, machine: Machine) -> RunRequest:
    recipe, budget = load_preset("cpu-nano").recipe, {"tokens": 1000}
    return make_request(
        study, machine, study.path, run_id="a", recipe=recipe, seed=0, budget=budget, place=study.path / "a",
        score_test=False,
    )  # fmt: skip


@pytest.mark.parametrize(("workers", "cap"), [(1, None), (2, 70 * GIB - CONTEXT_BYTES)])
def test_runs_on_one_gpu_are_held_to_their_part_and_proposals_judged_by_it(
    tmp_path: Path, workers: int, cap: int | None
) -> None:
    study = create_study(tmp_path, "mine", "cpu-nano", CPU, {"workers": workers})
    assert request(study, H200).memory_bytes == cap
    assert history.now(study, H200, 0).limits.memory_bytes == (cap or 140 * GIB)
    assert request(study, CPU).memory_bytes is None
    assert history.now(study, CPU, 0).limits.memory_bytes == 8 * GIB


def test_a_run_is_compiled_only_where_that_was_seen_to_work(tmp_path: Path) -> None:
    study = create_study(tmp_path, "mine", "cpu-nano", CPU, {})
    assert [request(study, machine).compile for machine in (H200, NO_COMPILER, CPU)] == [True, False, False]
