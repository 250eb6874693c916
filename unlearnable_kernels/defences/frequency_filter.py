"""Frequency filter: only the low frequencies of the cosine transform are kept."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.dct import dct_matrix
from unlearnable_kernels.defences.defence import Batch
from unlearnable_kernels.defences.image_changes import ImageChange, from_planes, to_planes
from unlearnable_kernels.errors import UserError

WHEN = ("batch", "before")


@DEFENCES.register("ff", "low frequencies only (the FF of RSK + FF)", "arXiv 2411.01742")
@dataclass(frozen=True)
class FrequencyFilter(ImageChange):
    """The lowest rows and columns of the orthonormal 2-D DCT; all other coefficients become 0.

    Attributes:
        keep: Part of the rows and of the columns that is kept, above 0 and at most 1; their number is
            rounded down, but at least 1.
        when: "batch" filters every batch after crop and flip and after what earlier defences do to it, as
            the published order needs behind ``rsk``; "before" filters the training set once.
        test: Whether tested images are filtered, too.

    Raises:
        UserError: A value is out of range.
    """

    keep: float = 0.3
    when: str = "batch"
    test: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UserError(f"keep must be above 0 and at most 1, not {self.keep}")
        if self.when not in WHEN:
            raise UserError(f"when must be one of {', '.join(WHEN)}, not {self.when!r}")

    def filtered(self, planes: Tensor) -> Tensor:
        """Filtered float32 [..., H, W]; a little may leave the range of ``planes``."""
        # The kept rows of the transform, [k, H] and [k', W].
        low, right = (
            dct_matrix(size, planes.device)[: max(1, int(self.keep * size + 1e-9))]
            for size in planes.shape[-2:]
        )
        return low.T @ (low @ planes @ right.T) @ right

    def change(self, images: Tensor) -> Tensor:
        """The filtered images."""
        return from_planes(self.filtered(to_planes(images)))

    def prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The filtered training set where this is asked for; otherwise it stays as it is."""
        return super().prepare(images, labels, generator) if self.when == "before" else (images, labels)

    def augment(self, batch: Batch) -> Batch:
        """The filtered batch, clipped to [0, 1], unless the training set was filtered before."""
        if self.when == "before":
            return batch
        filtered = self.filtered(batch.images.contiguous()).clamp_(0, 1)
        return replace(batch, images=filtered.contiguous(memory_format=torch.channels_last))

    def at_test(self, images: Tensor) -> Tensor:
        """The filtered images, unless ``test`` says otherwise."""
        return super().at_test(images) if self.test else images
