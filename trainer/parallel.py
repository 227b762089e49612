"""The processes that do one run together: which share a matrix, which share a batch, what they tell each other."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
Cost = Callable[[Tensor, Tensor], Tensor]

# They wait for each other between runs too, for as long as nobody sends one; a run that hangs is the launcher's to end.
PATIENCE = timedelta(days=365)


def join() -> None:
    """Meets the other processes that torchrun has started; does nothing in a process that is alone."""
    if world_size() > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def world_rank() -> int:
    return int(os.environ.get("RANK", 0))


def of_first(value: T) -> T:
    """The value that the first process has, in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@dataclass(frozen=True)
class Processes:
    """`tensor` processes that share each matrix, `data` times; those that share a matrix are neighbours in rank."""

    tensor: int = 1
    data: int = 1
    rank: int = 0

    @classmethod
    def of_run(cls, tensor: int, data: int) -> "Processes":
        """Raises ValueError where the worker was started as another number of processes."""
        if tensor * data != world_size():
            raise ValueError(
                f"tensor_parallel {tensor} x data_parallel {data} takes {tensor * data} processes, but the worker was "
                f"started as {world_size()}: start it through torchrun with --nproc-per-node {tensor * data}"
            )
        return cls(tensor, data, world_rank())

    @property
    def size(self) -> int:
        return self.tensor * self.data

    @property
    def tensor_rank(self) -> int:
        return self.rank % self.tensor

    @property
    def data_rank(self) -> int:
        return self.rank // self.tensor

    def rows(self, batches: Iterator[T], batch_size: int) -> Iterator[T]:
        """This process's share of each batch's rows. Raises ValueError where they cannot be shared evenly."""
        if batch_size % self.data:
            raise ValueError(
                f"recipe: batch_size is {batch_size}; it must be a multiple of data_parallel ({self.data})"
            )
        share = batch_size // self.data
        mine = slice(self.data_rank * share, (self.data_rank + 1) * share)
        return (batch[mine] for batch in batches) if self.data > 1 else batches  # type: ignore[index]

    def averaging(self, model: Any) -> Cost:
        """The model, with gradients that are averaged over all shares of a batch in the backward pass."""
        if self.data == 1:
            return model
        return DistributedDataParallel(model, process_group=self._group("data"))

    def scoring(self, model: Cost) -> Cost:
        """The model, with each process doing a share of the rows and every process getting them all."""
        if self.data == 1:
            return model

        def nats_of(inputs: Tensor, targets: Tensor) -> Tensor:
            if len(inputs) % self.data:
                return model(inputs, targets)
            mine = model(inputs.chunk(self.data)[self.data_rank], targets.chunk(self.data)[self.data_rank])
            parts = [torch.empty_like(mine) for _ in range(self.data)]
            dist.all_gather(parts, mine.contiguous(), group=self._group("data"))
            return torch.cat(parts)

        return nats_of

    def mean(self, values: Tensor) -> Tensor:
        """Over all processes, element by element."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def clip_gradients(self, parameters: Sequence[nn.Parameter], max_norm: float) -> None:
        """Scales all gradients so that their norm, over every shard of every matrix, is at most max_norm."""
        if self.tensor == 1:
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            return
        shards = [p.grad for p in parameters if p.grad is not None and is_shard(p)]
        wholes = [p.grad for p in parameters if p.grad is not None and not is_shard(p)]
        square = torch.nn.utils.get_total_norm(shards) ** 2
        dist.all_reduce(square, group=self._group("tensor"))
        norm = (square + torch.nn.utils.get_total_norm(wholes) ** 2).sqrt()
        torch._foreach_mul_(shards + wholes, (max_norm / (norm + 1e-6)).clamp(max=1.0))

    def whole(self, shard: Tensor) -> Tensor:
        """All processes' shards side by side in the last dimension; the gradient of each goes back to its own."""
        return _Whole.apply(shard, self) if self.tensor > 1 else shard

    def sum_of_shards(self, gradient: Tensor) -> Tensor:
        """Of a parameter that each process applies to its own part of a matrix's output."""
        total = gradient.clone()
        dist.all_reduce(total, group=self._group("tensor"))
        return total

    def count(self, parameters: Sequence[nn.Parameter]) -> int:
        """Numbers in the whole of each parameter, padding left out."""
        return sum(getattr(p, "numbers_in_whole", p.numel()) for p in parameters)

    def device(self, device: torch.device) -> torch.device:
        """This process's own, counted from the first one's."""
        return torch.device("cuda", (device.index or 0) + self.rank) if device.type == "cuda" else device

    def _group(self, name: str) -> dist.ProcessGroup:
        return _mesh(self.data, self.tensor)[name].get_group()


ALONE = Processes()


def is_shard(parameter: nn.Parameter) -> bool:
    """Whether it is one process's part of a matrix, by the mark that Megatron puts on it."""
    return getattr(parameter, "tensor_model_parallel", False)


class _Whole(torch.autograd.Function):
    """Megatron's own needs a GPU."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        shards = [torch.empty_like(shard) for _ in range(processes.tensor)]
        dist.all_gather(shards, shard.contiguous(), group=processes._group("tensor"))
        return torch.cat(shards, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].chunk(ctx.processes.tensor, -1)[ctx.processes.tensor_rank], None


@lru_cache
def _mesh(data: int, tensor: int) -> DeviceMesh:
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return init_device_mesh(kind, (data, tensor), mesh_dim_names=("data", "tensor"))
