"""Spectrum normalisation: every image gets the same energy in every band of its cosine transform.

Nobody has published it: it is the natural answer to a protection that marks classes by their spectra, as a
class-wise filter does.
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.dct import dct2, inverse_dct2
from unlearnable_kernels.defences.image_changes import MeanMatch, from_planes, to_planes
from unlearnable_kernels.errors import UserError

MODES = ("ring", "cell")
UNIT = 32  # rings and cells are given for images of 32 px
_RINGS = (3.0, 7.0, 13.0)  # radii at which the second, third and fourth ring begin
ROUNDING = 1 / 12  # energy of a coefficient that is rounding alone, in squared grey levels


@DEFENCES.register("spectrum-norm", "each image's DCT energies set to the training set's mean")
@dataclass(frozen=True)
class SpectrumNorm(MeanMatch):
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

    mode: str = "ring"
    cell: int = 3

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if not 1 <= self.cell <= UNIT:
            raise UserError(f"cell must be 1 to {UNIT}, not {self.cell}")

    def measure(self, images: Tensor) -> tuple[Tensor]:
        """Energy by band, float32 [n, 3, bands], in squared grey levels."""
        return (self._energy(dct2(to_planes(images))),)

    def change(self, images: Tensor) -> Tensor:
        """The images with the mean energies, rounded and clipped to 8 bits."""
        if images.shape[1:3].numel() == 1:
            return images.clone()  # nothing but the mean
        coefficients = dct2(to_planes(images))
        band, members = bands(*images.shape[1:3], self.mode, self.cell)
        energy = self._energy(coefficients).maximum(members.sum(0) * ROUNDING)
        gains = (self._means["energy"].float() / energy).sqrt()
        gains = torch.cat([gains, torch.ones_like(gains[..., :1])], -1)  # the last one for the mean
        return from_planes(inverse_dct2(coefficients * gains[..., band]))

    def _energy(self, coefficients: Tensor) -> Tensor:
        _, members = bands(*coefficients.shape[2:], self.mode, self.cell)
        return coefficients.square().flatten(2) @ members


@cache
def bands(
    height: int, width: int, mode: str, cell: int, rings: tuple[float, ...] = _RINGS
) -> tuple[Tensor, Tensor]:
    """The bands of an image's DCT, those alone that have coefficients.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        mode: One of ``MODES``.
        cell: See ``SpectrumNorm``.
        rings: Radii at which the second ring and those after it begin, for images of 32 px.

    Returns:
        Each coefficient's band, int64 [height, width], with the number of bands for coefficient (0, 0); and
        float32 [height * width, bands], which coefficient is in which.
    """
    rows = torch.arange(height, dtype=torch.float64)[:, None] * UNIT / height
    columns = torch.arange(width, dtype=torch.float64) * UNIT / width
    if mode == "ring":
        band = torch.bucketize(torch.hypot(rows, columns), torch.tensor(rings).double(), right=True)
    else:
        band = (rows // cell).long() * UNIT + (columns // cell).long()
    kept = band.flatten()[1:].unique()
    band = torch.searchsorted(kept, band)
    band[0, 0] = len(kept)
    members = torch.nn.functional.one_hot(band.flatten(), len(kept) + 1)[:, :-1].float()
    return band, members
