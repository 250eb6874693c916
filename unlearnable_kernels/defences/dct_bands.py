"""Bands of an image's cosine transform, by radius or in squares, and what defences that go by them share."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from unlearnable_kernels.defences.dct import dct2, inverse_dct2
from unlearnable_kernels.defences.image_changes import MeanMatch, from_planes, to_planes
from unlearnable_kernels.errors import UserError

MODES = ("ring", "cell")
UNIT = 32  # rings and cells are given for images of 32 px
ROUNDING = 1 / 12  # energy of a coefficient that is rounding alone, in squared grey levels


@dataclass(frozen=True)
class BandMatch(MeanMatch):
    """A defence that gives a statistic of every band of the orthonormal 2-D DCT its mean; the mean stays.

    Attributes:
        mode: "ring", by radius, or "cell", in squares.
        cell: Side of a cell, in coefficients of an image of 32 px; larger images have larger cells.

    Raises:
        UserError: A value is out of range.
    """

    rings: ClassVar[tuple[float, ...]]
    """Radii at which the second ring and those after it begin, for images of 32 px."""

    mode: str = "ring"
    cell: int = 3

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if not 1 <= self.cell <= UNIT:
            raise UserError(f"cell must be 1 to {UNIT}, not {self.cell}")

    def measure(self, images: Tensor) -> tuple[Tensor]:
        """The statistic, float32 [n, …], of uint8 [n, H, W, 3], in squared grey levels."""
        return (self.statistic(dct2(to_planes(images))).float(),)

    def change(self, images: Tensor) -> Tensor:
        """The images with the mean statistic, rounded and clipped to 8 bits."""
        if images.shape[1:3].numel() == 1:
            return images.clone()  # nothing but the mean
        return from_planes(inverse_dct2(self.matched(dct2(to_planes(images)))))

    @abstractmethod
    def statistic(self, coefficients: Tensor) -> Tensor:
        """Of coefficients float32 [n, 3, H, W]."""

    @abstractmethod
    def matched(self, coefficients: Tensor) -> Tensor:
        """Coefficients with the mean statistic, float32 [n, 3, H, W] both."""

    def bands(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """As the function ``bands`` gives them."""
        return bands(*coefficients.shape[2:], self.mode, self.cell, self.rings)


@cache
def bands(height: int, width: int, mode: str, cell: int, rings: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The bands of an image's DCT, those alone that have coefficients.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        mode: One of ``MODES``.
        cell: See ``BandMatch``.
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
