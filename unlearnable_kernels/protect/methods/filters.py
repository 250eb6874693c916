"""Where the class filters come from: a private key, or the released program's integer seed.

A filter is k*k, the same for all colour channels: one entry, at a random place, is 1; the others are drawn
from U(0, strength) (Sadasivan, Soltanolkotabi, Feizi, CVPR 2023, arXiv 2303.04278). The other kinds are
variants of it (docs/maths.md): stripes, and one filter for all classes. Centred filters have their 1 in the
middle, and so do not displace the picture.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import SEED_WARNING, Key, Secret, check_seed

SMALL = (3, 0.3)
LARGE = (9, 0.06)
SMALL_SIDE = 64
# (kernel size, strength) per dataset: the published ones, and for Tiny-ImageNet, whose setting was not
# published, those of ImageNet-100.
DEFAULTS = {
    "cifar10": SMALL,
    "cifar100": SMALL,
    "tiny-imagenet-200": LARGE,
    "imagenet-100": LARGE,
    "imagenet": LARGE,
}
NORMAL = "normal"
MILD = "mild"
# (kernel size, strength) by intensity, for the sizes whose normal setting is the published one. A larger
# filter blurs and, unless it is centred, displaces more. Mild filters are normal ones, centred: weaker ones
# protect next to nothing (docs/quality.md).
INTENSITIES = {
    SMALL: {MILD: SMALL, NORMAL: SMALL, "strong": (5, 0.3)},
    LARGE: {MILD: LARGE, NORMAL: LARGE, "strong": (13, 0.06)},
}
INTENSITY_NAMES = tuple(INTENSITIES[SMALL])
MAX_KERNEL_SIZE = 255
MAX_STRENGTH = 1000.0
SQUARE, VERTICAL, HORIZONTAL, SHARED, IRP = "square", "vertical", "horizontal", "shared", "irp"
KINDS = (SQUARE, VERTICAL, HORIZONTAL, SHARED, IRP)
"""Of filters: k×k; a column of k, VUDA, and a row of k, HUDA (AAAI 2025); one k×k for all classes; k×k with
another behind it that is fitted to the images, ``restoration`` (ECCV 2024)."""


def default_parameters(dataset_name: str, shorter_side: int, intensity: str = NORMAL) -> tuple[int, float]:
    """(kernel size, strength) for a dataset; an unknown one is judged by its images' shorter side.

    Raises:
        UserError: There is no such intensity.
    """
    known = INTENSITIES[DEFAULTS.get(dataset_name, SMALL if shorter_side < SMALL_SIDE else LARGE)]
    if intensity not in known:
        raise UserError(f"intensity must be one of {', '.join(known)}, not {intensity!r}")
    return known[intensity]


def class_filters(
    secret: Secret,
    dataset_name: str,
    classes: int | Sequence[str],
    kernel_size: int,
    strength: float,
    kind: str = SQUARE,
    centred: bool = False,
) -> torch.Tensor:
    """The filters of all classes of a dataset from a key or a seed.

    Args:
        secret: Key or seed. The released program defines what square filters a seed gives; the others are
            derived from it as from a key.
        dataset_name: Part of the derivation.
        classes: Names of the K classes, or their number. By name, a class keeps its filter whatever other
            classes there are; by number, filters belong to a class's place (scheme 1, see ``Task``).
        kernel_size: Side k of the filters, odd, from 1 to 255.
        strength: p_b of the paper, in (0, 1000].
        kind: One of ``KINDS``; with "irp" the first of the two filters is given.
        centred: Whether the 1 is in the middle and not at a random place.

    Returns:
        float32 [K, kernel_size, kernel_size], entries in [0, max(1, strength)].

    Raises:
        UserError: A parameter is out of range.
    """
    each: Sequence[str | int] = range(classes) if isinstance(classes, int) else classes
    check_filter_parameters(len(each), kernel_size, strength)
    if kind == SQUARE and not centred and not isinstance(secret, Key):
        return seed_stream(secret.seed, len(each), kernel_size, strength)[0]
    filters = [
        _derived_filter(
            secret, kind, dataset_name, 0 if kind == SHARED else one, kernel_size, strength, centred
        )
        for one in each
    ]
    return torch.from_numpy(np.stack(filters))


def _derived_filter(
    secret: Secret, kind: str, dataset_name: str, index: str | int, k: int, strength: float, centred: bool
) -> np.ndarray:
    """float32 [k, k]. No two kinds share bytes, centred or not, nor do a class's name and a number."""
    purpose = ("filter" if kind == SQUARE else f"filter {kind}") + (" centred" if centred else "")
    stripe = kind in (VERTICAL, HORIZONTAL)
    taps = k if stripe else k * k
    data = secret.derive(purpose, dataset_name, index, k, float(strength), length=8 * taps + 16)
    words = np.frombuffer(data, dtype="<u8", count=taps)
    entries = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 * strength
    # 128 bits modulo the number of taps: the bias is below 2⁻¹¹².
    entries[taps // 2 if centred else int.from_bytes(data[8 * taps :], "little") % taps] = 1.0
    if not stripe:
        return entries.astype(np.float32).reshape(k, k)
    result = np.zeros((k, k), dtype=np.float32)
    line = result[:, k // 2] if kind == VERTICAL else result[k // 2]
    line[:] = entries
    return result


def filters_from_seed(seed: int, num_classes: int, kernel_size: int, strength: float) -> torch.Tensor:
    """The released program's filters for an integer seed, bit for bit; warns that it is not secret.

    Args:
        seed: From 0 to 2³² - 1.
        num_classes: Number K of classes.
        kernel_size: Side k of the filters, odd, from 1 to 255.
        strength: p_b of the paper, in (0, 1000].

    Returns:
        float32 [K, k, k].

    Raises:
        UserError: A parameter is out of range.
    """
    warnings.warn(SEED_WARNING, stacklevel=2)
    return seed_stream(seed, num_classes, kernel_size, strength)[0]


def seed_stream(
    seed: int, num_classes: int, kernel_size: int, strength: float
) -> tuple[torch.Tensor, np.random.RandomState]:
    """The filters of ``filters_from_seed``, and the generator that the partial subset is drawn from next."""
    check_seed(seed)
    check_filter_parameters(num_classes, kernel_size, strength)
    generator = np.random.RandomState(seed)
    filters = np.empty((num_classes, kernel_size, kernel_size), dtype=np.float32)
    for index in range(num_classes):
        # Three channels are drawn and one is used: that is the published stream.
        drawn = generator.uniform(0, strength, size=(3, 1, kernel_size, kernel_size))[0, 0]
        row, column = generator.randint(kernel_size), generator.randint(kernel_size)
        drawn[row, column] = 1.0
        filters[index] = drawn
    return torch.from_numpy(filters), generator


def check_filter_parameters(num_classes: int, kernel_size: int, strength: float) -> None:
    """Check the parameters of filters.

    Raises:
        UserError: No classes, a kernel size that is even or not in 1 … 255, or a strength not in (0, 1000].
    """
    if num_classes < 1:
        raise UserError(f"there must be at least one class, not {num_classes}")
    if (
        isinstance(kernel_size, bool)
        or kernel_size != int(kernel_size)
        or not 1 <= kernel_size <= MAX_KERNEL_SIZE
        or kernel_size % 2 == 0
    ):
        raise UserError(f"kernel size must be an odd number from 1 to {MAX_KERNEL_SIZE}, not {kernel_size}")
    if not (math.isfinite(strength) and 0 < strength <= MAX_STRENGTH):
        raise UserError(f"strength must be above 0 and at most {MAX_STRENGTH:g}, not {strength}")
