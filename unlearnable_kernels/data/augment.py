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
    """Random crop after zero padding, random horizontal flip, and the cast to float, each image on its own.

    images: uint8 [N, H, W, C]. generator: on the images' device. padding: pixels added on each side before
    an HxW window is cut out at a uniformly drawn place; 0 leaves the place as it is. flip: mirror each
    image with probability 1/2. index: int64 [B], which stored images make up the batch; None: all in order.
    Returns ``dtype`` [B, C, H, W] in [0, 1], channels-last in memory. Raises what ``crop_flip`` raises.
    """
    batch = len(images if index is None else index)
    offsets, flips = draw_crop_flip(batch, generator, padding, flip)
    return crop_flip(images, offsets, flips, padding, index, dtype)


def draw_crop_flip(batch: int, generator: torch.Generator, padding: int, flip: bool) -> tuple[Tensor, Tensor]:
    """The draws behind ``random_crop_flip``, on the generator's device: ``crop_flip``'s offsets and flips."""
    device = generator.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, 1), generator=generator, device=device)

    # Recorded runs depend on the order of these draws.
    row = draw(2 * padding + 1)
    flips = draw(2)[:, 0].bool() if flip else torch.zeros(batch, dtype=torch.bool, device=device)
    column = draw(2 * padding + 1)
    return torch.cat([row, column], 1), flips


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [B, H, W, C] to ``dtype`` [B, C, H, W] in [0, 1], channels-last in memory; no other change."""
    corner = torch.zeros(len(images), 2, dtype=torch.int64, device=images.device)
    return crop_flip(images, corner, corner.new_zeros(len(images), dtype=torch.bool), 0, None, dtype)
