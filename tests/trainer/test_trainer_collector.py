"""The garbage collector during training, and after it."""

import gc
from collections.abc import Iterator
from itertools import repeat

import pytest
import torch
from torch import Tensor
from worker_process import RECIPE

from trainer.backends.torch_gpt import TorchBackend
from trainer.recipe import Recipe
from trainer.schedule import Schedule
from trainer.step_clock import StepClock
from trainer.training import Losses, train

CPU = torch.device("cpu")
BATCH = torch.randint(1, 512, (4, 33), generator=torch.Generator().manual_seed(0))


def frozen_in_training(batches: Iterator[Tensor]) -> list[int]:
    """How many objects the collector left out at each step's end."""
    recipe = Recipe(**RECIPE)
    model, counts = TorchBackend().build(recipe, 512, CPU, seed=0), []
    schedule = Schedule.of({"steps": 3}, recipe)
    train(
        model, recipe, schedule, batches, CPU, Losses(), StepClock(CPU), lambda *_: counts.append(gc.get_freeze_count())
    )
    return counts


def test_training_freezes_the_garbage_collector_and_gives_it_back() -> None:
    counts = frozen_in_training(repeat(BATCH))
    assert len(counts) == 3 and min(counts) > 10_000
    assert gc.get_freeze_count() == 0 and gc.isenabled()


def test_a_run_that_fails_gives_the_garbage_collector_back() -> None:
    def batches() -> Iterator[Tensor]:
        yield BATCH
        assert gc.get_freeze_count() > 10_000
        raise ValueError("the text ends here")

    with pytest.raises(ValueError, match="the text ends here"):
        frozen_in_training(batches())
    assert gc.get_freeze_count() == 0 and gc.isenabled()
