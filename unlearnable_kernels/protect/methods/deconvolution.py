"""Undoing class-wise convolution for whoever has the filters: least squares with the border that it had.

Protection made y = ⌊255 A x / m⌋ of an image x, A being the filter with its padding and m the maximum of A x,
which nothing records. So x / m is estimated as the z that minimises |A z − y|² + λ |∇z|², by conjugate
gradients, and scaled so that the brightest place is white (docs/quality.md).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearnable_kernels.ops.classwise_conv import classwise_conv

SMOOTHNESS = 0.01
"""λ: matters at the borders alone, where a filter that displaces has cut off what was there."""
TOLERANCE = 5e-5  # of the gradient, relative to that at the start
STEPS = 100
_PIXELS = 1 << 21  # at a time: conjugate gradients keep some 170 bytes of each


@dataclass(frozen=True)
class Deconvolution:
    """The inverse of ``ClassFilters``, as near as it can be had.

    Attributes:
        filters: float32 [K, k, k].
        padding: What lay beyond the border, one of ``PADDINGS``.
        outcome: Nothing.
    """

    filters: np.ndarray
    padding: str
    outcome: dict[str, Any] = field(default_factory=dict)

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        out[...] = images
        rows = [row for row, label in enumerate(assignment) if label >= 0]
        if not rows:
            return
        count = max(1, _PIXELS // (images.shape[1] * images.shape[2]))
        for some in (rows[start : start + count] for start in range(0, len(rows), count)):
            labels = torch.tensor([assignment[row] for row in some])
            seen = torch.from_numpy(images[some]).permute(0, 3, 1, 2)
            found = deconvolved(seen, labels, torch.from_numpy(self.filters), self.padding)
            out[some] = found.permute(0, 2, 3, 1).numpy()


def deconvolved(images: Tensor, labels: Tensor, filters: Tensor, padding: str) -> Tensor:
    """What images were before they were filtered and divided by their maximum.

    Args:
        images: uint8 [N, C, H, W], as ``classwise_conv`` gave them.
        labels: int64 [N], in [0, K).
        filters: float32 [K, k, k].
        padding: As then.

    Returns:
        uint8 [N, C, H, W]. Each image's brightest place, but for what lies k pixels from its border or less,
        is 255; an image that is black stays so.
    """
    # The middle of what was truncated to each value; the maximum itself lost nothing.
    seen = torch.where(images == 255, 255.0, images + 0.5).contiguous()
    found = _least_squares(seen, labels, filters, padding)
    k, (height, width) = filters.shape[-1], images.shape[2:]
    margin = k if min(height, width) > 4 * k else 0  # the border's estimates are too uncertain to go by
    inner = found[:, :, margin : height - margin, margin : width - margin]
    brightest = inner.amax(dim=(1, 2, 3), keepdim=True)
    scaled = (found * (255 / brightest)).where(brightest > 1, 0)
    black = images.amax(dim=(1, 2, 3), keepdim=True) == 0
    return scaled.where(~black, 0).round().clamp(0, 255).to(torch.uint8)


def _least_squares(seen: Tensor, labels: Tensor, filters: Tensor, padding: str) -> Tensor:
    """The z with least |A z − seen|² + λ |∇z|²; float32 [N, C, H, W], like ``seen``.

    Conjugate gradients on the normal equations, each image by itself, until all have converged.
    """

    def forward(z: Tensor) -> Tensor:
        return classwise_conv(z, labels, filters, padding, "none")

    with torch.enable_grad():
        start = torch.zeros_like(seen, requires_grad=True)
        result = forward(start)

    def adjoint(z: Tensor) -> Tensor:
        return torch.autograd.grad(result, start, z, retain_graph=True)[0]

    found = torch.zeros_like(seen)
    residual = adjoint(seen)
    direction = residual.clone()
    power = first = _dot(residual, residual)
    for _ in range(STEPS):
        if bool((power <= TOLERANCE**2 * first).all()):
            break
        image = adjoint(forward(direction)) + SMOOTHNESS * _negative_laplacian(direction)
        step = power / _dot(direction, image).clamp(min=1e-30)
        found += step * direction
        residual -= step * image
        before, power = power, _dot(residual, residual)
        direction = residual + power / before.clamp(min=1e-30) * direction
    return found


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """[N, 1, 1, 1], of each image."""
    return (one * other).sum(dim=(1, 2, 3), keepdim=True)


def _negative_laplacian(images: Tensor) -> Tensor:
    """The gradient of |∇z|² / 2, without flow through the border."""
    result = torch.zeros_like(images)
    for dim in (2, 3):
        slope = images.diff(dim=dim)
        length = slope.shape[dim]
        result.narrow(dim, 1, length).add_(slope)
        result.narrow(dim, 0, length).sub_(slope)
    return result
