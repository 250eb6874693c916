"""Densely connected networks."""

from torch import nn

from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.networks.stem import SMALL, conv3x3


@NETWORKS.register(
    "densenet121", "DenseNet-121, with a 3x3 stem and no max-pool up to 64 px", "Huang et al., CVPR 2017"
)
def densenet121(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's DenseNet-121; up to 64 px with a 3x3 stride-1 stem and no max-pool."""
    model = densenet121_cuda2023(num_classes, image_size)
    if image_size <= SMALL:
        features = model.get_submodule("features")
        features.conv0 = conv3x3(3, 64)
        features.pool0 = nn.Identity()
    return model


@NETWORKS.register(
    "densenet121-cuda2023", "DenseNet-121 with ImageNet's stem at any size", "Sadasivan et al., CVPR 2023"
)
def densenet121_cuda2023(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's DenseNet-121 as it is."""
    model: nn.Module = extra_module("torchvision.models").densenet121(num_classes=num_classes)
    return model
