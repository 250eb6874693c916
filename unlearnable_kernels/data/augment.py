"""Training-time augmentation, from the stored bytes to what the network takes."""

import torch
from torch import Tensor

from unlearnable_kernels.ops.crop_flip import crop_flip


def random_crop_flip(
    images: Tensor,
    generator: torch.Generator,
    padding: int = 4,
    flip: bool = True,
    index: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Crop after zero padding, flip and cast to float, at random for each image.

    Args:
        images: uint8 [N, H, W, C], the stored images.
        generator: Where the draws come from, on the images' device.
        padding: Pixels added on each side before an HxW window is cut out at a uniformly drawn place; 0
            turns the crop off.
        flip: Mirror each image left to right with probability 1/2.
        index: int64 [B], the stored images that make up the batch; None takes all in order.
        dtype: Of the result.

    Returns:
        ``dtype`` [B, C, H, W] in [0, 1], channels-last in memory.

    Raises:
        RuntimeError: ``crop_flip`` refuses an argument.
    """
    batch = len(images if index is None else index)
    offsets, flips = draw_crop_flip(batch, generator, padding, flip)
    return crop_flip(images, offsets, flips, padding, index, dtype)


def draw_crop_flip(batch: int, generator: torch.Generator, padding: int, flip: bool) -> tuple[Tensor, Tensor]:
    """Draw what ``random_crop_flip`` applies to a batch.

    Args:
        batch: Number of images, B.
        generator: Where the draws come from.
        padding: See ``random_crop_flip``.
        flip: See ``random_crop_flip``.

    Returns:
        offsets, int64 [B, 2], row and column in [0, 2 * padding], and flips, bool [B]; both on the
        generator's device.
    """
    device = generator.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, 1), generator=generator, device=device)

    # Recorded runs depend on the order of these draws.
    row = draw(2 * padding + 1)
    flips = draw(2)[:, 0].bool() if flip else torch.zeros(batch, dtype=torch.bool, device=device)
    column = draw(2 * padding + 1)
    return torch.cat([row, column], 1), flips


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Cast stored images to what the network takes, without any augmentation.

    Args:
        images: uint8 [B, H, W, C], or floats in [0, 1], which keep their values.
        dtype: Of the result.

    Returns:
        ``dtype`` [B, C, H, W] in [0, 1], channels-last in memory.
    """
    if images.is_floating_point():
        return images.permute(0, 3, 1, 2).to(dtype)
    corner = torch.zeros(len(images), 2, dtype=torch.int64, device=images.device)
    return crop_flip(images, corner, corner.new_zeros(len(images), dtype=torch.bool), 0, None, dtype)
