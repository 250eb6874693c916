"""The cells and rings of a cosine transform that ``spectral`` works on (docs/spectral.md).

Operations on elements are rounded alike on all machines, so that parameters give the same weights everywhere.
"""

import torch
from torch import Tensor

UNIT = 32  # cells and rings are given for images of 32 px, and grow with the image
CELL = 3
CELLS = -(-UNIT // CELL)
RINGS = (0.5, 3.0, 7.0, 13.0)  # radii at which the four rings begin
WAVES = 3
_SMALL, _LARGE = 64, 224  # px of the shorter side


def spectral_weights(gains: Tensor, mixings: Tensor, height: int, width: int) -> Tensor:
    """The matrix on the channel vector of each coefficient of an orthonormal two-dimensional DCT-II.

    Between two cells or rings there is a smooth passage, as wide as a coefficient of an image of 32 px. In
    images of 224 px and more the lowest ring's mixing is halved, since there it colours whole objects.

    Args:
        gains: float32 [K, 11, 11], by cell.
        mixings: float32 [K, 4, C, C], what is added to the identity in each ring.
        height: Of the images, in pixels.
        width: Of the images, in pixels.

    Returns:
        float32 [K, H, W, C, C], the identity at coefficient (0, 0) if the first gain is 1.
    """
    device = mixings.device
    rows, columns = (
        torch.arange(size, dtype=torch.float32, device=device) * UNIT / size for size in (height, width)
    )
    grown = (min(height, width) - _SMALL) / (_LARGE - _SMALL)
    fade = 1 - min(max(grown, 0), 1) / 2
    identity = torch.eye(mixings.shape[-1], device=device).expand_as(mixings[:, :1])
    matrices = torch.cat([identity, identity + fade * mixings[:, :1], identity + mixings[:, 1:]], 1)
    radii = (rows[:, None] * rows[:, None] + columns * columns).sqrt()
    begins = torch.tensor(RINGS, device=device) - 0.5
    ring = torch.bucketize(radii, begins, right=True)  # 1 for the lowest
    share = _smooth(radii - begins[ring - 1])
    weights: Tensor = matrices.index_select(1, ring.flatten()).unflatten(1, ring.shape)
    passing = share < 1
    inner, outer = matrices[:, ring[passing] - 1], matrices[:, ring[passing]]
    part = share[passing][:, None, None]
    weights[:, passing] = part * outer + (1 - part) * inner
    return weights.mul_(_along(_along(gains, rows).mT, columns).mT[..., None, None])


def rings_of_cells() -> Tensor:
    """In which ring each cell's middle lies, int64 [11, 11]: 0 for the lowest."""
    middles = torch.arange(CELLS) * CELL + (CELL - 1) / 2
    radii = (middles[:, None] * middles[:, None] + middles * middles).sqrt()
    return torch.bucketize(radii, torch.tensor(RINGS[1:]), right=True)


def _smooth(steps: Tensor) -> Tensor:
    """0 below 0, 1 above 1, 3t² − 2t³ between."""
    steps = steps.clamp(0, 1)
    return steps * steps * (3 - 2 * steps)


def _along(values: Tensor, positions: Tensor) -> Tensor:
    """[K, n, …], of values [K, 11, …] of cells, at n positions; a passage ends where a cell begins."""
    here = (positions / CELL).long()
    following = (here + 1).clamp(max=CELLS - 1)
    share = _smooth(positions - (CELL * here + CELL - 1))[:, None]
    return values[:, here] + share * (values[:, following] - values[:, here])
