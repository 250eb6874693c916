"""Grayscale: colour, in which many protections hide their mark, is taken away."""

from dataclasses import dataclass

from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.image_changes import ImageChange
from unlearnable_kernels.extras import extra_module


@DEFENCES.register("grayscale", "images in grey, training and tested ones", "Liu et al., ICML 2023")
@dataclass(frozen=True)
class Grayscale(ImageChange):
    """Luma instead of colour, in all three channels: one of the compressions of image shortcut squeezing."""

    def change(self, images: Tensor) -> Tensor:
        """0.2989 R + 0.587 G + 0.114 B, rounded down, as torchvision has it."""
        functional = extra_module("torchvision.transforms.v2.functional")
        gray: Tensor = functional.rgb_to_grayscale(images.permute(0, 3, 1, 2), 1)
        return gray.permute(0, 2, 3, 1).expand(images.shape)
