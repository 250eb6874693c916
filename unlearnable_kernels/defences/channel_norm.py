"""Channel normalisation: every image gets the same brightness and contrast in each channel."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.image_changes import MeanMatch, from_planes, to_planes

_LEAST = 1.0  # grey levels; less contrast than this is mostly rounding, and is not raised to more


@DEFENCES.register("channel-norm", "each image's channels with one mean and contrast", "DUNE, ICML 2026")
@dataclass(frozen=True)
class ChannelNorm(MeanMatch):
    """Each channel of each image shifted and scaled to the training set's average mean and deviation.

    Per-image normalisation (x − mean) / deviation, brought back into 8 bits by one line for all images.
    """

    statistics: ClassVar[tuple[str, ...]] = ("mean", "deviation")

    def measure(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each float32 [n, 3], in grey levels."""
        planes = to_planes(images)
        return planes.mean((2, 3)), planes.std((2, 3), correction=0)

    def change(self, images: Tensor) -> Tensor:
        """The images after that."""
        mean, deviation = (each[:, :, None, None] for each in self.measure(images))
        new_mean, new_deviation = (self._means[name].float()[:, None, None] for name in self.statistics)
        scale = new_deviation / deviation.clamp(min=_LEAST)
        return from_planes((to_planes(images) - mean) * scale + new_mean)
