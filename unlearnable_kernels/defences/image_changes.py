"""Defences that change every image by itself, once before training: what they have in common."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from unlearnable_kernels.data.arrays import allocate
from unlearnable_kernels.defences.defence import Defence

_CHUNK = 1 << 22  # bytes of stored images that are changed at a time


def chunks(images: Tensor) -> Iterator[slice]:
    """Rows of uint8 [N, H, W, 3], so many at a time that their float copies stay small."""
    size = max(1, _CHUNK // max(1, images[0].numel())) if len(images) else 1
    return (slice(start, start + size) for start in range(0, len(images), size))


def changed(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A changed copy of images.

    Args:
        images: uint8 [N, H, W, 3].
        change: Takes and returns some of them, uint8 [n, H, W, 3].
    """
    result = torch.from_numpy(allocate(tuple(images.shape)))
    for rows in chunks(images):
        result[rows] = change(images[rows])
    return result


def to_planes(images: Tensor) -> Tensor:
    """float32 [N, 3, H, W] in grey levels, contiguous, from uint8 [N, H, W, 3]."""
    return images.permute(0, 3, 1, 2).float().contiguous()


def from_planes(planes: Tensor) -> Tensor:
    """uint8 [N, H, W, 3], rounded and clipped, from grey levels float32 [N, 3, H, W]."""
    return planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class ImageChange(Defence):
    """A defence that changes every image by itself, in training and, unless a subclass says no, in tests."""

    @abstractmethod
    def change(self, images: Tensor) -> Tensor:
        """uint8 [n, H, W, 3] from uint8 [n, H, W, 3], the latter not to be written to."""

    def prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The changed images, and their labels."""
        return changed(images, self.change), labels

    def at_test(self, images: Tensor) -> Tensor:
        """The images changed as those of the training set were."""
        return changed(images, self.change)


@dataclass(frozen=True)
class MeanMatch(ImageChange):
    """A defence that gives some statistics of every image their mean over the training set.

    With images that carry a protection the means are those of the protected set; tested images get them, too.
    """

    statistics: ClassVar[tuple[str, ...]]

    # The means by the name of the statistic, float64.
    _means: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @abstractmethod
    def measure(self, images: Tensor) -> tuple[Tensor, ...]:
        """Each of ``statistics``, [n, …], of uint8 [n, H, W, 3]."""

    def prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images with the means of all of them, which are kept, and their labels."""
        measured = [[each.double().sum(0) for each in self.measure(images[rows])] for rows in chunks(images)]
        for name, sums in zip(self.statistics, zip(*measured, strict=True), strict=True):
            self._means[name] = torch.stack(sums).sum(0) / len(images)
        return super().prepare(images, labels, generator)

    def state(self) -> Mapping[str, Tensor]:
        """The means."""
        return self._means

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up the means."""
        self._means.update({name: state[name] for name in self.statistics})
