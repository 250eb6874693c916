import random

import numpy as np
import pytest

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key, Seed
from unlearnable_kernels.protect.methods.selection import choose_protected

FIXED = Key(bytes(range(32)))
SIZES = [10, 1, 0, 37, 100]
LABELS = [label for label, size in enumerate(SIZES) for _ in range(size)]
NAMES = [f"class{label}/{position:04d}.jpg" for position, label in enumerate(LABELS)]


def choose(
    source: Key | Seed,
    fraction: float,
    names: list[str] = NAMES,
    labels: list[int] = LABELS,
    data: str = "pets",
) -> np.ndarray:
    return choose_protected(
        source, data, names, labels, fraction, num_classes=len(SIZES), kernel_size=3, strength=0.3
    )


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.999, 1.0])
def test_every_class_has_its_exact_share(fraction: float) -> None:
    counts = np.bincount(np.array(LABELS)[choose(FIXED, fraction)], minlength=len(SIZES))
    assert counts.tolist() == [int(fraction * size + 0.5) for size in SIZES]


def test_a_larger_fraction_contains_the_smaller() -> None:
    small, large = choose(FIXED, 0.3), choose(FIXED, 0.6)
    assert small.any()
    assert (small <= large).all()


def test_order_does_not_matter() -> None:
    order = list(range(len(NAMES)))
    random.Random(0).shuffle(order)
    shuffled = choose(FIXED, 0.5, [NAMES[i] for i in order], [LABELS[i] for i in order])
    np.testing.assert_array_equal(shuffled, choose(FIXED, 0.5)[order])


def test_key_and_data_set_decide() -> None:
    base = choose(FIXED, 0.5).tolist()
    assert choose(Key(bytes(32)), 0.5).tolist() != base
    assert choose(FIXED, 0.5, data="other").tolist() != base


def test_the_choice_is_not_the_listing_order() -> None:
    chosen = choose(FIXED, 0.5)[-100:]
    assert 10 < chosen[:50].sum() < 40


@pytest.mark.filterwarnings("ignore:an integer seed")
def test_a_seed_draws_the_published_subset() -> None:
    state = np.random.RandomState(3)
    for _ in SIZES:
        state.uniform(0, 0.3, size=(3, 1, 3, 3))
        state.randint(3), state.randint(3)
    expected = [state.random_sample() < 0.4 for _ in NAMES]
    assert choose(Seed(3), 0.4).tolist() == expected
    assert choose(Seed(3), 1.0).all()


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="fraction must be above 0 and at most 1"):
        choose(FIXED, fraction)
