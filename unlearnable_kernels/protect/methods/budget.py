"""The budget of a perturbation, kept by the 8-bit images themselves (docs/maths.md)."""

import math

import torch
from torch import Tensor

from unlearnable_kernels.errors import UserError

NORMS = ("linf", "l2")
_HALVINGS = 16
_CHUNK = 256  # images that are compared at a time
# 8/255 as a binary fraction, times 255, may fall short of 8 in the last digits.
_SLACK = 1e-6


def check_budget(eps: float, norm: str) -> None:
    """Check a budget.

    Raises:
        UserError: The norm is unknown, or 8-bit pixels cannot use ``eps``.
    """
    if norm not in NORMS:
        raise UserError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
    if not (math.isfinite(eps) and 255 * eps + _SLACK >= 1):
        raise UserError(
            f"eps must be a finite number of at least 1/255, one step of an 8-bit pixel, not {eps:g}"
        )
    if norm == "linf" and eps > 1:
        raise UserError(f"eps must be at most 1 with linf, since pixels are in [0, 1], not {eps:g}")


def quantised(master: Tensor, origin: Tensor, eps: float, norm: str) -> Tensor:
    """The 8-bit images nearest to ``master`` that are within ``eps`` of ``origin``.

    Args:
        master: float32 [N, ...] in [0, 1].
        origin: uint8 [N, ...].
        eps: Largest change of a pixel (linf), or Euclidean length of an image's change (l2), pixels being in
            [0, 1].
        norm: "linf" or "l2".

    Returns:
        uint8 [N, ...], for which |returned - origin| / 255 ≤ eps holds exactly, in integers.
    """
    difference = master * 255 - origin
    if norm == "linf":
        levels = difference.round_().clamp_(-levels_of(eps), levels_of(eps))
    else:
        levels = _rounded_into_ball(difference, (255 * eps) ** 2)
    return levels.add_(origin).clamp_(0, 255).to(torch.uint8)


def budget_used(written: Tensor, origin: Tensor, eps: float, norm: str) -> dict[str, float]:
    """What part of a budget 8-bit images use.

    Args:
        written: uint8 [N, ...], N at least 1, as ``quantised`` returns them.
        origin: uint8 [N, ...].
        eps: The budget.
        norm: "linf", where the change of each pixel counts, or "l2", where an image's does.

    Returns:
        "mean" and "largest" change over ``eps``, rounded to four digits.
    """
    total, largest, count = 0.0, 0.0, 0
    for after, before in zip(written.split(_CHUNK), origin.split(_CHUNK), strict=True):
        changes = (after.int() - before.int()).abs().double()
        if norm == "l2":
            changes = torch.linalg.vector_norm(changes.flatten(1), dim=1)
        total += float(changes.sum())
        largest = max(largest, float(changes.max()))
        count += changes.numel()
    return {"mean": round(total / count / (255 * eps), 4), "largest": round(largest / (255 * eps), 4)}


def levels_of(eps: float) -> int:
    """How many grey levels ``eps`` allows."""
    return math.floor(255 * eps + _SLACK)


def _rounded_into_ball(difference: Tensor, limit: float) -> Tensor:
    """round(s · difference) with, for each image, the largest s ≤ 1 for which its square sum is ≤ limit.

    Rounding may lengthen a vector, and how much grows with s: s is found by halving an interval.
    """
    shape = (len(difference),) + (1,) * (difference.dim() - 1)
    low, high = difference.new_zeros(shape), difference.new_ones(shape)
    trial = high
    for _ in range(_HALVINGS):
        # Integers up to 255² each: exact in float64, whatever the image's size.
        squares = (difference * trial).round_().double().square_().flatten(1).sum(1).view(shape)
        low, high = torch.where(squares <= limit, trial, low), torch.where(squares <= limit, high, trial)
        trial = torch.where(low == 1, low, (low + high) / 2)
    return (difference * low).round_()
