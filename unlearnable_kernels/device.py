"""Where a computation runs, and in which precision."""

import re
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from unlearnable_kernels.errors import UserError


def pick_device(name: str | None = None) -> torch.device:
    """Where to compute; a numbered GPU becomes the current one.

    Args:
        name: "cpu", "cuda" or "cuda:N"; None is the first GPU if there is one, otherwise the CPU.

    Raises:
        UserError: There is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
        raise UserError(f"device must be cpu, cuda or cuda:N, not {name!r}")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(f"there is no device {name}: torch finds {count} GPUs here")
        if device.index is not None:
            torch.cuda.set_device(device)
    return device


def is_on(place: torch.device, device: torch.device) -> bool:
    """Whether a tensor's ``place``, which has a number on a GPU, is ``device``, which may have none."""
    return place == device or (device.index is None and place.type == device.type)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context of a forward pass.

    Args:
        device: Where the pass runs.
        precision: "bf16" for bfloat16 in the operations where torch considers it safe; "fp32" changes
            nothing.
    """
    context: AbstractContextManager[None] = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16"
    )
    return context


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on ``device``; from the CPU to a GPU without waiting for it.

    Args:
        tensor: Of any shape.
        device: Where it is to be.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
