"""The cells and rings of a cosine transform that ``spectral`` works on (docs/spectral.md).

Operations on elements are rounded alike on all machines, so that parameters give the same weights everywhere.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unlearnable_kernels.ops.native import cpu_module

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
        columns: Of those across; one is 0.
        rings: Radii at which the four rings begin.
        turn: Cosine and sine, neither negative, of the angle by which the cells' rows and columns are turned:
            at row p and column q they are at cos · p + sin · q and cos · q − sin · p.
    """

    rows: tuple[float, ...]
    columns: tuple[float, ...]
    rings: tuple[float, ...] = RINGS
    turn: tuple[float, float] = (1.0, 0.0)

    @classmethod
    def of_cells(cls, side: int = CELL) -> "Bands":
        """Cells of ``side`` × ``side`` positions."""
        return cls.turned(side, 1.0, 0.0)

    @classmethod
    def turned(cls, side: int, cosine: float, sine: float) -> "Bands":
        """Cells of ``side`` × ``side`` positions, turned, one of which begins at the lowest position."""
        down = range(0, math.ceil(UNIT * (cosine + sine)), side)
        across = range(-side * math.ceil(UNIT * sine / side), math.ceil(UNIT * cosine), side)
        return cls(tuple(map(float, down)), tuple(map(float, across)), turn=(cosine, sine))

    @property
    def first(self) -> tuple[int, int]:
        """Row and column of the cell that the lowest position begins."""
        return 0, self.columns.index(0.0)

    def rings_of_cells(self) -> Tensor:
        """In which ring each cell's middle lies, int64 [rows, columns].

        0 for the lowest ring, −1 where a turned cell's middle lies beyond the positions that an image has.
        """
        down, across = (self._middles(starts) for starts in (self.rows, self.columns))
        rings = torch.bucketize(_radii(down, across), torch.tensor(self.rings[1:]), right=True)
        cosine, sine = self.turn
        if not sine:
            return rings
        rows, columns = cosine * down[:, None] - sine * across, sine * down[:, None] + cosine * across
        inside = (rows.clamp(0, UNIT) == rows) & (columns.clamp(0, UNIT) == columns)
        return torch.where(inside, rings, -1)

    @staticmethod
    def _middles(starts: tuple[float, ...]) -> Tensor:
        ends = (*starts[1:], starts[-1] + starts[1] - starts[0]) if len(starts) > 1 else (float(UNIT),)
        return (torch.tensor(starts) + torch.tensor(ends) - 1) / 2


BANDS = Bands.of_cells()


def rings_of_cells() -> Tensor:
    """``Bands.rings_of_cells`` of the usual cells, [11, 11]."""
    return BANDS.rings_of_cells()


def largeness(height: int, width: int) -> float:
    """0 for pictures of up to 64 px, of the shorter side, 1 for those of 224 and more, linear between."""
    return min(max((min(height, width) - _SMALL) / (_LARGE - _SMALL), 0.0), 1.0)


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
        float32 [K, H, W, C, C], the identity at coefficient (0, 0) if the gain of ``bands.first`` is 1.
    """
    kept = 1 - largeness(height, width) / 2
    identity = torch.eye(mixings.shape[-1], device=mixings.device).expand_as(mixings[:, :1])
    matrices = torch.cat([identity, identity + kept * mixings[:, :1], identity + mixings[:, 1:]], 1)
    if cpu_module is None or not matrices.is_cpu:
        return _placed(gains, matrices, height, width, bands)
    channels = mixings.shape[-1]
    weights = torch.empty(len(gains), height, width, channels, channels)
    cpu_module.spectral_weights(
        gains.contiguous().numpy(),
        matrices.flatten(2).numpy(),
        _begins(bands.rings).numpy(),
        *(np.array(starts, np.float32) for starts in (bands.rows, bands.columns)),
        *bands.turn,
        weights.flatten(3).numpy(),
    )
    return weights


def _placed(gains: Tensor, matrices: Tensor, height: int, width: int, bands: Bands) -> Tensor:
    """What ``spectral_weights`` gives, of the matrices [K, 5, C, C] of the identity and the rings."""
    rows, columns, ring, passing, part = _places(height, width, bands.rings, matrices.device)
    weights = matrices.index_select(1, ring)
    inner, outer = matrices[:, ring[passing] - 1], matrices[:, ring[passing]]
    weights.index_copy_(1, passing, part * outer + (1 - part) * inner)
    each = _turned(gains, rows, columns, bands) if bands.turn[1] else _upright(gains, rows, columns, bands)
    placed: Tensor = weights.unflatten(1, (height, width))
    return placed.mul_(each[..., None, None])


def _begins(rings: tuple[float, ...]) -> Tensor:
    """Where the passage into each ring begins."""
    return torch.tensor(rings) - 0.5


def _radii(rows: Tensor, columns: Tensor) -> Tensor:
    squares = rows[:, None] * rows[:, None] + columns * columns
    return torch.from_numpy(np.sqrt(squares.numpy()))  # torch's may be off by a last bit on the CPU


@functools.lru_cache(maxsize=8)
def _kept_places(
    height: int, width: int, rings: tuple[float, ...], device: torch.device
) -> tuple[Tensor, ...]:
    rows, columns = (torch.arange(size, dtype=torch.float32) * UNIT / size for size in (height, width))
    radii = _radii(rows, columns).flatten().to(device)
    rows, columns, begins = rows.to(device), columns.to(device), _begins(rings).to(device)
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


def _upright(gains: Tensor, rows: Tensor, columns: Tensor, bands: Bands) -> Tensor:
    """The gain of each coefficient, float32 [K, H, W]."""
    for dim, positions, starts in ((1, rows, bands.rows), (2, columns, bands.columns)):
        here, following, share = _passages(positions, starts)
        both = gains.index_select(dim, here), gains.index_select(dim, following)
        gains = _between(*both, share[:, None] if dim == 1 else share)
    return gains


def _turned(gains: Tensor, rows: Tensor, columns: Tensor, bands: Bands) -> Tensor:
    """The gain of each coefficient, float32 [K, H, W]."""
    cosine, sine = torch.tensor(bands.turn, device=rows.device)
    p = rows[:, None]
    above, below, down = _passages(cosine * p + sine * columns, bands.rows)
    left, right, across = _passages(cosine * columns - sine * p, bands.columns)
    upper, lower = (_between(gains[:, i, left], gains[:, i, right], across) for i in (above, below))
    return _between(upper, lower, down)


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    return first + share * (second - first)


def _passages(positions: Tensor, starts: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The cell of each position, the one that follows, and its share; a passage ends where a cell begins."""
    begins = torch.tensor(starts, device=positions.device)
    here = (torch.bucketize(positions, begins, right=True) - 1).clamp(min=0)
    following = (here + 1).clamp(max=len(starts) - 1)
    # Behind the last cell both are the same, so that a share changes nothing.
    return here, following, _smooth(positions - (begins[following] - 1))
