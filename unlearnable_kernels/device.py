"""Where a computation runs, and in which precision."""

from contextlib import AbstractContextManager

import torch


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context of a forward pass: bfloat16 where it is safe for "bf16", nothing for "fp32"."""
    context: AbstractContextManager[None] = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16"
    )
    return context
