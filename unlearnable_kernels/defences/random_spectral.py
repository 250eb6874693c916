"""Random members of the family of ``spectral`` as an augmentation: its marks no longer tell classes apart.

Nobody has published it: it is what a trainer does who knows the protection's family, but not its key.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unlearnable_kernels.data.spectra import CELLS, RINGS, WAVES, rings_of_cells, spectral_weights
from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_spectrum import classwise_spectrum


@DEFENCES.register("random-spectral", "gives every image a random spectrum, colour coupling and tone")
@dataclass(frozen=True)
class RandomSpectral(Defence):
    """Every image of every batch gets parameters of its own, drawn as ``spectral`` draws those of a class.

    Attributes:
        cells: Largest part by which a uniform gain differs from 1; 0 leaves the gains out.
        colour: Frobenius norm of what is added to the identity in each ring; likewise.
        tone: Sum of the amplitudes of a tone curve's waves; likewise.

    Raises:
        UserError: A value is out of range, or all are 0.
    """

    cells: float = 0.6
    colour: float = 0.6
    tone: float = 0.06

    def __post_init__(self) -> None:
        for name in ("cells", "colour", "tone"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be at least 0 and at most 1, not {getattr(self, name)}")
        if self.cells == self.colour == self.tone == 0:
            raise UserError("one of cells, colour and tone must be above 0, not all of them 0")

    def augment(self, batch: Batch) -> Batch:
        """The batch with random gains, mixings and tone curves, clamped to [0, 1]."""
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
        weights = spectral_weights(self._gains(2 * signs - 1), mixings, *images.shape[2:])
        amplitudes = self.tone * torch.nn.functional.normalize(amplitudes.view(-1, channels, WAVES), 1, -1)
        curves = torch.stack([amplitudes, 2 * math.pi * phases.view(-1, channels, WAVES)], -1)
        each = torch.arange(len(images), device=device)
        return replace(batch, images=classwise_spectrum(images, each, weights, curves).clamp(0, 1))

    def _gains(self, signs: Tensor) -> Tensor:
        """float32 [B, 11, 11] from uniform signs [B, 121]: rings keep their mean gain."""
        rings = rings_of_cells().flatten().to(signs.device)
        members = torch.nn.functional.one_hot(rings).float()
        means = signs @ (members / members.sum(0))
        return (1 + self.cells * (signs - means[:, rings])).view(-1, CELLS, CELLS)
