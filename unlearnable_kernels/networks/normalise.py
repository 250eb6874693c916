"""Normalisation inside the network: it still takes images in [0, 1], and attacks still move these."""

import math
from typing import Any

import torch
from torch import nn

from unlearnable_kernels.errors import UserError

STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""Mean and standard deviation of each colour channel of pixels in [0, 1], over the training set named."""


def read_statistics(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the three colour channels.

    Args:
        text: One of ``STATISTICS``, or six numbers "R,G,B/R,G,B": means, then standard deviations.

    Raises:
        UserError: The text is neither, or a standard deviation is not above 0.
    """
    if text in STATISTICS:
        return STATISTICS[text]
    try:
        mean, std = (tuple(float(value) for value in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean, std = (), ()
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise UserError(
            f"normalise must be {', '.join(STATISTICS)} or means and standard deviations above 0, such as "
            f"0.5,0.5,0.5/0.25,0.25,0.25, not {text!r}"
        )
    return mean, std


def normalised(model: nn.Module, statistics: str) -> nn.Module:
    """Make ``model`` take (images - mean) / std of the images that it is called with, in place.

    Its ``state_dict`` stays as it is, so checkpoints fit with and without.

    Args:
        model: A network for images [B, 3, H, W], which is not normalised yet.
        statistics: As ``read_statistics`` takes them.

    Returns:
        ``model``.

    Raises:
        UserError: The statistics are malformed.
    """
    for name, values in zip(("input_mean", "input_std"), read_statistics(statistics), strict=True):
        model.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
    model.register_forward_pre_hook(_normalise)
    return model


def _normalise(model: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *others = inputs
    return ((images - model.input_mean) / model.input_std, *others)
