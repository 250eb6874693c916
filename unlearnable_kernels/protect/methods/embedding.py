"""Embeddings for the Bayes-error method: networks trained on the images as they stand."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.training import Engine, Processes, Recipe, deterministic, seeded

BATCH = 128
CROP_PADDING = 4


def train_embedding(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    lr: float,
    seed: int,
    report: Callable[[int], None],
    augment: bool = True,
) -> None:
    """Train ``model`` in place: SGD, batches of 128, the rate as half a cosine.

    Args:
        model: On the device to train on.
        images: uint8 [N, H, W, 3], or without ``augment`` also float32 in [0, 1]; on any device.
        labels: int64 [N], on any device.
        epochs: Passes over the images.
        lr: Learning rate at the start; at the end it is 0.
        seed: Of order and augmentation.
        report: Called with how many images more are done.
        augment: Whether to crop and flip at random, and to draw the order anew for every epoch. Otherwise
            one order, drawn at the start, serves all of them.

    Raises:
        UserError: The loss diverges.
    """
    device = next(model.parameters()).device
    recipe = Recipe(
        rate=half_cosine(lr, epochs),
        batch_size=BATCH,
        crop_padding=min(CROP_PADDING, min(images.shape[1:3]) // 8) if augment else 0,
        flip=augment,
        precision=fast_precision(device),
        skip_single=True,
    )
    engine = Engine(model, images, labels, recipe, Processes(0, 1, device))
    generator = torch.Generator(device).manual_seed(seed)
    with seeded(seed, device), deterministic():
        for epoch in range(epochs):
            if not augment:
                generator.manual_seed(seed)
            if engine.train_epoch(epoch, generator, report).diverged:
                raise UserError("the loss of an embedding diverged: choose another network")


def half_cosine(lr: float, epochs: int) -> Callable[[int, int, int], float]:
    """The rate that falls from ``lr`` to 0 over ``epochs`` epochs as half a cosine, step by step."""

    def rate(epoch: int, step: int, steps: int) -> float:
        return lr * (1 + math.cos(math.pi * (epoch * steps + step) / (epochs * steps))) / 2

    return rate


def fast_precision(device: torch.device) -> str:
    """The precision "bf16" where the device has units for products in bfloat16, otherwise "fp32"."""
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return "bf16" if fast else "fp32"
