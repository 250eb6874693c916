"""How much protected images still look like their originals: PSNR and SSIM."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from unlearnable_kernels.data.manifest import Manifest, read_manifest
from unlearnable_kernels.data.originals import match_originals
from unlearnable_kernels.data.source import Sample, Source, load_image, open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module

SAMPLE_PIXELS = 1 << 24
"""Of a set so many images are measured, at even distances, as have these many pixels: 16,384 of 32x32."""
SAMPLE = 256
"""The fewest: their mean is known to 0.2 dB, and to 0.005 of SSIM."""

FEW = 48
"""Images of a set that are measured when it is written."""
MAX_SIDE = 512
"""Of larger images these many pixels in the middle are compared, then: it takes 20 ms an image."""

_SIZES = 9  # images whose size is looked at
_WINDOW, _SIGMA = 11, 1.5  # of the SSIM's Gaussian, in pixels
_BAND = 32  # rows at a time, so that what is computed stays within a cache
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def picture_quality(source: str | Path, protected: Path) -> dict[str, Any]:
    """Compare images of a protected set with their originals.

    Args:
        source: The originals' data set, as ``open_source`` takes it.
        protected: What ``protect_dataset`` made of it.

    Returns:
        "images", how many of the protected ones were compared, by ``SAMPLE_PIXELS`` and ``SAMPLE``;
        "unchanged", how many of these do not differ from their originals; "psnr" in dB, the mean over those
        that differ, None where none does; "ssim", the mean over all, None where they are too small.

    Raises:
        UserError: No image of ``protected`` has its original in ``source``, or an image cannot be read.
    """
    manifest, clean, copy = read_manifest(protected), open_source(Path(source)), open_source(protected)
    pairs = protected_pairs(clean, copy, manifest)
    if not pairs:
        raise UserError(f"{protected}: none of its protected images has its original in {source}")
    size = manifest["parameters"].get("resize")
    few = (pairs[len(pairs) * index // _SIZES][0] for index in range(_SIZES))
    pixels = max(load_image(clean, sample, size)[..., 0].size for sample in few)
    count = min(max(SAMPLE, SAMPLE_PIXELS // pixels), len(pairs))
    chosen = [pairs[len(pairs) * index // count] for index in range(count)]
    return mean_quality(
        (load_image(clean, before, size), load_image(copy, after, None)) for before, after in chosen
    )


def mean_quality(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Compare images with their originals.

    Args:
        pairs: (original, protected), uint8 [H, W, 3] both.

    Returns:
        As ``picture_quality``.
    """
    noise, likeness = [], []
    for before, after in pairs:
        noise.append(psnr(before, after))
        likeness.append(_ssim_where_there_is_opencv(before, after))
    changed = [each for each in noise if each < math.inf]
    return {
        "images": len(noise),
        "unchanged": len(noise) - len(changed),
        "psnr": sum(changed) / len(changed) if changed else None,
        "ssim": None if math.nan in likeness else sum(likeness) / len(likeness) if likeness else None,
    }


def _ssim_where_there_is_opencv(before: np.ndarray, after: np.ndarray) -> float:
    """NaN elsewhere: arrays are protected without any codec, and without this figure."""
    try:
        return ssim(before, after)
    except UserError:
        return math.nan


def central(image: np.ndarray) -> np.ndarray:
    """The middle of an image, at most ``MAX_SIDE`` pixels on a side.

    Args:
        image: uint8 [H, W, 3].
    """
    top, left = (max(0, side - MAX_SIDE) // 2 for side in image.shape[:2])
    return image[top : top + MAX_SIDE, left : left + MAX_SIDE]


def quality_text(quality: Any) -> str:
    """The field "picture_quality" of a manifest for people; "" where there is none, or not ours."""
    if not isinstance(quality, dict):
        return ""
    found = []
    for name, form, unit in (("psnr", ".1f", " dB"), ("ssim", ".2f", "")):
        value = quality.get(name)
        if type(value) is float:
            found.append(f"{name.upper()} {value:{form}}{unit}")
    count = quality.get("images")
    return f"{', '.join(found)} (mean of {count} pictures)" if found and type(count) is int else ""


def protected_pairs(clean: Source, protected: Source, manifest: Manifest) -> list[tuple[Sample, Sample]]:
    """(original, protected) samples of a protected set.

    Args:
        clean: The data set of the originals.
        protected: The protected one.
        manifest: The whole manifest of ``protected``.

    Returns:
        One pair for each image that is protected and has its original in ``clean``, in the order of
        ``protected``.
    """
    changed = {name for name, entry in manifest.samples() if entry.protected}
    rows = match_originals([s.name for s in protected.samples], [s.name for s in clean.samples])
    return [
        (clean.samples[row], sample)
        for sample, row in zip(protected.samples, rows, strict=True)
        if row is not None and sample.name in changed
    ]


def psnr(before: np.ndarray, after: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255² / mean squared error); infinite for equal images.

    Args:
        before: uint8 [H, W, 3].
        after: uint8 [H, W, 3].
    """
    error = float(np.mean((before.astype(np.float64) - after) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(before: np.ndarray, after: np.ndarray) -> float:
    """Structural similarity (Wang et al., IEEE Transactions on Image Processing 2004), at most 1.

    A Gaussian window of σ 1.5 px, 11 px wide, on each colour channel; the mean over the channels and over all
    places at which the window lies within the image. It is scikit-image's ``structural_similarity`` with
    ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255``.

    Args:
        before: uint8 [H, W, 3].
        after: uint8 [H, W, 3].

    Returns:
        NaN for images of fewer than 11 px on a side.
    """
    if min(before.shape[:2]) < _WINDOW:
        return math.nan
    edge = _WINDOW // 2
    height, width, channels = before.shape
    height, width = height - 2 * edge, width - 2 * edge
    total = 0.0
    for top in range(0, height, _BAND):
        rows = slice(top, top + _BAND + 2 * edge)
        total += float(np.sum(_similarity(before[rows].astype(np.float64), after[rows].astype(np.float64))))
    return float(total / (height * width * channels))


def _similarity(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM at every place of the window, [H - 10, W - 10, C], of float64 images, which are overwritten."""
    cv2 = extra_module("cv2")
    inner = slice(_WINDOW // 2, -(_WINDOW // 2))

    def smooth(image: np.ndarray) -> np.ndarray:
        blurred: np.ndarray = cv2.GaussianBlur(image, (_WINDOW, _WINDOW), _SIGMA)[inner, inner]
        return blurred

    mean_x, mean_y = smooth(x), smooth(y)
    means = mean_x * mean_y
    squares = mean_x * mean_x
    squares += mean_y * mean_y
    covariance = smooth(x * y) - means
    x *= x
    y *= y
    x += y
    variances = smooth(x) - squares
    similar: np.ndarray = (2 * means + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))
    return similar
