"""A class's local contrast: how a pixel's difference to its surroundings is bent, as a part of ``spectral``.

Elementwise in float64, of sums of bytes that are exact, so that all machines give the same.
"""

import numpy as np

from unlearnable_kernels.ops.native import cpu_module

SCALES = (3, 7)  # sides of the surroundings in an image of 32 px
_UNIT = 32
CURVED, MIDDLE = 0.15, 0.04  # what a is divided by, and what b leaves as it is
_ROUNDS, _STEP = 20, 0.5
_PIXELS = 1 << 18  # of all channels that are estimated at a time
_FURTHEST = 1400  # that the native code's sums hold


def with_contrast(images: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
    """x + Σ a d |d| / 0.15 + b (|d| − 0.04) over the two scales, d being x less its local mean.

    Args:
        images: uint8 [n, H, W, C], read as x/255.
        contrasts: float32 [n, 2, 2], a and b of each image's scales.

    Returns:
        float32 [n, H, W, C], not clamped.
    """
    reaches = reaches_of(*images.shape[1:3])
    if cpu_module is None or max(reaches) > _FURTHEST:
        return _bent(images, 255.0, contrasts).astype(np.float32)
    result = np.empty(images.shape, np.float32)
    given = np.ascontiguousarray(images), np.ascontiguousarray(contrasts)
    cpu_module.local_contrast(*given, *reaches, result)
    return result


def without_contrast(bent: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
    """Estimates of what ``with_contrast`` bent.

    The least remaining error of a damped iteration, for each channel: where a is negative, strong edges bend
    so far that several images give nearly the same, and the one that is found need not be the original.

    Args:
        bent: float32 [n, C, H, W].
        contrasts: As of ``with_contrast``.

    Returns:
        float32 [n, C, H, W], in [0, 1].
    """
    _, channels, height, width = bent.shape
    planes = bent.reshape(-1, height, width, 1)
    each = np.repeat(contrasts, channels, 0)
    estimates = np.empty(planes.shape, np.float32)
    size = max(1, _PIXELS // (height * width))
    for start in range(0, len(planes), size):
        some = slice(start, start + size)
        estimates[some] = _unbent(planes[some], each[some])
    return estimates.reshape(bent.shape)


def _unbent(bent: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
    x = bent.clip(0, 1).astype(np.float64)
    nearest, least = x.copy(), np.full(len(x), np.inf)
    for _ in range(_ROUNDS):
        error = bent - _bent(x, 1.0, contrasts)
        left = np.square(error).sum((1, 2, 3))
        nearer = left < least
        nearest[nearer], least[nearer] = x[nearer], left[nearer]
        x = (x + _STEP * error).clip(0, 1)
    return nearest


def reaches_of(height: int, width: int) -> list[int]:
    """How many pixels surroundings go beyond their middle, at each scale."""
    return [max(1, (side * min(height, width) // _UNIT - 1) // 2) for side in SCALES]


def _bent(values: np.ndarray, whole: float, contrasts: np.ndarray) -> np.ndarray:
    """What ``with_contrast`` computes, in float64, of uint8 or float64 values, read as x/whole."""
    x = values * (1 / whole)
    total = x.copy()
    for number, reach in enumerate(reaches_of(*values.shape[1:3])):
        difference = x - _local_means(values, whole, reach)
        size = np.abs(difference)
        a, b = contrasts[:, number].astype(np.float64).T[:, :, None, None, None]
        total += a / CURVED * (difference * size)
        total += b * (size - MIDDLE)
    return total


def _local_means(values: np.ndarray, whole: float, reach: int) -> np.ndarray:
    """Means over squares around each pixel, as far as they lie in the image, in [0, 1], float64."""
    height, width = values.shape[1:3]
    sums = values.astype(np.int64 if values.dtype == np.uint8 else np.float64)
    counts = np.ones((1, 1, 1, 1), np.int64)
    for axis, size in ((1, height), (2, width)):
        low = np.maximum(np.arange(size) - reach, 0)
        high = np.minimum(np.arange(size) + reach + 1, size)
        below = np.zeros_like(sums.take([0], axis))
        running = np.concatenate([below, sums.cumsum(axis)], axis)
        sums = running.take(high, axis) - running.take(low, axis)
        counts = counts * (high - low).reshape([-1 if place == axis else 1 for place in range(4)])
    means: np.ndarray = sums * (1 / (whole * counts))
    return means
