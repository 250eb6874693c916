"""Differences made visible: amplified alike, as far as nearly all of them fit, around mid-grey."""

import numpy as np
import pytest

from unlearnable_kernels.report.differences import amplification, amplified_difference

Pair = tuple[np.ndarray, np.ndarray]


def pair(change: int, size: int = 10) -> Pair:
    before = np.full((size, size, 3), 100, np.uint8)
    return before, np.clip(before.astype(int) + change, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "factor"), [(0, 16), (1, 16), (14, 9), (-20, 6), (63, 2), (-64, 1), (155, 1)]
)
def test_differences_are_amplified_as_far_as_they_fit(change: int, factor: int) -> None:
    assert amplification([pair(change)]) == factor


def test_one_factor_serves_all_pairs() -> None:
    assert amplification([pair(2), pair(40), pair(-1, size=3)]) == 3


def test_few_large_differences_do_not_count() -> None:
    before, after = pair(10, size=30)
    after[0] = 255  # one row of thirty
    assert amplification([(before, after)]) == 12
    after[1] = 255
    assert amplification([(before, after)]) == 1


def test_the_difference_is_signed_around_grey_and_clipped() -> None:
    before, after = pair(20)
    after[5:] = 90
    shown = amplified_difference(before, after, 6)
    assert shown.dtype == np.uint8
    assert (shown[:5] == 128 + 120).all()
    assert (shown[5:] == 128 - 60).all()
    assert (amplified_difference(before, np.zeros_like(before), 2) == 0).all()
    assert (amplified_difference(before, np.full_like(before, 255), 2) == 255).all()
