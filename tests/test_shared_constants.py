"""What is written down twice, because one side may not import the other, is equal on both."""

from __future__ import annotations

import ast
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from typing import get_args

import pytest
import torch

from autoresearch.config import Settings
from autoresearch.morning.plan import HARDWARE_FILE
from rails import fit
from rails.predict import Shape
from trainer import flops, metric, protocol, training
from trainer.backends import attention, backend_named, head
from trainer.recipe import CHOICES, PRECISIONS, SWIGLU_MULTIPLE, Recipe

# The package has a function of this name too.
rails_predict = importlib.import_module("rails.predict")
KNOBS = {field.name: field for field in fields(Recipe)}


@pytest.mark.parametrize(
    ("of_the_rails", "of_the_trainer"),
    [
        (fit.BUDGETS, protocol.BUDGET_UNITS),
        (rails_predict.SWIGLU_MULTIPLE, SWIGLU_MULTIPLE),
        (rails_predict.QUERIES_AT_A_TIME, attention.QUERIES_AT_A_TIME),
        (rails_predict.LONGEST_PLAIN, attention.LONGEST_PLAIN),
        (rails_predict.LOSS_ELEMENTS, head.ELEMENTS_AT_A_TIME),
        (rails_predict.EVALUATION_TOKENS, metric.EVALUATION_TOKENS),
    ],
    ids=["budgets", "swiglu's multiple", "queries at a time", "longest plain", "loss elements", "evaluation tokens"],
)
def test_a_constant_of_the_rails_is_the_trainers(of_the_rails: object, of_the_trainer: object) -> None:
    assert of_the_rails == of_the_trainer


def test_a_knob_that_is_left_out_has_the_trainers_default() -> None:
    assert {name: KNOBS[name].default for name in rails_predict.DEFAULTS} == rails_predict.DEFAULTS


def test_the_rails_predict_from_knobs_that_the_trainer_has() -> None:
    read = {*rails_predict.SIZES, *rails_predict.WORDS, *rails_predict.SWITCHES, *rails_predict.DEFAULTS}
    assert read <= set(KNOBS)
    assert read == {field.name for field in fields(Shape)} - {"vocab_size", "device"}


def compared_words() -> Iterator[tuple[str, str]]:
    """Each (knob, word) that rails/predict.py compares, as in `self.norm == "rmsnorm"`; its tables in an expression
    are of activations."""
    for node in ast.walk(ast.parse(inspect.getsource(rails_predict))):
        match node:
            case ast.Compare(left=ast.Attribute(attr=knob), comparators=[ast.Constant(value=str() as word)]):
                yield knob, word
            case ast.Call(func=ast.Attribute(value=ast.Dict(keys=keys), attr="get")):
                yield from (("activation", str(key.value)) for key in keys if isinstance(key, ast.Constant))


def test_a_word_that_the_rails_compare_is_one_that_the_trainer_takes() -> None:
    compared = {(knob, word) for knob, word in compared_words() if knob != "device"}
    assert {("precision", "fp8"), ("optimizer", "muon"), ("activation", "relu2")} <= compared
    assert {(knob, word) for knob, word in compared if word not in CHOICES[knob]} == set()


def test_every_table_by_device_has_the_same_devices() -> None:
    tables = [fit.BASE_BYTES, fit.BYTES_PER_LIVE_BYTE, rails_predict.WORK_PER_FP32_FLOP]
    tables += [rails_predict.WORK_PER_BYTE, rails_predict.WORK_PER_LAYER, rails_predict.LOSS_ELEMENTS]
    trained_on = [head.ELEMENTS_AT_A_TIME, flops.MEASURED_WIDTH, training.STEPS_BETWEEN_READINGS]
    assert [set(table) for table in [*tables, *trained_on]] == [{"cpu", "cuda"}] * 9


def test_every_precision_has_a_type() -> None:
    assert set(flops.TYPES) == set(PRECISIONS)
    assert {precision for sheet in flops.DATASHEET_TFLOPS.values() for precision in sheet} <= set(PRECISIONS)


def test_the_backends_of_a_study_are_those_of_the_trainer() -> None:
    for name in get_args(Settings.model_fields["backend"].annotation):
        assert callable(backend_named(name).build)
    with pytest.raises(ValueError, match="choose 'torch' or 'megatron'"):
        backend_named("")


@pytest.mark.parametrize(
    ("machine", "device"),
    [
        ("rtx-4090", "NVIDIA GeForce RTX 4090"),
        ("a100-80gb", "NVIDIA A100-SXM4-80GB"),
        ("h100-sxm", "NVIDIA H100 80GB HBM3"),
        ("h200-sxm", "NVIDIA H200"),
    ],
)
def test_a_plan_and_a_run_know_the_same_peak_of_a_gpu(machine: str, device: str) -> None:
    hardware = tomllib.loads(HARDWARE_FILE.read_text("utf-8"))
    assert hardware[machine]["peak_flops"] == flops.DATASHEET_TFLOPS[device]["bf16"] * 1e12


def test_bytes_of_the_optimizers_state_are_what_torch_holds() -> None:
    weights = torch.nn.Parameter(torch.zeros(8, 8))
    for kind, moments in ((torch.optim.AdamW, 2), (torch.optim.Muon, 1)):
        optimizer = kind([weights], lr=0.1)
        weights.grad = torch.ones_like(weights)
        optimizer.step()
        held = [value for value in optimizer.state[weights].values() if value.shape == weights.shape]
        assert len(held) == moments and all(value.dtype == torch.float32 for value in held)
