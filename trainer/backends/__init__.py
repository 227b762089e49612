"""What a backend must offer, and which there are: a backend builds the model, the trainer does the rest."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.recipe import Recipe


class Model(Protocol):
    """A language model under training. nn.Module has all but the call's signature."""

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The cost of each target in nats, float32 [rows, length]; inputs and targets are int64 of that shape."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def train(self, mode: bool = True) -> Any: ...


class Backend(Protocol):
    """One way to build the model of a recipe."""

    def build(self, recipe: Recipe, vocab_size: int, device: torch.device, seed: int) -> Model:
        """A freshly initialised model on the device: the same weights for the same arguments, whatever ran before.

        Raises ValueError, saying why, for a recipe that this backend or device cannot train.
        """


def backend_named(name: str) -> Backend:
    """Raises ValueError for a name that is none."""
    if name == "torch":
        from trainer.backends.torch_gpt import TorchBackend

        return TorchBackend()
    raise ValueError(f"backend {name!r} is unknown; choose 'torch'")


def precisions(device: torch.device) -> tuple[str, ...]:
    """The values of a recipe's `precision` that the device can train, the fastest last."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        return ("fp32", "bf16", "fp8")
    return ("fp32", "bf16")
