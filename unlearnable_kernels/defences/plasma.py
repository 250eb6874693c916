"""Plasma: random fields that look like clouds, by the diamond-square algorithm."""

import torch
from torch import Tensor
from torch.nn import functional


def plasma_size(height: int, width: int) -> int:
    """Side of the smallest square of 2ⁿ + 1 pixels that holds so many."""
    return (1 << max(1, (max(height, width) - 2).bit_length())) + 1


def plasma(noise: Tensor, roughness: Tensor) -> Tensor:
    """Fields whose details are ``roughness`` times as strong at every halving of the scale.

    Source: Fournier, Fussell and Carpenter, "Computer Rendering of Stochastic Models", CACM 1982. From the
    corners on, the middle of every square and then of every edge is the mean of its neighbours, and noise.

    Args:
        noise: float32 [B, C, S, S] in [-1, 1], with the S of ``plasma_size``.
        roughness: float32 [B, 1, 1, 1] in [0, 1].

    Returns:
        float32 [B, C, S, S]; the least value of each field is 0 and the largest 1.
    """
    size = noise.shape[-1] - 1
    stride, field, scale = size, noise[..., ::size, ::size], torch.ones_like(roughness)
    while stride > 1:
        half, scale = stride // 2, scale * roughness
        finer = scale * noise[..., ::half, ::half]
        finer[..., ::2, ::2] = field
        finer[..., 1::2, 1::2] += _mean(
            field[..., :-1, :-1], field[..., :-1, 1:], field[..., 1:, :-1], field[..., 1:, 1:]
        )
        middles = finer[..., 1::2, 1::2]
        # Beyond the border there is nothing: the one middle that is there counts twice.
        beside, above = (
            functional.pad(middles, (1, 1, 0, 0), "replicate"),
            functional.pad(middles, (0, 0, 1, 1), "replicate"),
        )
        finer[..., 1::2, ::2] += _mean(
            field[..., :-1, :], field[..., 1:, :], beside[..., :-1], beside[..., 1:]
        )
        finer[..., ::2, 1::2] += _mean(field[..., :-1], field[..., 1:], above[..., :-1, :], above[..., 1:, :])
        stride, field = half, finer
    low, high = field.amin((-2, -1), keepdim=True), field.amax((-2, -1), keepdim=True)
    return (field - low) / (high - low).clamp(min=1e-12)


def _mean(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return (a + b + c + d) / 4
