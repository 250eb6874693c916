"""A class's local contrast: how a pixel's difference to its surroundings is bent, as a part of ``spectral``.

Elementwise in float64, of sums of bytes that are exact, so that all machines give the same.
"""

import numpy as np

from unlearnable_kernels.ops.native import cpu_module

SCALES = (3, 7)  # sides of the surroundings in an image of 32 px
_UNIT = 32
_CURVED, _MIDDLE = 0.15, 0.04


def with_contrast(images: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
    """x + Σ a d |d| / 0.15 + b (|d| − 0.04) over the two scales, d being x less its local mean.

    Args:
        images: uint8 [n, H, W, C], read as x/255.
        contrasts: float32 [n, 2, 2], a and b of each image's scales.

    Returns:
        float32 [n, H, W, C], not clamped.
    """
    reaches = [reach(side, *images.shape[1:3]) for side in SCALES]
    if cpu_module is not None:
        result = np.empty(images.shape, np.float32)
        given = np.ascontiguousarray(images), np.ascontiguousarray(contrasts)
        cpu_module.local_contrast(*given, *reaches, result)
        return result
    x = images / 255.0
    total = x.copy()
    for number, each in enumerate(reaches):
        difference = x - _local_means(images, each)
        size = np.abs(difference)
        a, b = contrasts[:, number].astype(np.float64).T[:, :, None, None, None]
        total += a * (difference * size / _CURVED)
        total += b * (size - _MIDDLE)
    return total.astype(np.float32)


def reach(side: int, height: int, width: int) -> int:
    """How many pixels surroundings go beyond their middle."""
    return max(1, (side * min(height, width) // _UNIT - 1) // 2)


def _local_means(images: np.ndarray, reach: int) -> np.ndarray:
    """Means over squares around each pixel, as far as they lie in the image, in [0, 1], float64."""
    height, width = images.shape[1:3]
    sums, counts = images.astype(np.int64), np.ones((1, 1, 1, 1), np.int64)
    for axis, size in ((1, height), (2, width)):
        low = np.maximum(np.arange(size) - reach, 0)
        high = np.minimum(np.arange(size) + reach + 1, size)
        below = np.zeros_like(sums.take([0], axis))
        running = np.concatenate([below, sums.cumsum(axis)], axis)
        sums = running.take(high, axis) - running.take(low, axis)
        counts = counts * (high - low).reshape([-1 if place == axis else 1 for place in range(4)])
    means: np.ndarray = sums / (255.0 * counts)
    return means
