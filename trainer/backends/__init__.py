"""What a backend must offer, and which there are: a backend builds the model, the trainer does the rest."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.parallel import ALONE, Processes
from trainer.recipe import Recipe


class Model(Protocol):
    """A language model under training. nn.Module has all but the call's signature."""

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The cost of each target in nats, float32 [rows, length]; inputs and targets are int64 of that shape.

        In training it includes what the recipe adds to the cost (z_loss).
        """

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once: the blocks' `matrices`, `embeddings`, untied `head`, and `vectors`."""

    def stacks(self) -> dict[nn.Parameter, tuple[int, ...]]:
        """Those of the blocks' matrices that are several, laid on each other: how many rows each has in turn.

        The turns may be many: (2, 1) for six rows is a matrix of rows 0, 1, 3 and 4 and one of rows 2 and 5.
        """

    def matmul_weights(self) -> int:
        """How many weights multiply each token: the blocks' matrices and the output layer."""

    def compile_blocks(self) -> None:
        """Turns torch.compile on for the blocks. Raises ValueError where the backend has no use for it."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def train(self, mode: bool = True) -> Any: ...


class Backend(Protocol):
    """One way to build the model of a recipe."""

    def build(
        self, recipe: Recipe, vocab_size: int, device: torch.device, seed: int, processes: Processes = ALONE
    ) -> Model:
        """A freshly initialised model on the device: the same weights for the same arguments, whatever ran before.

        Raises ValueError, saying why, for a recipe that this backend, device or number of processes cannot train.
        """


def backend_named(name: str) -> Backend:
    """Raises ValueError for a name that is none."""
    if name == "torch":
        from trainer.backends.torch_gpt import TorchBackend

        return TorchBackend()
    if name == "megatron":
        try:
            from trainer.backends.megatron import MegatronBackend
        except Exception as error:  # without a GPU, Transformer Engine raises no ImportError in Megatron's own import
            raise ValueError(
                f"backend 'megatron': megatron-core cannot be loaded ({error}); install megatron-core, and where there "
                "is no GPU remove transformer-engine"
            ) from error

        return MegatronBackend()
    raise ValueError(f"backend {name!r} is unknown; choose 'torch' or 'megatron'")


def precisions(device: torch.device) -> tuple[str, ...]:
    """The values of a recipe's `precision` that the device can train, the fastest last."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        return ("fp32", "bf16", "fp8")
    return ("fp32", "bf16")
