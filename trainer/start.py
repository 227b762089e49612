"""What a run starts from, the same each time: weights, random numbers and batches; and a step to rehearse."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from trainer.backends import Model, backend_named
from trainer.batches import on_device, random_batches
from trainer.data.dataset import Dataset
from trainer.parallel import Processes
from trainer.protocol import RunRequest
from trainer.recipe import Recipe
from trainer.schedule import Schedule
from trainer.step_clock import StepClock
from trainer.training import Losses, train


@dataclass(frozen=True)
class Start:
    """Of one request, on the devices that it gets."""

    request: RunRequest
    recipe: Recipe
    dataset: Dataset
    device: torch.device
    processes: Processes

    def model(self) -> Model:
        """A fresh one, and with it the random numbers that every run of this request sees, whatever ran before."""
        torch.manual_seed(self.request.seed + self.processes.data_rank)
        backend, vocab_size = backend_named(self.request.backend), self.dataset.manifest.vocab_size
        model = backend.build(self.recipe, vocab_size, self.device, self.request.seed, self.processes)
        if self.request.compile:
            model.compile_blocks()
        return model

    def batches(self) -> Iterator[torch.Tensor]:
        """From the first one on. Raises ValueError for a batch that the processes cannot share."""
        recipe, seed = self.recipe, self.request.seed
        if self.request.random_tokens:
            batches = random_batches(recipe, self.dataset.manifest.vocab_size, self.device, seed)
            return self.processes.rows(batches, recipe.batch_size)
        windows = self.dataset.windows(seed, recipe.batch_size, recipe.seq_len)
        return on_device(self.processes.rows(windows, recipe.batch_size), self.device)

    def rehearse(self) -> None:
        """One whole step of the run, thrown away with its model, optimizer and averaged weights.

        What it loads, compiles and allocates stays with the process. So a budget in seconds pays for training alone,
        and buys as much with a cold cache of compiled code as with a warm one. Nothing need be put back: the run
        starts anew.
        """
        one_step, clock = Schedule.of({"steps": 1}, self.recipe), StepClock(self.device)
        model, batches = self.model(), self.batches()
        train(model, self.recipe, one_step, batches, self.device, Losses(), clock, lambda *_: None, self.processes)
        del model
        gc.collect()  # gradients' hooks make circles; freed memory stays torch's, for the run to take
