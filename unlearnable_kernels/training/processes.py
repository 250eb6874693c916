"""One run on several processes, started by ``torchrun``: who takes which images, and what they share.

The processes together do what one would do: the batch, its order, crops and attack starts are drawn alike by
all, and each takes its part; batch norm and gradients are those of the whole batch. So the number of
processes changes a run's rounding and speed, nothing else.
"""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from unlearnable_kernels.device import pick_device
from unlearnable_kernels.errors import UserError

T = TypeVar("T")


def is_first_process() -> bool:
    """Whether this process is the one that speaks: the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Processes:
    """This process among ``size``: its number and its device."""

    rank: int
    size: int
    device: torch.device

    def part(self, count: int) -> slice:
        """This process's part of ``count`` things; the parts differ by at most one in length."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def dealt(self, order: Tensor, batch_size: int) -> Tensor:
        """``order``, int64 [n], dealt to batches so that every process's parts of them are a run of it.

        What lies together is then read by one process. The same on all of them.
        """
        place = torch.arange(len(order), device=order.device)
        first = place - place % batch_size
        length = (len(order) - first).clamp(max=batch_size)
        ranks = ((place - first + 1) * self.size - 1) // length  # whose ``part`` holds the place
        return torch.empty_like(order).index_copy_(0, ranks.argsort(stable=True), order)

    def sum(self, value: Tensor) -> Tensor:
        """``value``, of any shape, summed over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """All ``count`` rows of what the processes have their ``part`` of, on every one; without gradients.

        Args:
            rows: This process's, of any shape behind the first dimension.
            count: Rows over all processes.
        """
        if self.size == 1:
            return rows
        # The parts' lengths differ by one at most, and all that is gathered must be of one length.
        padded = rows.new_zeros((-(-count // self.size), *rows.shape[1:]))
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded)
        parts = [replace(self, rank=rank).part(count) for rank in range(self.size)]
        whole = torch.cat([each[: part.stop - part.start] for each, part in zip(found, parts, strict=True)])
        return whole.contiguous(memory_format=torch.channels_last) if whole.dim() == 4 else whole

    def together(self, action: Callable[[], T]) -> T:
        """Do ``action`` on every process; if one raises a UserError, all raise the first one's."""
        if self.size == 1:
            return action()
        failed: list[UserError | None] = [None] * self.size
        try:
            result = action()
            dist.all_gather_object(failed, None)
        except UserError as error:
            dist.all_gather_object(failed, error)
        for each in failed:
            if each is not None:
                raise each
        return result

    def first(self, action: Callable[[], T]) -> T:
        """Do ``action`` on the first process alone; all return what it returned or raise its UserError."""
        if self.size == 1:
            return action()
        outcome: list[Any] = [self.together(action if self.rank == 0 else lambda: None)]
        dist.broadcast_object_list(outcome, src=0, device=self.device)
        result: T = outcome[0]
        return result


def join_processes(name: str | None = None) -> Processes:
    """The processes that torchrun started, joined by NCCL on GPUs and gloo on the CPU; or this one alone.

    They stay joined until this process ends; a group that exists already is used.

    Args:
        name: The device, as ``pick_device`` takes it; of several processes each takes a GPU of its own.

    Raises:
        UserError: There is no such device, or there are more processes than GPUs.
    """
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(0, 1, pick_device(name))
    if name is not None and ":" in name:
        raise UserError(f"device must be cpu or cuda with several processes, not {name}")
    device = pick_device(name)
    if device.type == "cuda":
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(f"process {local} of this machine has no GPU: start at most {gpus} processes")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # Not sooner: a second group would find the first one's addresses in torchrun's store.
        atexit.register(dist.destroy_process_group)
    return Processes(dist.get_rank(), dist.get_world_size(), device)


def share_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch norm in training mode take its statistics over the images of all processes."""
    if device.type == "cuda":
        shared: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return shared
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _SharedBatchNorm2d
            # Not a decorator, whose import of the compiler would cost every command seconds.
            module._normalise = torch.compiler.disable(module._normalise)
    return model


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """On the CPU, what ``nn.SyncBatchNorm`` is on GPUs."""

    def _normalise(self, x: Tensor) -> Tensor:
        values = x.float()
        count = values.new_tensor([values.numel() / values.shape[1]])
        dist.all_reduce(count)
        mean = all_reduce(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        result: Tensor = (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        return result

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._normalise(x) if self.training else super().forward(x)
        return result
