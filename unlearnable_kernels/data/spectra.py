"""The cells and rings of a cosine transform that ``spectral`` works on (docs/spectral.md).

Operations on elements are rounded alike on all machines, so that parameters give the same weights everywhere.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

UNIT = 32  # cells and rings are given for images of 32 px, and grow with the image
CELL = 3
CELLS = -(-UNIT // CELL)
RINGS = (0.5, 3.0, 7.0, 13.0)  # radii at which the four rings begin
WAVES = 3
_SMALL, _LARGE = 64, 224  # px of the shorter side
_KEPT = 1 << 21  # pixels of the largest size whose places are kept


@dataclass(frozen=True)
class Bands:
    """Where cells and rings begin, in positions of an image of 32 px.

    Attributes:
        rows: First positions of the cells down, ascending from 0.
        columns: Of those across.
        rings: Radii at which the four rings begin.
    """

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    rings: tuple[float, ...] = RINGS

    @classmethod
    def of_cells(cls, side: int = CELL) -> "Bands":
        """Cells of ``side`` × ``side`` positions."""
        starts = tuple(map(float, range(0, UNIT, side)))
        return cls(starts, starts)

    def rings_of_cells(self) -> Tensor:
        """In which ring each cell's middle lies, int64 [rows, columns]: 0 for the lowest."""
        down, across = (self._middles(starts) for starts in (self.rows, self.columns))
        radii = (down[:, None] * down[:, None] + across * across).sqrt()
        return torch.bucketize(radii, torch.tensor(self.rings[1:]), right=True)

    @staticmethod
    def _middles(starts: tuple[float, ...]) -> Tensor:
        ends = (*starts[1:], starts[-1] + starts[1]) if len(starts) > 1 else (float(UNIT),)
        return (torch.tensor(starts) + torch.tensor(ends) - 1) / 2


BANDS = Bands.of_cells()


def rings_of_cells() -> Tensor:
    """``Bands.rings_of_cells`` of the usual cells, [11, 11]."""
    return BANDS.rings_of_cells()


def spectral_weights(gains: Tensor, mixings: Tensor, height: int, width: int, bands: Bands = BANDS) -> Tensor:
    """The matrix on the channel vector of each coefficient of an orthonormal two-dimensional DCT-II.

    Between two cells or rings there is a smooth passage, as wide as a coefficient of an image of 32 px. In
    images of 224 px and more the lowest ring's mixing is halved, since there it colours whole objects.

    Args:
        gains: float32 [K, rows, columns], by cell.
        mixings: float32 [K, 4, C, C], what is added to the identity in each ring.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        bands: The cells and rings.

    Returns:
        float32 [K, H, W, C, C], the identity at coefficient (0, 0) if the first gain is 1.
    """
    rows, columns, ring, passing, part = _places(height, width, bands.rings, mixings.device)
    grown = (min(height, width) - _SMALL) / (_LARGE - _SMALL)
    fade = 1 - min(max(grown, 0), 1) / 2
    identity = torch.eye(mixings.shape[-1], device=mixings.device).expand_as(mixings[:, :1])
    matrices = torch.cat([identity, identity + fade * mixings[:, :1], identity + mixings[:, 1:]], 1)
    weights = matrices.index_select(1, ring)
    inner, outer = matrices[:, ring[passing] - 1], matrices[:, ring[passing]]
    weights.index_copy_(1, passing, part * outer + (1 - part) * inner)
    each = _along(_along(gains, rows, bands.rows, 1), columns, bands.columns, 2)
    placed: Tensor = weights.unflatten(1, (height, width))
    return placed.mul_(each[..., None, None])


@functools.lru_cache(maxsize=8)
def _kept_places(
    height: int, width: int, rings: tuple[float, ...], device: torch.device
) -> tuple[Tensor, ...]:
    rows, columns = (
        torch.arange(size, dtype=torch.float32, device=device) * UNIT / size for size in (height, width)
    )
    radii = (rows[:, None] * rows[:, None] + columns * columns).sqrt().flatten()
    begins = torch.tensor(rings, device=device) - 0.5
    ring = torch.bucketize(radii, begins, right=True, out_int32=True)
    share = _smooth(radii - begins[ring - 1])
    passing = (share < 1).nonzero()[:, 0]
    return rows, columns, ring, passing, share[passing][:, None, None]


def _places(height: int, width: int, rings: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
    """What the coefficients of all images of a size share.

    Returns:
        Positions of rows and of columns in a unit of 32; by coefficient, int32 [H·W], the ring, 1 for the
        lowest; the coefficients where one ring passes into the next; and the share of the outer one there,
        ``[P, 1, 1]``.
    """
    function = _kept_places if height * width <= _KEPT else _kept_places.__wrapped__
    return function(height, width, rings, device)


def _smooth(steps: Tensor) -> Tensor:
    """0 below 0, 1 above 1, 3t² − 2t³ between."""
    steps = steps.clamp(0, 1)
    return steps * steps * (3 - 2 * steps)


def _along(values: Tensor, positions: Tensor, starts: tuple[float, ...], dim: int) -> Tensor:
    """Values of cells along ``dim``, float32 [K, …], at n positions; a passage ends where a cell begins."""
    begins = torch.tensor(starts, device=positions.device)
    here = torch.bucketize(positions, begins, right=True) - 1
    following = (here + 1).clamp(max=len(starts) - 1)
    # Behind the last cell both are the same, so that a share changes nothing.
    share = _smooth(positions - (begins[following] - 1))
    first, second = values.index_select(dim, here), values.index_select(dim, following)
    return first + share.view(-1, *[1] * (values.dim() - 1 - dim)) * (second - first)
