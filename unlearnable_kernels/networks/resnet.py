"""Residual networks."""

import torch
from torch import Tensor, nn

from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.networks.stem import SMALL, conv3x3


@NETWORKS.register(
    "resnet18", "ResNet-18, with a 3x3 stem and no max-pool up to 64 px", "He et al., CVPR 2016"
)
def resnet18(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-18; up to 64 px with a 3x3 stride-1 stem and no max-pool, as for CIFAR."""
    model: nn.Module = extra_module("torchvision.models").resnet18(num_classes=num_classes)
    if image_size <= SMALL:
        model.conv1 = conv3x3(3, 64)
        model.maxpool = nn.Identity()
    return model


@NETWORKS.register(
    "resnet18-cuda2023", "ResNet-18 with PyTorch's default initial weights", "Sadasivan et al., CVPR 2023"
)
def resnet18_cuda2023(num_classes: int, image_size: int) -> nn.Module:
    """``resnet18``, its convolutions drawn as ``nn.Conv2d`` draws them: U(−b, b), b = 1/√fan_in."""
    model = resnet18(num_classes, image_size)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return model


@NETWORKS.register("resnet8", "eight layers of widths 32, 64, 128: trains on two CPU cores in minutes")
def resnet8(num_classes: int, image_size: int) -> nn.Module:
    """Eight layers, widths 32-64-128: small enough to train on two CPU cores within a demo."""
    return ResNet8(num_classes)


class ResNet8(nn.Module):
    """Stem, three basic blocks with strides 1, 2, 2, global average pool, linear layer."""

    def __init__(self, num_classes: int, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Sequential(conv3x3(3, first), nn.BatchNorm2d(first), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(
            basic_block(first, first, stride=1),
            basic_block(first, second, stride=2),
            basic_block(second, third, stride=2),
        )
        self.fc = nn.Linear(third, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(images))
        logits: Tensor = self.fc(torch.mean(features, dim=(2, 3)))
        return logits


def basic_block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """torchvision's block of two 3x3 convolutions, activated after the addition."""
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
        shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))
    block: nn.Module = extra_module("torchvision.models.resnet").BasicBlock(
        in_channels, out_channels, stride, shortcut
    )
    return block
