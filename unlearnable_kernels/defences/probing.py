"""Passes through a network in training that leave it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def probing(model: nn.Module) -> Iterator[None]:
    """In the block no parameter wants a gradient; after it all buffers are as they were.

    The modes stay: batch norm in training mode takes its statistics from the batch at hand.
    """
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_()
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
