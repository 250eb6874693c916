"""Training on mixtures of two images of a batch, and of their labels."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.errors import UserError


@dataclass(frozen=True)
class _Mixing(Defence):
    """Mixes every image with the one that a permutation of the whole batch gives it.

    Attributes:
        alpha: The share λ that an image keeps is from Beta(alpha, alpha), once for a batch.

    Raises:
        UserError: A value is out of range.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.alpha <= 100:
            raise UserError(f"alpha must be at least 0.01 and at most 100, not {self.alpha}")

    def _share(self, batch: Batch) -> Tensor:
        """λ, a scalar on the generator's device."""
        concentration = torch.full((2,), self.alpha, device=batch.images.device)
        return torch._sample_dirichlet(concentration, batch.generator)[0]

    def _partners(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Partners' images [B, C, H, W] and label weights [B, K]."""
        order = torch.randperm(batch.count, generator=batch.generator, device=batch.images.device)[batch.part]
        return batch.gather(batch.images)[order], batch.gather(batch.label_weights)[order]


@DEFENCES.register("mixup", "trains on weighted means of two images and labels", "Zhang et al., ICLR 2018")
@dataclass(frozen=True)
class Mixup(_Mixing):
    """λ times an image and its label, and 1 − λ times those of its partner."""

    def augment(self, batch: Batch) -> Batch:
        """The mixed batch, with soft labels."""
        share = self._share(batch)
        images, weights = self._partners(batch)
        return replace(
            batch,
            images=batch.images.lerp(images, 1 - share),
            labels=batch.label_weights.lerp(weights, 1 - share),
        )


@DEFENCES.register("cutmix", "trains on images with a box from another image", "Yun et al., ICCV 2019")
@dataclass(frozen=True)
class Cutmix(_Mixing):
    """A box of 1 − λ of the area comes from the partner; labels are mixed by the area that it really covers.

    Attributes:
        probability: Of a batch to be mixed at all; the published one is 0.5 for CIFAR, 1 for ImageNet.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.probability <= 1:
            raise UserError(f"probability must be above 0 and at most 1, not {self.probability}")

    def augment(self, batch: Batch) -> Batch:
        """The batch with one box for all, and soft labels."""
        height, width = batch.images.shape[2:]
        share, device = self._share(batch), batch.images.device
        centre = torch.rand(2, generator=batch.generator, device=device)
        mixed = torch.rand((), generator=batch.generator, device=device) < self.probability
        side = (1 - share).sqrt()
        rows, columns = _span(centre[0], side, height), _span(centre[1], side, width)
        box = rows[:, None] & columns & mixed
        images, weights = self._partners(batch)
        return replace(
            batch,
            images=torch.where(box, images, batch.images),
            labels=batch.label_weights.lerp(weights, box.float().mean()),
        )


def _span(centre: Tensor, side: Tensor, size: int) -> Tensor:
    """Which of ``size`` pixels are within ``side``, a part of the size, around ``centre`` in [0, 1)."""
    at = torch.arange(size, device=centre.device)
    length = (side * size).floor()
    begin = (centre * size).floor() - (length / 2).floor()
    return (at >= begin) & (at < begin + length)
