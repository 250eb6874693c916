"""Certified accuracy of a smoothed network: what no change of a bounded L2 norm can take away.

Source: Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
the procedures CERTIFY and LOWERCONFBOUND.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from unlearnable_kernels.data.arrays import LabelledImages
from unlearnable_kernels.data.augment import to_float
from unlearnable_kernels.device import autocast
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.progress import Progress, no_progress
from unlearnable_kernels.training.reproducible import derived_seed

_MOST = 10_000_000  # samples of an image: more would take days
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""At which certified accuracies are usually published; images are in [0, 1]."""

_COPIES = 500  # noisy copies that go through the network at a time


@dataclass(frozen=True)
class Certificate:
    """What is certain of one image.

    Attributes:
        label: The class that the smoothed network gives it; None where it abstains.
        radius: No change of a smaller L2 norm gives it another; 0 where it abstains.
    """

    label: int | None
    radius: float


def certify(
    model: nn.Module,
    image: Tensor,
    sigma: float,
    *,
    selection: int = 100,
    samples: int = 100_000,
    alpha: float = 0.001,
    generator: torch.Generator,
    precision: str = "fp32",
) -> Certificate:
    """The class of an image under Gaussian noise, and a radius within which it is certain.

    Args:
        model: In evaluation mode, on the image's device; returns logits.
        image: float32 [3, H, W] in [0, 1].
        sigma: Standard deviation of the noise.
        selection: Noisy copies by which the class is chosen.
        samples: Fresh ones by which its probability is bounded from below.
        alpha: Probability that the certificate is wrong.
        generator: Of the noise, on the image's device.
        precision: "fp32" or "bf16", of passes through the network.
    """

    def votes(count: int) -> Tensor:
        return _votes(model, image, sigma, count, generator, precision)

    label = int(votes(selection).argmax())
    bound = lower_bound(int(votes(samples)[label]), samples, alpha)
    if bound <= 0.5:
        return Certificate(None, 0.0)
    return Certificate(label, sigma * NormalDist().inv_cdf(bound))


@torch.inference_mode()
def _votes(
    model: nn.Module, image: Tensor, sigma: float, count: int, generator: torch.Generator, precision: str
) -> Tensor:
    """How often each class wins among ``count`` noisy copies, int64 [K]."""
    total: Tensor | None = None
    for start in range(0, count, _COPIES):
        shape = (min(_COPIES, count - start), *image.shape)
        noise = torch.randn(shape, generator=generator, device=image.device)
        with autocast(image.device, precision):
            logits: Tensor = model((image + sigma * noise).contiguous(memory_format=torch.channels_last))
        won = torch.bincount(logits.argmax(1), minlength=logits.shape[1])
        total = won if total is None else total + won
    assert total is not None
    return total


@cache
def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """The exact one-sided lower confidence bound of a probability (Clopper and Pearson, 1934).

    Args:
        successes: Of that many ``trials``.
        trials: At least 1.
        alpha: Probability that the bound is above the truth.

    Returns:
        The p at which so many successes or more have probability ``alpha``; 0 without successes.
    """
    if successes == 0:
        return 0.0
    k = torch.arange(successes, trials + 1, dtype=torch.float64)
    ways = math.lgamma(trials + 1) - torch.lgamma(k + 1) - torch.lgamma(trials - k + 1)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        log_tail = torch.logsumexp(ways + k * math.log(middle) + (trials - k) * math.log1p(-middle), 0)
        low, high = (low, middle) if float(log_tail) > math.log(alpha) else (middle, high)
    return low


def certified_accuracy(
    model: nn.Module,
    data: LabelledImages,
    sigma: float,
    radii: Sequence[float] = RADII,
    *,
    samples: int = 100_000,
    selection: int = 100,
    alpha: float = 0.001,
    images: int | None = None,
    seed: int = 0,
    precision: str = "fp32",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """The part of the images that a smoothed network recognises for certain, at several radii.

    Args:
        model: Put into evaluation mode and tested on its device.
        data: The images as they are to be seen.
        sigma: Standard deviation of the noise, for images in [0, 1]: that of the training.
        radii: In L2, for images in [0, 1].
        samples: Noisy copies of every image.
        selection: Further ones by which its class is chosen.
        alpha: Probability that an image's certificate is wrong.
        images: Test so many, at even distances; None tests all.
        seed: Of the noise, which for every image is its own.
        precision: "fp32" or "bf16", of passes through the network.
        progress: Called with images.

    Returns:
        The settings, as JSON; under "images" how many were tested; under "abstained" the part of them for
        which no class was certain; under "accuracies" one {"radius", "accuracy"} for each radius.

    Raises:
        UserError: A setting is out of range.
    """
    _check(sigma, radii, samples, selection, alpha, images)
    count = len(data) if images is None else min(images, len(data))
    device = next(model.parameters()).device
    model.eval()
    # The radius up to which an image is recognised; below 0 where it is not.
    reached: list[float] = []
    abstained = 0
    for number in range(count):
        index = number * len(data) // count
        generator = torch.Generator(device).manual_seed(derived_seed(seed, f"certify {index}"))
        found = certify(
            model,
            to_float(data.images[index : index + 1].to(device))[0],
            sigma,
            selection=selection,
            samples=samples,
            alpha=alpha,
            generator=generator,
            precision=precision,
        )
        abstained += found.label is None
        reached.append(found.radius if found.label == int(data.labels[index]) else -1.0)
        progress("certifying", number + 1, count)
    return {
        "sigma": sigma,
        "samples": samples,
        "selection": selection,
        "alpha": alpha,
        "images": count,
        "abstained": abstained / count,
        "accuracies": [
            {"radius": radius, "accuracy": sum(each >= radius for each in reached) / count}
            for radius in radii
        ],
    }


def _check(
    sigma: float, radii: Sequence[float], samples: int, selection: int, alpha: float, images: int | None
) -> None:
    if not 0 < sigma < math.inf:
        raise UserError(f"sigma must be a finite number above 0, not {sigma}")
    if not 0 < alpha < 1:
        raise UserError(f"alpha must be above 0 and below 1, not {alpha}")
    for radius in radii:
        if not 0 <= radius < math.inf:
            raise UserError(f"radii must be finite numbers of 0 or more, not {radius}")
    for name, value in (("samples", samples), ("selection", selection), ("images", images)):
        if value is not None and not 1 <= value <= _MOST:
            raise UserError(f"{name} must be from 1 to {_MOST:,}, not {value}")
