"""Training batches on the device that trains, ready before they are asked for."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.recipe import Recipe


def on_device(windows: Iterator[npt.NDArray[np.int64]], device: torch.device) -> Iterator[Tensor]:
    """The same windows, int64 [batch_size, seq_len + 1], as tensors.

    On a GPU from pinned memory, without waiting: while the device is at one step, the host runs ahead and has the next
    batches in its queue. On a CPU nobody else could do it meanwhile.
    """
    for window in windows:
        batch = torch.from_numpy(window)
        yield batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch


def random_batches(recipe: Recipe, vocab_size: int, device: torch.device, seed: int) -> Iterator[Tensor]:
    """One batch of random tokens again and again: training as it would be if text cost nothing."""
    generator = torch.Generator().manual_seed(seed)
    shape = (recipe.batch_size, recipe.seq_len + 1)
    batch = torch.randint(vocab_size, shape, generator=generator).to(device)
    while True:
        yield batch
