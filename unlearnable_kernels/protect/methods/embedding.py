"""Embeddings for the Bayes-error method: networks trained on the images as they stand, and their features."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.data.augment import random_crop_flip, to_float
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import create_network, penultimate_features

BATCH = 128
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
CROP_PADDING = 4
FEATURE_BATCH = 512


def fresh_embedding(
    network: str, num_classes: int, image_size: int, seed: int, device: torch.device
) -> nn.Module:
    """An untrained network, channels-last on ``device``."""
    with torch.random.fork_rng(devices=_generators(device)):
        torch.manual_seed(seed)
        model = create_network(network, num_classes, image_size)
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def train_embedding(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    lr: float,
    seed: int,
    report: Callable[[int], None],
) -> None:
    """Train ``model`` in place: SGD, the rate falling from ``lr`` to 0 as half a cosine, batches of 128.

    images: uint8 [N, H, W, 3], labels: int64 [N], both anywhere; with random crops and flips. report: told
    how many images more are done. Raises UserError where the loss diverges.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    padding = min(CROP_PADDING, min(images.shape[1:3]) // 8)
    steps = epochs * math.ceil(len(labels) / BATCH)
    loss = torch.zeros((), device=device)
    model.train()
    with torch.random.fork_rng(devices=_generators(device)), reproducible():
        torch.manual_seed(seed)  # for layers that draw for themselves
        for step in range(steps):
            if step % (steps // epochs) == 0:
                order = torch.randperm(len(labels), generator=generator, device=device).to(images.device)
                batches = iter(order.split(BATCH))
            index = next(batches)
            if 1 == len(index) < len(labels):
                continue  # a single image has no batch statistics
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            inputs = random_crop_flip(images[index].to(device), generator, padding)
            with reduced_precision(device):
                loss = functional.cross_entropy(model(inputs), labels[index].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            report(len(index))
    if not math.isfinite(float(loss.detach())):
        raise UserError("the loss of an embedding diverged: choose another network")


def features(model: nn.Module, images: Tensor) -> Tensor:
    """The penultimate features of images uint8 [n, H, W, 3] in evaluation mode: float32 [n, D]."""
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad(), reproducible(), reduced_precision(device):
        return torch.cat(
            [
                penultimate_features(model, to_float(batch.to(device))).float()
                for batch in images.split(FEATURE_BATCH)
            ]
        )


def pixel_gradient(model: nn.Module, images: Tensor, upstream: Tensor) -> Tensor:
    """The gradient of Σ ⟨features, upstream⟩ with respect to the pixels in [0, 1].

    images: uint8 [n, H, W, 3], upstream: float32 [n, D]. Returns float32 [n, H, W, 3] on the model's device.
    In evaluation mode an image's features are its own, so that a data set's gradient is that of its parts.
    """
    device = next(model.parameters()).device
    model.eval()
    inputs = to_float(images.to(device)).requires_grad_()
    with torch.enable_grad(), reproducible(), reduced_precision(device):
        found = penultimate_features(model, inputs).float()
        (gradient,) = torch.autograd.grad(found, inputs, upstream.to(device))
    return gradient.permute(0, 2, 3, 1)


@contextmanager
def reduced_precision(device: torch.device) -> Iterator[None]:
    """bfloat16 for convolutions and products, where the device has units for it; weights stay float32."""
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    with torch.autocast(device.type, torch.bfloat16, enabled=fast):
        yield


@contextmanager
def reproducible() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


def _generators(device: torch.device) -> list[torch.device]:
    """The devices, besides the CPU, whose generators seeding would disturb."""
    return [device] if device.type == "cuda" else []
