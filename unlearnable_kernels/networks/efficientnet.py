"""EfficientNets of the second generation."""

from typing import Any

from torch import nn

from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.networks.stem import SMALL, keep_size


@NETWORKS.register(
    "efficientnet_v2_s", "EfficientNetV2-S, with a stem of stride 1 up to 64 px", "Tan & Le, ICML 2021"
)
def efficientnet_v2_s(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's EfficientNetV2-S; up to 64 px the stem has stride 1."""
    model: Any = extra_module("torchvision.models").efficientnet_v2_s(num_classes=num_classes)
    if image_size <= SMALL:
        keep_size(model.features[0][0])
    return model  # type: ignore[no-any-return]
