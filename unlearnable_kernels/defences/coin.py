"""COIN: in training every pixel is taken from a random place nearby."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.errors import UserError


@DEFENCES.register("coin", "takes every pixel from a random place nearby", "Li et al., AAAI 2025")
@dataclass(frozen=True)
class Coin(Defence):
    """Every pixel is read, bilinearly, at an offset dx, dy ~ U(−reach, reach); the border wraps.

    Attributes:
        reach: In pixels.

    Raises:
        UserError: ``reach`` is out of range.
    """

    reach: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.reach <= 16:
            raise UserError(f"reach must be above 0 and at most 16, not {self.reach}")

    def augment(self, batch: Batch) -> Batch:
        """The batch, displaced alike in all channels of an image."""
        height, width = batch.images.shape[2:]
        device = batch.images.device

        def offsets(count: int, generator: torch.Generator) -> Tensor:
            values = torch.empty(count, height, width, 2, device=device)
            return values.uniform_(-self.reach, self.reach, generator=generator)

        return replace(batch, images=displaced(batch.images, batch.draw(offsets)))


def displaced(images: Tensor, offsets: Tensor) -> Tensor:
    """Images read at displaced places, bilinearly, as if they were repeated without end.

    Args:
        images: float32 [B, C, H, W].
        offsets: float32 [B, H, W, 2]: how far to the right and how far down each pixel is read.

    Returns:
        float32 [B, C, H, W], channels-last in memory.
    """
    height, width = images.shape[2:]
    at = (offsets + _centres(height, width, images.device)) % offsets.new_tensor([width, height])
    # What lies beyond the last pixel's centre is between it and the first one's.
    padded = functional.pad(images, (1, 1, 1, 1), mode="circular")
    grid = (at + 1) * 2 / offsets.new_tensor([width + 2, height + 2]) - 1
    read = functional.grid_sample(padded, grid, mode="bilinear", align_corners=False)
    return read.contiguous(memory_format=torch.channels_last)


def _centres(height: int, width: int, device: torch.device) -> Tensor:
    """Where the pixels' centres are, float32 [H, W, 2], x before y, in pixels from the corner."""
    rows, columns = torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5
    return torch.stack(torch.broadcast_tensors(columns, rows[:, None]), dim=2)
