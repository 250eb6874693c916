"""Histogram equalisation: tone curves, such as a class's own, are undone."""

from dataclasses import dataclass

from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.image_changes import ImageChange
from unlearnable_kernels.extras import extra_module


@DEFENCES.register("histeq", "equalised histograms, of training and tested images", "DUNE, ICML 2026")
@dataclass(frozen=True)
class HistogramEqualisation(ImageChange):
    """Each channel of each image gets a flat histogram; a monotonic tone curve before that has no effect."""

    def change(self, images: Tensor) -> Tensor:
        """What Pillow's ImageOps.equalize makes of each image, by torchvision."""
        functional = extra_module("torchvision.transforms.v2.functional")
        equal: Tensor = functional.equalize(images.permute(0, 3, 1, 2))
        return equal.permute(0, 2, 3, 1)
