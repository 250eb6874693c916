"""Where a computation runs, and in which precision."""

from contextlib import AbstractContextManager

import torch


def pick_device() -> torch.device:
    """The first GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
