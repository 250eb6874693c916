"""Contrast normalisation: every image's local differences get the same distribution.

Nobody has published it: it is the natural answer to a protection that bends local contrast by class, as
``spectral`` does. Its scales are known, since this program is.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearnable_kernels.data.local_contrast import SCALES
from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.image_changes import MeanMatch, from_planes, to_planes
from unlearnable_kernels.defences.local_means import around

NODES = 129  # quantiles of a distribution, the least and the largest among them
_FINEST = 1 / 64  # grey levels; less is rounding, as where an area is flat, and has no order


@DEFENCES.register(
    "contrast-norm", "each image's local differences given the training set's mean distribution"
)
@dataclass(frozen=True)
class ContrastNorm(MeanMatch):
    """At each scale of local contrast a pixel's difference to the mean around it is mapped, by rank.

    The wider scale first, then the narrower one on what came of it. What bends differences without changing
    their order, in all pixels of a channel alike, has no effect but through the means around them.
    """

    statistics: ClassVar[tuple[str, ...]] = ("wide", "narrow")

    def measure(self, images: Tensor) -> tuple[Tensor, ...]:
        """Quantiles at each scale, float32 [n, 3, NODES] in grey levels, of uint8 [n, H, W, 3]."""
        planes = to_planes(images)
        return tuple(quantiles(differences(planes, number)) for number in self._scales)

    def change(self, images: Tensor) -> Tensor:
        """The images with the mean quantiles, rounded and clipped to 8 bits."""
        planes = to_planes(images)
        for number, name in zip(self._scales, self.statistics, strict=True):
            own = differences(planes, number)
            planes = planes + matched(own, self._means[name].float()) - own
        return from_planes(planes)

    @property
    def _scales(self) -> range:
        return range(len(SCALES) - 1, -1, -1)


def differences(planes: Tensor, scale: int) -> Tensor:
    """Of each pixel to the mean around it, [n, C, H, W] in grey levels, to the nearest 64th."""
    return ((planes - around(planes, scale)) / _FINEST).round() * _FINEST


def quantiles(values: Tensor) -> Tensor:
    """[n, C, NODES] of [n, C, H, W], evenly spaced, between ranks by lines."""
    ordered = values.flatten(2).sort(-1).values
    place = torch.linspace(0, ordered.shape[-1] - 1, NODES)
    low = place.long().clamp(max=max(0, ordered.shape[-1] - 2))
    high = (low + 1).clamp(max=ordered.shape[-1] - 1)
    return torch.lerp(ordered[..., low], ordered[..., high], place - low)


def matched(values: Tensor, wanted: Tensor) -> Tensor:
    """Values [n, C, H, W] with the quantiles ``wanted``, [C, NODES], for those of their image.

    Equal ones, as those of flat areas, get the middle of their places.
    """
    own, flat = quantiles(values), values.flatten(2).contiguous()
    place = torch.zeros_like(flat)
    for right in (False, True):
        high = torch.searchsorted(own, flat, right=right).clamp(1, NODES - 1)
        below, above = own.gather(-1, high - 1), own.gather(-1, high)
        width = (above - below).clamp(min=torch.finfo(own.dtype).tiny)
        place += (high - 1 + ((flat - below) / width).clamp(0, 1)) / 2
    low = place.long().clamp(max=NODES - 2)
    all_wanted = wanted.expand(len(flat), -1, -1)
    found = torch.lerp(all_wanted.gather(-1, low), all_wanted.gather(-1, low + 1), place - low)
    return found.view_as(values)
