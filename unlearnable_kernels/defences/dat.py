"""Deconvolution-based adversarial training (DAT): a filter for every class is turned against the network."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.defences.probing import probing
from unlearnable_kernels.device import autocast
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_conv import classwise_conv

_LIMIT = 5.0  # of weights and biases before each step


@DEFENCES.register(
    "dat", "adversarial training against class-wise deconvolutions", "Sadasivan et al., CVPR 2023"
)
@dataclass(frozen=True)
class Dat(Defence):
    """Training on what class-wise transposed convolutions, found by gradient ascent, make of the images.

    For every batch and class one filter and one bias, the same for every channel, start as PyTorch
    initialises such a layer and ascend the mean loss of their class's images, with the network in training
    mode. The network then trains on the filtered images, each brought to [0, 1] by its minimum and maximum.

    Attributes:
        filter: Side of the filters, odd: the paper tried 3, 5 and 7.
        steps: Of the ascent.
        step_size: Times the gradient.

    Raises:
        UserError: A value is out of range.
    """

    filter: int = 3
    steps: int = 10
    step_size: float = 0.1

    def __post_init__(self) -> None:
        if self.filter not in range(3, 32, 2):
            raise UserError(f"filter must be an odd number from 3 to 31, not {self.filter}")
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")
        if not 0 < self.step_size <= 1000:
            raise UserError(f"step_size must be above 0 and at most 1000, not {self.step_size}")

    def adversary(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch under the filters that the ascent finds."""
        bound = 1 / self.filter
        layers = torch.empty(batch.num_classes, self.filter**2 + 1, device=batch.images.device)
        layers.uniform_(-bound, bound, generator=batch.generator)
        weights = batch.label_weights
        everyone = batch.gather(weights)
        shares = (weights / everyone.sum(0).clamp(min=1)).sum(1)  # of an image in its class's mean
        with probing(model):
            for _ in range(self.steps):
                layers.clamp_(-_LIMIT, _LIMIT)
                gradients = self._gradients(model, batch, weights @ layers, shares)
                # Those of each class, summed in the same order however many processes there are.
                layers += self.step_size * everyone.T @ batch.gather(gradients)
        return replace(batch, images=_stretched(deconvolved(batch.images, weights @ layers)))

    def _gradients(self, model: nn.Module, batch: Batch, layers: Tensor, shares: Tensor) -> Tensor:
        """Of the losses, each times its share [B], with respect to each image's layer, both [B, k² + 1]."""
        layers.requires_grad_()
        with torch.enable_grad():
            with autocast(batch.images.device, batch.precision):
                logits: Tensor = model(deconvolved(batch.images, layers))
            losses = functional.cross_entropy(logits.float(), batch.labels, reduction="none")
            loss = (losses * shares).sum()
        (gradients,) = torch.autograd.grad(loss, layers)
        return gradients


def deconvolved(images: Tensor, layers: Tensor) -> Tensor:
    """Transposed convolution of the same size, with one filter and bias for every image.

    With zeros beyond the border it is the cross-correlation with the filter turned by 180°.

    Args:
        images: float32 [B, C, H, W].
        layers: float32 [B, k² + 1]: the filter, row by row, and the bias.

    Returns:
        float32 [B, C, H, W], differentiable with respect to ``layers``.
    """
    side = round((layers.shape[1] - 1) ** 0.5)
    filters = layers[:, :-1].flip(1).view(-1, side, side)
    each = torch.arange(len(images), device=images.device)
    return classwise_conv(images, each, filters, "zeros", "none") + layers[:, -1, None, None, None]


def _stretched(images: Tensor) -> Tensor:
    """Each image with its minimum at 0 and its maximum at 1; an image of one value becomes 0."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / torch.where(high > low, high - low, 1)
