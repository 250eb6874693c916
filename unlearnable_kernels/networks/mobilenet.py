"""MobileNets."""

from typing import Any

from torch import nn

from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.networks.stem import SMALL, keep_size


@NETWORKS.register(
    "mobilenet_v2",
    "MobileNetV2, with stem and second stage of stride 1 up to 64 px",
    "Sandler et al., CVPR 2018",
)
def mobilenet_v2(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's MobileNetV2; up to 64 px the stem and the second stage have stride 1."""
    model: Any = extra_module("torchvision.models").mobilenet_v2(num_classes=num_classes)
    if image_size <= SMALL:
        keep_size(model.features[0][0])
        keep_size(model.features[2].conv[1][0])
    return model  # type: ignore[no-any-return]
