"""Spectrum normalisation: every image gets the same energy in every band of its cosine transform.

Nobody has published it: it is the natural answer to a protection that marks classes by their spectra, as a
class-wise filter does.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.dct_bands import ROUNDING, BandMatch


@DEFENCES.register("spectrum-norm", "each image's DCT energies set to the training set's mean")
@dataclass(frozen=True)
class SpectrumNorm(BandMatch):
    """Each channel's energy in each band of the orthonormal 2-D DCT becomes the training set's mean.

    The mean brightness, coefficient (0, 0), stays. A band that holds less energy than rounding to 8 bits
    leaves there is raised no more than one that holds just that.

    Attributes:
        mode: "ring": four bands by radius, beginning at 0, 3, 7 and 13 of 32; "cell": square cells.
        cell: Side of a cell, in coefficients of an image of 32 px; larger images have larger cells.

    Raises:
        UserError: A value is out of range.
    """

    statistics: ClassVar[tuple[str, ...]] = ("energy",)
    rings: ClassVar[tuple[float, ...]] = (3.0, 7.0, 13.0)

    def statistic(self, coefficients: Tensor) -> Tensor:
        """Energy by channel and band, float32 [n, 3, bands]."""
        _, members = self.bands(coefficients)
        return coefficients.square().flatten(2) @ members

    def matched(self, coefficients: Tensor) -> Tensor:
        """Every band by the root of the mean energy over its own."""
        band, members = self.bands(coefficients)
        energy = self.statistic(coefficients).maximum(members.sum(0) * ROUNDING)
        gains = (self._means["energy"].float() / energy).sqrt()
        gains = torch.cat([gains, torch.ones_like(gains[..., :1])], -1)  # the last one for the mean
        return coefficients * gains[..., band]
