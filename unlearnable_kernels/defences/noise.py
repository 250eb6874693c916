"""Gaussian noise on the images in training, for randomized smoothing."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.errors import UserError


@DEFENCES.register(
    "smoothing", "trains on Gaussian noise, for a smoothed network's certificate", "Cohen et al., ICML 2019"
)
@dataclass(frozen=True)
class Smoothing(Defence):
    """The training of randomized smoothing: noise from N(0, sigma²), not clamped, as ``certify`` adds it.

    Attributes:
        sigma: Standard deviation, for images in [0, 1].

    Raises:
        UserError: ``sigma`` is out of range.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 10:
            raise UserError(f"sigma must be above 0 and at most 10, not {self.sigma}")

    def augment(self, batch: Batch) -> Batch:
        """The batch with noise of its own on every image."""
        _, channels, height, width = batch.images.shape

        def noise(count: int, generator: torch.Generator) -> Tensor:
            shape = (count, height, width, channels)  # in the order of the images in memory
            return torch.randn(shape, generator=generator, device=batch.images.device).permute(0, 3, 1, 2)

        return replace(batch, images=batch.images + self.sigma * batch.draw(noise))
