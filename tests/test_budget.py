import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.methods.budget import budget_used, check_budget, quantised


def pair(seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A master that strays from its 8-bit origin, which touches both ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.randint(-40, 296, (3, 5, 4, 3), generator=generator).clamp_(0, 255).to(torch.uint8)
    noise = torch.randn(origin.shape, generator=generator) * spread
    return (origin / 255 + noise).clamp_(0, 1), origin


def change(result: torch.Tensor, origin: torch.Tensor) -> np.ndarray:
    return result.numpy().astype(np.int64) - origin.numpy().astype(np.int64)


@given(st.integers(0, 10**6), st.floats(1 / 255, 1), st.floats(0, 0.3))
def test_linf_is_kept_in_integers(seed: int, eps: float, spread: float) -> None:
    master, origin = pair(seed, spread)
    levels = change(quantised(master, origin, eps, "linf"), origin)
    assert np.abs(levels).max() <= 255 * eps + 1e-6


@given(st.integers(0, 10**6), st.floats(1 / 255, 3), st.floats(0, 0.3))
def test_l2_is_kept_in_integers(seed: int, eps: float, spread: float) -> None:
    master, origin = pair(seed, spread)
    levels = change(quantised(master, origin, eps, "l2"), origin)
    assert ((levels**2).sum(axis=(1, 2, 3)) <= (255 * eps) ** 2).all()


@pytest.mark.parametrize("count", range(1, 256))
def test_a_budget_in_levels_is_used_to_the_last(count: int) -> None:
    origin = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
    assert quantised(torch.ones(1, 1, 1, 3), origin, count / 255, "linf").unique().tolist() == [count]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_lies_well_within_is_rounded_to_the_nearest(norm: str) -> None:
    master, origin = pair(3, 0.02)
    expected = (master * 255).round().to(torch.uint8)
    assert torch.equal(quantised(master, origin, 3.0, norm), expected)
    assert not torch.equal(expected, origin)


def test_l2_is_used_as_far_as_whole_levels_go() -> None:
    master, origin = pair(4, 0.2)
    for eps in (0.1, 0.4, 0.8):
        lengths = (change(quantised(master, origin, eps, "l2"), origin) ** 2).sum(axis=(1, 2, 3)) ** 0.5
        assert (lengths > 0.9 * 255 * eps).all()


def test_the_used_part_of_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearnable_kernels.protect.methods.budget._CHUNK", 2)
    origin = torch.full((3, 4, 4, 3), 100, dtype=torch.uint8)
    written = origin.clone()
    written[0] += 8
    written[1] -= 4
    assert budget_used(written, origin, 8 / 255, "linf") == {"mean": 0.5, "largest": 1.0}
    length = 48**0.5
    used = budget_used(written, origin, 16 * length / 255, "l2")
    assert used == {"mean": 0.25, "largest": 0.5}


def test_bad_budgets_are_named() -> None:
    check_budget(8 / 255, "linf")
    for eps in (0.0, -1.0, 0.5 / 255, float("nan"), float("inf")):
        with pytest.raises(UserError, match="eps must be a finite number of at least 1/255"):
            check_budget(eps, "l2")
    with pytest.raises(UserError, match=r"eps must be at most 1 with linf, .*, not 8$"):
        check_budget(8.0, "linf")
    check_budget(8.0, "l2")
    with pytest.raises(UserError, match="norm must be one of linf, l2, not 'l1'"):
        check_budget(0.1, "l1")
