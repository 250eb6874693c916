"""The orthonormal two-dimensional discrete cosine transform (DCT-II) of images."""

import math
from functools import cache

import torch
from torch import Tensor


@cache
def dct_matrix(size: int, device: torch.device | None = None) -> Tensor:
    """float32 [size, size], orthonormal; row k holds the cosine of frequency k."""
    positions = torch.arange(size, dtype=torch.float64)
    matrix = math.sqrt(2 / size) * torch.cos(math.pi / size * (positions + 0.5) * positions[:, None])
    matrix[0] /= math.sqrt(2)
    return matrix.float().to(device)


def dct2(images: Tensor) -> Tensor:
    """The coefficients [..., H, W] of float32 images [..., H, W], lowest frequencies first."""
    rows, columns = (dct_matrix(size, images.device) for size in images.shape[-2:])
    return rows @ images @ columns.T


def inverse_dct2(coefficients: Tensor) -> Tensor:
    """The images that have these coefficients, both float32 [..., H, W]."""
    rows, columns = (dct_matrix(size, coefficients.device) for size in coefficients.shape[-2:])
    return rows.T @ coefficients @ columns
