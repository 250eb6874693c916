"""What protection changed in an image, made visible."""

from collections.abc import Iterable

import numpy as np

_GREY = 128
_MOST = 16  # times; more would show the rounding of decoded pixels rather than the perturbation


def amplification(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
    """The largest whole factor that keeps nearly all differences within a byte's range around mid-grey.

    Args:
        pairs: (clean, protected) images that are shown together, at least one: uint8 [H, W, 3] each.

    Returns:
        From 1 to 16, the same for all pairs, so that pictures on one page can be compared.
    """
    changes = [np.abs(after.astype(np.int16) - before).ravel() for before, after in pairs]
    # Not 99 %: filters change edges most, and their few large differences would leave all others too faint to
    # see. An edge that is clipped still shows.
    typical = float(np.percentile(np.concatenate(changes), 95))
    return int(np.clip((_GREY - 1) // max(typical, 1.0), 1, _MOST))


def amplified_difference(before: np.ndarray, after: np.ndarray, factor: int) -> np.ndarray:
    """A picture of ``after - before``, ``factor`` times as large, around mid-grey.

    Args:
        before: uint8 [H, W, 3].
        after: uint8 [H, W, 3].
        factor: As ``amplification`` gives it.

    Returns:
        uint8 [H, W, 3]; 128 means no change, and what exceeds a byte's range is clipped.
    """
    change = after.astype(np.int32) - before
    picture: np.ndarray = np.clip(_GREY + factor * change, 0, 255).astype(np.uint8)
    return picture
