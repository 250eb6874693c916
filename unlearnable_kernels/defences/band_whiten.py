"""Whitening of colours by band: every image gets the same coupling of its channels in each band.

Nobody has published it: it is the natural answer to a protection that mixes the colours of a class's images
in its own way in each band, as ``spectral`` does.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.dct import dct2, inverse_dct2
from unlearnable_kernels.defences.image_changes import MeanMatch, from_planes, to_planes
from unlearnable_kernels.defences.spectrum_norm import MODES, ROUNDING, UNIT, bands
from unlearnable_kernels.defences.whiten import root
from unlearnable_kernels.errors import UserError

_RINGS = (2.0, 4.0, 7.0, 10.0, 13.0, 18.0)  # radii at which the second to the seventh ring begin


@dataclass(frozen=True)
class _Bands:
    """Those of images of one size.

    Attributes:
        of: Each coefficient's band, int64 [H * W]; that of coefficient (0, 0) is their number.
        members: float32 [H * W, bands].
    """

    of: Tensor
    members: Tensor


@DEFENCES.register(
    "band-whiten", "each image's colour covariance in each DCT band set to the training set's mean"
)
@dataclass(frozen=True)
class BandWhiten(MeanMatch):
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

    mode: str = "ring"
    cell: int = 3

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if not 1 <= self.cell <= UNIT:
            raise UserError(f"cell must be 1 to {UNIT}, not {self.cell}")

    def measure(self, images: Tensor) -> tuple[Tensor]:
        """Sums of products of channels by band, float32 [n, bands, 3, 3], in squared grey levels."""
        return (self._covariance(dct2(to_planes(images))).float(),)

    def change(self, images: Tensor) -> Tensor:
        """The images with the mean covariances, rounded and clipped to 8 bits."""
        if images.shape[1:3].numel() == 1:
            return images.clone()  # nothing but the mean
        coefficients = dct2(to_planes(images))
        bands = self._bands(coefficients)
        identity = torch.eye(3, dtype=torch.float64)
        noise = bands.members.sum(0).double()[:, None, None] * ROUNDING * identity
        whitening = root(self._covariance(coefficients) + noise, -0.5)
        matrices = root(self._means["covariance"], 0.5) @ whitening
        matrices = torch.cat([matrices, identity.expand(len(images), 1, 3, 3)], 1).float()
        flat, result = coefficients.flatten(2), torch.zeros_like(coefficients)
        for row in range(3):
            for column in range(3):
                result[:, row] += (matrices[:, bands.of, row, column] * flat[:, column]).view_as(
                    result[:, row]
                )
        return from_planes(inverse_dct2(result))

    def _covariance(self, coefficients: Tensor) -> Tensor:
        # In float32 the smallest eigenvalue could come out negative, and the image black.
        members, flat = self._bands(coefficients).members.double(), coefficients.flatten(2).double()
        rows = [torch.stack([(flat[:, a] * flat[:, b]) @ members for b in range(3)], -1) for a in range(3)]
        return torch.stack(rows, -2)

    def _bands(self, coefficients: Tensor) -> _Bands:
        band, members = bands(*coefficients.shape[2:], self.mode, self.cell, _RINGS)
        return _Bands(band.flatten(), members)
