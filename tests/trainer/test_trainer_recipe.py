"""What a recipe, a request and a result accept."""

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from worker_process import RECIPE

from trainer.protocol import RunRequest, RunResult
from trainer.recipe import Recipe

REQUEST: dict[str, Any] = {
    "run_id": "0007-2",
    "recipe": RECIPE,
    "seed": 2,
    "budget": {"tokens": 1000},
    "data_dir": "/data",
    "result_path": "/runs/result.json",
}
COMPLETE: dict[str, Any] = {"run_id": "0007-2", "seed": 2, "state": "complete", "val_bpb": 2.5}


def test_a_recipe_keeps_its_knobs() -> None:
    knobs = asdict(Recipe.from_mapping(RECIPE))
    assert {name: knobs[name] for name in RECIPE} == RECIPE


def test_a_whole_number_is_a_number() -> None:
    clip = Recipe.from_mapping(RECIPE | {"grad_clip": 1}).grad_clip
    assert (clip, type(clip)) == (1.0, float)


def test_an_unknown_knob_is_named_with_its_nearest() -> None:
    with pytest.raises(ValueError, match="unknown knob 'warmup'; did you mean 'lr_warmup'"):
        Recipe.from_mapping(RECIPE | {"warmup": 1})


def test_missing_knobs_are_named() -> None:
    with pytest.raises(ValueError, match="missing lr, precision"):
        Recipe.from_mapping({name: value for name, value in RECIPE.items() if name not in ("lr", "precision")})


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("n_layer", 0),
        ("n_layer", 2.0),
        ("n_layer", True),
        ("n_layer", "2"),
        ("n_head", 3),
        ("lr", 0.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", 10**400),
        ("lr", "0.001"),
        ("lr", True),
        ("lr_warmup", -1),
        ("grad_clip", 0),
        ("weight_decay", -0.1),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("precision", "fp16"),
        ("precision", None),
    ],
)
def test_a_value_that_cannot_be_trained_is_refused(knob: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"recipe: \w+ is .*; it must be "):
        Recipe.from_mapping(RECIPE | {knob: value})


def test_a_request_survives_the_disk(tmp_path: Path) -> None:
    request = RunRequest(**REQUEST, score_test=True)
    request.write(tmp_path / "request.json")
    assert RunRequest.read(tmp_path / "request.json") == request
    assert [path.name for path in tmp_path.iterdir()] == ["request.json"]


def test_a_result_survives_the_disk(tmp_path: Path) -> None:
    result = RunResult("0007-2", 2, "complete", val_bpb=2.5, curve=[[1, 7.5], [2, 7.25]], versions={"torch": "2"})
    result.write(tmp_path / "result.json")
    assert RunResult.read(tmp_path / "result.json") == result


def test_a_launcher_can_write_what_a_worker_could_not(tmp_path: Path) -> None:
    RunResult("0007-2", 2, "failed", "timed_out", "no result after 60 s").write(tmp_path / "result.json")
    assert RunResult.read(tmp_path / "result.json").failure == "timed_out"


def test_nan_never_reaches_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(ValueError):
        RunResult("0007-2", 2, "complete", val_bpb=math.nan).write(path)
    assert list(tmp_path.iterdir()) == []
    path.write_text(json.dumps(asdict(RunResult("0007-2", 2, "complete", val_bpb=2.5)) | {"val_bpb": math.nan}))
    with pytest.raises(ValueError, match=r"result.json: not a RunResult: NaN is no JSON number"):
        RunResult.read(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": {}},
        {"budget": {"tokens": 1, "steps": 1}},
        {"budget": {"tokens": 0}},
        {"budget": {"tokens": 1.5}},
        {"budget": {"seconds": math.inf}},
        {"budget": {"epochs": 1}},
        {"budget": 5},
        {"seed": -1},
        {"seed": 1.0},
        {"run_id": ""},
        {"recipe": "fast"},
        {"score_test": 1},
    ],
)
def test_a_request_that_means_nothing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it must be"):
        RunRequest(**(REQUEST | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "done"},
        {"state": "failed", "failure": None, "val_bpb": None},
        {"state": "failed", "failure": "tired", "val_bpb": None},
        {"state": "failed", "failure": "error"},
        {"failure": "error"},
    ],
)
def test_a_result_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it must be"):
        RunResult(**(COMPLETE | changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        ("[]", "no JSON object"),
        (json.dumps(REQUEST | {"colour": 1}), "unknown key 'colour'"),
        (json.dumps({name: value for name, value in REQUEST.items() if name != "seed"}), "missing key 'seed'"),
    ],
)
def test_a_file_that_is_no_request_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "request.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        RunRequest.read(path)
    assert str(caught.value).startswith(f"{path}: not a RunRequest")


def test_recipe_protocol_and_data_do_without_torch() -> None:
    program = "import sys, trainer.recipe, trainer.protocol, trainer.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
