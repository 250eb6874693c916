"""Orthogonal projection: what a linear classifier can tell the classes by is taken out of the images."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Defence
from unlearnable_kernels.defences.image_changes import changed, chunks
from unlearnable_kernels.errors import UserError


@DEFENCES.register(
    "op", "images projected off the weights of a linear classifier", "Sandoval-Segura et al., NeurIPS 2023"
)
@dataclass(frozen=True)
class OrthogonalProjection(Defence):
    """Training images without their part in the span of the weights of a logistic regression on pixels.

    Tested images stay as they are.

    Attributes:
        epochs: Of the regression.
        lr: Of its plain SGD, for pixels in [0, 1]; after half and after three quarters of the epochs it falls
            to a tenth.
        batch_size: Of its steps.

    Raises:
        UserError: A value is out of range.
    """

    epochs: int = 20
    lr: float = 0.1
    batch_size: int = 1024

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr must be a finite number above 0, not {self.lr}")

    def prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The projected images, rounded and clipped to 8 bits, and their labels.

        All keep the mean image's part in the span: what all have tells no class from another, and without it
        many values would leave the range of 8 bits.
        """
        basis = self.basis(images, labels, generator)
        sums = [images[rows].flatten(1).double().sum(0) for rows in chunks(images)]
        mean = (torch.stack(sums).sum(0) / len(images)).float()

        def projected(some: Tensor) -> Tensor:
            rows = some.flatten(1).float()
            rows -= (rows - mean) @ basis.T @ basis
            return rows.round_().clamp_(0, 255).to(torch.uint8).view(some.shape)

        return changed(images, projected), labels

    def basis(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """An orthonormal basis of the weights' span, float32 [r, H * W * 3], r below the number of classes.

        The weights start at 0, so that they are no more than what the images put there. Their rows then sum
        to 0, and the span has a dimension less than there are classes.
        """
        weights = self.regression(images, labels, generator)
        _, lengths, directions = torch.linalg.svd(weights, full_matrices=False)
        basis: Tensor = directions[lengths > 1e-4 * lengths[0]]
        return basis

    def regression(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Weights float32 [K, H * W * 3] of the logistic regression without biases, for pixels in [0, 1]."""
        pixels, truth = images.flatten(1), functional.one_hot(labels).float()
        weights = torch.zeros(truth.shape[1], pixels.shape[1])
        for epoch in range(self.epochs):
            lr = self.lr * 0.1 ** ((2 * epoch >= self.epochs) + (4 * epoch >= 3 * self.epochs))
            for index in torch.randperm(len(labels), generator=generator).split(self.batch_size):
                batch = pixels[index].float() / 255
                slope = (batch @ weights.T).softmax(1) - truth[index]
                weights -= lr / len(index) * slope.T @ batch
        return weights
