"""Blur of the images in training: by random filters, one for every image, and by a Gaussian."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_conv import classwise_conv


@DEFENCES.register(
    "random-blur", "filters every image with a random blur of its own", "Sadasivan et al., CVPR 2023"
)
@dataclass(frozen=True)
class RandomBlur(Defence):
    """The filters of class-wise convolution as an augmentation, drawn for every image instead of every class.

    One entry, anywhere, is 1 and the others are from U(0, strength); the border is zeros, and the image is
    divided by its maximum.

    Attributes:
        strength: The paper tried 0.1 and 0.3.
        size: Of the filter, odd.

    Raises:
        UserError: A value is out of range.
    """

    strength: float = 0.3
    size: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise UserError(f"strength must be above 0 and at most 1, not {self.strength}")
        _check_size(self.size)

    def augment(self, batch: Batch) -> Batch:
        """The filtered batch."""
        images = batch.images
        each = torch.arange(len(images), device=images.device)
        return replace(batch, images=classwise_conv(images, each, batch.draw(self.filters)))

    def filters(self, count: int, generator: torch.Generator) -> Tensor:
        """Random filters, float32 [count, size, size]."""
        entries, device = self.size**2, generator.device
        filters = torch.rand(count, entries, generator=generator, device=device) * self.strength
        at = torch.randint(entries, (count, 1), generator=generator, device=device)
        return filters.scatter_(1, at, 1.0).view(count, self.size, self.size)


@DEFENCES.register("gaussian", "blurs every image with a Gaussian", "Qin et al., APBench, 2023")
@dataclass(frozen=True)
class GaussianBlur(Defence):
    """Filtering with a Gaussian, with a reflected border; tested images stay as they are.

    Attributes:
        sigma: Of the Gaussian in pixels. APBench's 0.1 is so small that nothing changes.
        size: Of the filter, odd.

    Raises:
        UserError: A value is out of range.
    """

    sigma: float = 0.1
    size: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 100:
            raise UserError(f"sigma must be above 0 and at most 100, not {self.sigma}")
        _check_size(self.size)

    def augment(self, batch: Batch) -> Batch:
        """The filtered batch."""
        images, reach = batch.images, self.size // 2
        row = torch.exp(-(torch.arange(-reach, reach + 1, device=images.device) ** 2) / (2 * self.sigma**2))
        row = row / row.sum()
        one = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return replace(
            batch, images=classwise_conv(images, one, torch.outer(row, row)[None], "reflect", "none")
        )


def _check_size(size: int) -> None:
    """Raise UserError unless a filter can have this side."""
    if size not in range(3, 32, 2):
        raise UserError(f"size must be an odd number from 3 to 31, not {size}")
