"""Training-time augmentation, from the stored bytes to what the network takes."""

import torch
from torch import Tensor


def random_crop_flip(
    images: Tensor, generator: torch.Generator, padding: int = 4, flip: bool = True
) -> Tensor:
    """Random crop after zero padding, random horizontal flip, and the cast to float, each image on its own.

    images: uint8 [B, H, W, 3]. generator: on the images' device. padding: pixels added on each side before
    an HxW window is cut out at a uniformly drawn place; 0 leaves the place as it is. flip: mirror each
    image with probability 1/2. Returns float32 [B, 3, H, W] in [0, 1], channels-last in memory.
    """
    batch, height, width, _ = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, 1), generator=generator, device=device)

    rows = torch.arange(height, device=device) + draw(2 * padding + 1)  # [B, H], in the padded image
    columns = torch.arange(width, device=device).expand(batch, width)
    if flip:
        columns = torch.where(draw(2).bool(), width - 1 - columns, columns)
    columns = columns + draw(2 * padding + 1)  # [B, W]
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    index = torch.arange(batch, device=device)
    cropped = padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]  # [B, H, W, 3]
    return to_float(cropped)


def to_float(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [0, 1], channels-last in memory; no other change."""
    return images.permute(0, 3, 1, 2).float().div_(255)
