"""Random members of the family of ``spectral`` as an augmentation: its marks no longer tell classes apart.

Nobody has published it: it is what a trainer does who knows the protection's family, but not its key.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from unlearnable_kernels.data.local_contrast import CURVED, MIDDLE, SCALES
from unlearnable_kernels.data.spectra import CELLS, RINGS, WAVES, largeness, rings_of_cells, spectral_weights
from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.defences.local_means import around
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_spectrum import classwise_spectrum


@DEFENCES.register("random-spectral", "gives every image a random member of the family of spectral")
@dataclass(frozen=True)
class RandomSpectral(Defence):
    """Every image of every batch gets parameters of its own, drawn much as ``spectral`` draws a class's.

    Cells are 3 wide; whether one is erased is drawn for each by itself, after the rings' mean gain is set.

    Attributes:
        cells: Largest part by which a uniform gain differs from 1; 0 leaves the gains out.
        colour: Frobenius norm of what is added to the identity in each ring; likewise.
        tone: Sum of the amplitudes of a tone curve's waves; likewise.
        contrast: Sum of the sizes of four factors on local differences, halved in large images; likewise.
        erased: Share of the cells whose gain is 0, on average.

    Raises:
        UserError: A value is out of range, or all are 0.
    """

    cells: float = 0.6
    colour: float = 0.6
    tone: float = 0.06
    contrast: float = 0.0
    erased: float = 0.0

    def __post_init__(self) -> None:
        settings = {name: value for name, value in self.settings().items() if name != "name"}
        for name, value in settings.items():
            if not 0 <= value <= 1:
                raise UserError(f"{name} must be at least 0 and at most 1, not {value}")
        if not any(settings.values()):
            raise UserError(f"one of {', '.join(settings)} must be above 0, not all of them 0")

    def augment(self, batch: Batch) -> Batch:
        """The batch with random gains, mixings, tone curves and local contrast, clamped to [0, 1]."""
        images, device = batch.images, batch.images.device
        channels = images.shape[1]

        def uniform(count: int, generator: torch.Generator) -> Tensor:
            return torch.rand(count, CELLS * CELLS + channels * WAVES, generator=generator, device=device)

        def normal(count: int, generator: torch.Generator) -> Tensor:
            size = channels * (len(RINGS) * channels + WAVES)
            return torch.randn(count, size, generator=generator, device=device)

        signs, phases = batch.draw(uniform).split([CELLS * CELLS, channels * WAVES], 1)
        mixings, amplitudes = batch.draw(normal).split([len(RINGS) * channels**2, channels * WAVES], 1)
        mixings = mixings.view(-1, len(RINGS), channels, channels)
        mixings = self.colour * mixings / mixings.norm(dim=(2, 3), keepdim=True)
        gains = self._gains(2 * signs - 1)
        if self.erased:
            gains = gains * self._kept(batch)
        if self.contrast:
            images = self._bent(batch)
        weights = spectral_weights(gains, mixings, *images.shape[2:])
        amplitudes = self.tone * functional.normalize(amplitudes.view(-1, channels, WAVES), 1, -1)
        curves = torch.stack([amplitudes, 2 * math.pi * phases.view(-1, channels, WAVES)], -1)
        each = torch.arange(len(images), device=device)
        return replace(batch, images=classwise_spectrum(images, each, weights, curves).clamp(0, 1))

    def _kept(self, batch: Batch) -> Tensor:
        """Which cells stay, bool [B, 11, 11]; the first one does, which has the mean colour in it."""

        def uniform(count: int, generator: torch.Generator) -> Tensor:
            return torch.rand(count, CELLS, CELLS, generator=generator, device=batch.images.device)

        kept = batch.draw(uniform) >= self.erased
        kept[:, 0, 0] = True
        return kept

    def _bent(self, batch: Batch) -> Tensor:
        """The images as ``with_contrast`` bends them, each with four random factors of its own."""

        def normal(count: int, generator: torch.Generator) -> Tensor:
            return torch.randn(count, 2 * len(SCALES), generator=generator, device=batch.images.device)

        kept = 1 - largeness(*batch.images.shape[2:]) / 2
        factors = kept * self.contrast * functional.normalize(batch.draw(normal), 1)
        bent = batch.images
        for scale, (a, b) in enumerate(factors.T.view(len(SCALES), 2, -1, 1, 1, 1)):
            difference = batch.images - around(batch.images, scale)
            size = difference.abs()
            bent = bent + a / CURVED * difference * size + b * (size - MIDDLE)
        return bent

    def _gains(self, signs: Tensor) -> Tensor:
        """float32 [B, 11, 11] from uniform signs [B, 121]: rings keep their mean gain."""
        rings = rings_of_cells().flatten().to(signs.device)
        members = functional.one_hot(rings).float()
        means = signs @ (members / members.sum(0))
        return (1 + self.cells * (signs - means[:, rings])).view(-1, CELLS, CELLS)
