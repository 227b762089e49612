"""The score at a fixed window: val_bpb's text once more, in windows that are the same for every recipe of a study."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from worker_process import RECIPE

from trainer import run, scoring
from trainer.data import Dataset
from trainer.metric import bits_per_byte
from trainer.protocol import RunRequest, RunResult
from trainer.scoring import Scoring

RequestFor = Callable[..., RunRequest]

WINDOW = RECIPE["seq_len"]
LONGER = {"seq_len": 2 * WINDOW, "batch_size": 2, "budget": {"steps": 40}}
OTHER_SHAPE = {"norm": "rmsnorm", "n_kv_head": 1, "qk_norm": True, "activation": "swiglu"}


def executed(request: RunRequest) -> tuple[RunResult, list[str]]:
    """The result, and the passes that were made, in their order."""
    told: list[str] = []
    result = run.execute(request, lambda phase, step, steps, loss: told.append(phase))
    return result, list(dict.fromkeys(told))


@pytest.mark.parametrize("backend", ["torch", "megatron"])
@pytest.mark.parametrize("position", ["learned", "rope"])
def test_a_recipe_of_longer_windows_has_a_score_at_the_fixed_one_too(
    request_for: RequestFor, backend: str, position: str
) -> None:
    asked = request_for(backend=backend, position=position, score_window=WINDOW, score_test=True, **LONGER)
    found, told = executed(asked)
    plain, told_plain = executed(replace(asked, score_window=None))
    assert found.state == "complete" and told == ["train", "val", "test", "window"]
    assert found.val_bpb is not None and found.window_bpb is not None
    assert found.window_bpb != found.val_bpb
    assert found.window_bpb == pytest.approx(found.val_bpb, rel=0.1)
    assert told_plain == ["train", "val", "test"] and plain.window_bpb is None
    assert (plain.val_bpb, plain.test_bpb, plain.curve) == (found.val_bpb, found.test_bpb, found.curve)


def test_the_windows_of_the_recipe_itself_are_not_scored_twice(request_for: RequestFor) -> None:
    plain = run.execute(request_for(), lambda *told: None)
    found, told = executed(request_for(score_window=WINDOW))
    assert told == ["train", "val"]
    assert found.window_bpb == found.val_bpb == plain.val_bpb is not None


@pytest.mark.parametrize("position", ["learned", "rope"])
@pytest.mark.parametrize("backend", ["torch", "megatron"])
def test_windows_beyond_what_a_model_was_trained_on_are_no_score(
    request_for: RequestFor, backend: str, position: str
) -> None:
    asked = request_for(backend=backend, position=position, score_window=2 * WINDOW)
    found, told = executed(asked)
    assert (found.state, found.window_bpb, told) == ("complete", None, ["train", "val"])
    assert found.val_bpb is not None


def test_a_run_for_speed_alone_has_no_score_at_any_window(request_for: RequestFor) -> None:
    found, told = executed(request_for(score=False, score_window=WINDOW // 2))
    assert (found.state, found.window_bpb, told) == ("complete", None, ["train"])


@pytest.mark.parametrize("window", [7, 24, WINDOW])
def test_the_score_is_the_metrics_own_over_the_whole_text_in_windows_of_that_length(
    request_for: RequestFor, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    passes: list[tuple[list[int], int, int, int, float]] = []

    def noted(nats_of: Any, tokens: Any, text_bytes: int, endoftext: int, length: int, *rest: Any, **more: Any) -> Any:
        found = bits_per_byte(nats_of, tokens, text_bytes, endoftext, length, *rest, **more)
        passes.append((tokens.tolist(), text_bytes, endoftext, length, found))
        return found

    monkeypatch.setattr(scoring, "bits_per_byte", noted)
    result, _ = executed(request_for(score_window=window, **LONGER, **OTHER_SHAPE))
    text = (dataset.val.tolist(), dataset.manifest.splits["val"].bytes, dataset.manifest.endoftext)
    assert passes == [(*text, 2 * WINDOW, result.val_bpb), (*text, window, result.window_bpb)]


def test_a_score_that_is_no_number_is_left_out(request_for: RequestFor, dataset: Dataset) -> None:
    def nats_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.full(targets.shape, float("inf") if inputs.shape[1] == WINDOW else 1.0)

    made = Scoring(nats_of, dataset, 2 * WINDOW, torch.device("cpu"), lambda phase, done, batches: None)
    scores = made.scores(request_for(score_window=WINDOW))
    assert scores["window_bpb"] is None
    assert scores["val_bpb"] is not None and math.isfinite(scores["val_bpb"])


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "256"])
def test_a_window_that_means_nothing_is_refused(request_for: RequestFor, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"score_window is .*; it must be a whole number of tokens, 1 or above"):
        request_for(score_window=wrong)


def test_only_a_complete_run_has_a_score_at_the_window() -> None:
    with pytest.raises(ValueError, match="window_bpb"):
        RunResult("run", 0, "cancelled", window_bpb=2.5)
