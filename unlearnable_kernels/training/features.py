"""What a network makes of images before its last layer, and how that depends on their pixels."""

import torch
from torch import Tensor, nn

from unlearnable_kernels.data.augment import to_float
from unlearnable_kernels.device import autocast
from unlearnable_kernels.networks import penultimate_features
from unlearnable_kernels.training.reproducible import deterministic

_BATCH = 512


def features_of(model: nn.Module, images: Tensor, precision: str = "fp32") -> Tensor:
    """The penultimate features of images, in evaluation mode, which the model is left in.

    Args:
        model: A network with a linear layer at its end.
        images: uint8 [N, H, W, 3], or float32 in [0, 1]; on any device.
        precision: "fp32" or "bf16", of the passes through the network.

    Returns:
        float32 [N, D] on the model's device.
    """
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad(), deterministic(), autocast(device, precision):
        parts = [penultimate_features(model, to_float(part.to(device))) for part in images.split(_BATCH)]
        return torch.cat([part.float() for part in parts])


def pixel_gradient(model: nn.Module, images: Tensor, upstream: Tensor, precision: str = "fp32") -> Tensor:
    """The gradient of Σ ⟨features, upstream⟩ with respect to the pixels in [0, 1].

    In evaluation mode, which the model is left in, an image's features are its own, so that a dataset's
    gradient is that of its parts.

    Args:
        model: A network with a linear layer at its end.
        images: uint8 [n, H, W, 3], or float32 in [0, 1]; on any device.
        upstream: float32 [n, D], on any device.
        precision: "fp32" or "bf16", of the passes through the network.

    Returns:
        float32 [n, H, W, 3] on the model's device.
    """
    device = next(model.parameters()).device
    model.eval()
    inputs = to_float(images.to(device)).requires_grad_()
    with torch.enable_grad(), deterministic(), autocast(device, precision):
        found = penultimate_features(model, inputs).float()
        (gradient,) = torch.autograd.grad(found, inputs, upstream.to(device))
    return gradient.permute(0, 2, 3, 1)
