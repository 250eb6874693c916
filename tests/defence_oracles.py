"""Defences as their papers write them, in loops over single values, for the tests."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def correlated(image: Floats, kernel: Floats, padding: str) -> Floats:
    """Cross-correlation of every channel of [C, H, W] with an odd kernel, of the same size."""
    r = kernel.shape[0] // 2
    mode = {"zeros": "constant", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}[padding]
    padded = np.pad(image, ((0, 0), (r, r), (r, r)), mode)
    result = np.zeros_like(image)
    for c, u, v in np.ndindex(*image.shape):
        result[c, u, v] = (kernel * padded[c, u : u + 2 * r + 1, v : v + 2 * r + 1]).sum()
    return result


def transposed(image: Floats, kernel: Floats, bias: float) -> Floats:
    """Every value of [C, H, W] adds the kernel, weighted with it, to its surroundings."""
    r = kernel.shape[0] // 2
    channels, height, width = image.shape
    result = np.zeros((channels, height + 2 * r, width + 2 * r))
    for c, u, v in np.ndindex(*image.shape):
        result[c, u : u + 2 * r + 1, v : v + 2 * r + 1] += image[c, u, v] * kernel
    return result[:, r : r + height, r : r + width] + bias


def displaced(image: Floats, offsets: Floats) -> Floats:
    """[C, H, W] read bilinearly at [H, W, 2] (dx, dy), wrapping."""
    _, height, width = image.shape
    result = np.zeros_like(image)
    for u, v in np.ndindex(height, width):
        x, y = v + offsets[u, v, 0], u + offsets[u, v, 1]
        left, top = int(np.floor(x)), int(np.floor(y))
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            weight = (1 - abs(x - column)) * (1 - abs(y - row))
            result[:, u, v] += weight * image[:, row % height, column % width]
    return result


def plasma(noise: Floats, roughness: float) -> Floats:
    """Diamond and square, value by value, from noise [S, S]; beyond the border the middle counts twice."""
    size = noise.shape[0] - 1
    field = np.zeros_like(noise)
    for corner in ((0, 0), (0, size), (size, 0), (size, size)):
        field[corner] = noise[corner]
    stride, scale = size, 1.0
    while stride > 1:
        half, scale = stride // 2, scale * roughness
        for u in range(half, size, stride):
            for v in range(half, size, stride):
                corners = [field[u + a, v + b] for a in (-half, half) for b in (-half, half)]
                field[u, v] = sum(corners) / 4 + scale * noise[u, v]
        for u in range(0, size + 1, half):
            for v in range((u // half + 1) % 2 * half, size + 1, stride):
                around = [
                    (u + (a if 0 <= u + a <= size else -a), v + (b if 0 <= v + b <= size else -b))
                    for a, b in ((-half, 0), (half, 0), (0, -half), (0, half))
                ]
                field[u, v] = sum(field[at] for at in around) / 4 + scale * noise[u, v]
        stride = half
    return (field - field.min()) / (field.max() - field.min())


def non_orthogonality(weight: Floats, groups: int) -> float:
    """‖W Wᵀ − I‖² over rows or columns, whichever are fewer, of each group."""
    total = 0.0
    for rows in np.split(weight.reshape(weight.shape[0], -1), groups):
        vectors = rows if rows.shape[0] <= rows.shape[1] else rows.T
        for i, a in enumerate(vectors):
            for j, b in enumerate(vectors):
                total += (a @ b - (i == j)) ** 2
    return total
