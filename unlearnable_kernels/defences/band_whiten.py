"""Whitening of colours by band: every image gets the same coupling of its channels in each band.

Nobody has published it: it is the natural answer to a protection that mixes the colours of a class's images
in its own way in each band, as ``spectral`` does.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.dct_bands import ROUNDING, BandMatch
from unlearnable_kernels.defences.whiten import root


@DEFENCES.register(
    "band-whiten", "each image's colour covariance in each DCT band set to the training set's mean"
)
@dataclass(frozen=True)
class BandWhiten(BandMatch):
    """Colours are whitened in each band of the orthonormal 2-D DCT, then given the training set's average.

    With C the sum of z zᵀ over a band's n coefficients, z being the three channels' values there, and M the
    mean of C over the training set: z becomes M^½ (C + nI/12)^−½ z, 1/12 being what rounding to 8 bits leaves
    in a coefficient. The mean colour, coefficient (0, 0), stays.

    Attributes:
        mode: "ring": seven bands by radius, beginning at 0, 2, 4, 7, 10, 13 and 18 of 32; "cell": squares.
        cell: Side of a cell, in coefficients of an image of 32 px; larger images have larger cells.

    Raises:
        UserError: A value is out of range.
    """

    statistics: ClassVar[tuple[str, ...]] = ("covariance",)
    rings: ClassVar[tuple[float, ...]] = (2.0, 4.0, 7.0, 10.0, 13.0, 18.0)

    def statistic(self, coefficients: Tensor) -> Tensor:
        """Sums of products of channels by band, float64 [n, bands, 3, 3]."""
        # In float32 the smallest eigenvalue could come out negative, and the image black.
        members, flat = self.bands(coefficients)[1].double(), coefficients.flatten(2).double()
        rows = [torch.stack([(flat[:, a] * flat[:, b]) @ members for b in range(3)], -1) for a in range(3)]
        return torch.stack(rows, -2)

    def matched(self, coefficients: Tensor) -> Tensor:
        """The three channels of every coefficient by a matrix of its image and band."""
        band, members = self.bands(coefficients)
        identity = torch.eye(3, dtype=torch.float64)
        noise = members.sum(0).double()[:, None, None] * ROUNDING * identity
        whitening = root(self.statistic(coefficients) + noise, -0.5)
        matrices = root(self._means["covariance"], 0.5) @ whitening
        own = identity.expand(len(coefficients), 1, 3, 3)  # for the mean
        matrices = torch.cat([matrices, own], 1).float()[:, band.flatten()]
        flat = coefficients.flatten(2)
        channels, nothing = range(3), torch.zeros(())
        rows = [
            sum((matrices[:, :, row, each] * flat[:, each] for each in channels), nothing) for row in channels
        ]
        return torch.stack(rows, 1).view_as(coefficients)
