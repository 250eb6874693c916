"""Bit-depth reduction: small perturbations vanish between few grey levels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.image_changes import ImageChange
from unlearnable_kernels.errors import UserError


@DEFENCES.register("bit-depth", "images of few grey levels", "Liu et al., ICML 2023")
@dataclass(frozen=True)
class BitDepth(ImageChange):
    """The nearest of 2^bits evenly spaced grey levels for every value (Xu et al., NDSS 2018).

    Attributes:
        bits: Of each channel, 1 to 8; 2 as in image shortcut squeezing.
        test: Whether tested images are reduced, too.

    Raises:
        UserError: ``bits`` is out of range.
    """

    bits: int = 2
    test: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UserError(f"bits must be 1 to 8, not {self.bits}")

    def change(self, images: Tensor) -> Tensor:
        """The values rounded to levels."""
        most = 2**self.bits - 1
        levels = (torch.arange(256, dtype=torch.float64) * most / 255).round()
        table: Tensor = (levels * 255 / most).round().to(torch.uint8)
        return table[images.int()]

    def at_test(self, images: Tensor) -> Tensor:
        """The images as they are, unless ``test`` says otherwise."""
        return super().at_test(images) if self.test else images
