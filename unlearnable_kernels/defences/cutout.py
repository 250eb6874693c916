"""Cutout: a black square somewhere on every image."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.errors import UserError


@DEFENCES.register("cutout", "blackens a square of every image", "DeVries and Taylor, 2017")
@dataclass(frozen=True)
class Cutout(Defence):
    """A square whose centre is anywhere on the image, cut off at the border, becomes 0.

    Attributes:
        size: Side of the square as a part of the image's: by default the published 16 of CIFAR-10's 32
            pixels.

    Raises:
        UserError: ``size`` is out of range.
    """

    size: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.size <= 1:
            raise UserError(f"size must be above 0 and at most 1, not {self.size}")

    def augment(self, batch: Batch) -> Batch:
        """The batch with a square of its own in every image."""
        height, width = batch.images.shape[2:]
        device = batch.images.device

        def centres(count: int, generator: torch.Generator) -> Tensor:
            return torch.rand(count, 2, generator=generator, device=device)

        row, column = batch.draw(centres)[:, :, None].unbind(1)
        inside = self._span(row, height)[:, :, None] & self._span(column, width)[:, None, :]
        return replace(batch, images=batch.images * ~inside[:, None])

    def _span(self, centre: Tensor, size: int) -> Tensor:
        """Which of ``size`` pixels the square covers around each centre, [B, 1] in [0, 1); bool [B, size]."""
        length = max(1, round(self.size * size))
        begin = (centre * size).floor() - length // 2
        at = torch.arange(size, device=centre.device)
        return (at >= begin) & (at < begin + length)
