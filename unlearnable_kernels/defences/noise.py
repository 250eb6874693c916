"""Gaussian noise on the images in training, as an augmentation and for randomized smoothing."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.errors import UserError


@dataclass(frozen=True)
class _Noisy(Defence):
    """Adds noise from N(0, sigma²) to every value.

    Attributes:
        sigma: Standard deviation, for images in [0, 1].

    Raises:
        UserError: ``sigma`` is out of range.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 10:
            raise UserError(f"sigma must be above 0 and at most 10, not {self.sigma}")

    def augment(self, batch: Batch) -> Batch:
        _, channels, height, width = batch.images.shape

        def noise(count: int, generator: torch.Generator) -> Tensor:
            shape = (count, height, width, channels)  # in the order of the images in memory
            return torch.randn(shape, generator=generator, device=batch.images.device).permute(0, 3, 1, 2)

        return replace(batch, images=batch.images + self.sigma * batch.draw(noise))


@DEFENCES.register("gaussian", "adds Gaussian noise to the images in training", "Qin et al., APBench, 2023")
@dataclass(frozen=True)
class Gaussian(_Noisy):
    """Noise as an augmentation: the images stay in [0, 1]."""

    sigma: float = 0.1

    def augment(self, batch: Batch) -> Batch:
        """The batch with noise of its own on every image, clamped."""
        noisy = super().augment(batch)
        return replace(noisy, images=noisy.images.clamp_(0, 1))


@DEFENCES.register(
    "smoothing", "trains on Gaussian noise, for a smoothed network's certificate", "Cohen et al., ICML 2019"
)
@dataclass(frozen=True)
class Smoothing(_Noisy):
    """The training of randomized smoothing: noise that is not clamped, as ``certify`` adds it."""

    sigma: float = 0.5
