"""Where a run computes, in which precision, and where its data lie."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from unlearnable_kernels.data.arrays import LabelledImages


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context of a forward pass: bfloat16 where it is safe for "bf16", nothing for "fp32"."""
    context: AbstractContextManager[None] = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16"
    )
    return context


def resident(data: LabelledImages, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels on the device, or where they are if they would fill half of its memory."""
    if device.type == "cuda" and data.images.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
        return data.images.to(device), data.labels.to(device)
    return data.images, data.labels
