"""The networks that can be trained: each function marked ``register_network`` is one, under its own name.

Every network takes float32 images [B, 3, H, W] in [0, 1] and returns logits [B, num_classes]. Inputs are
not normalised, as in the training recipe of Sadasivan et al. (CVPR 2023).
"""

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from unlearnable_kernels.errors import UserError

Builder = Callable[[int, int], nn.Module]

_BUILDERS: dict[str, Builder] = {}


def register_network(build: Builder) -> Builder:
    """Register ``build(num_classes, image_size) -> nn.Module`` under the function's name."""
    name = build.__name__
    if name in _BUILDERS:
        raise ValueError(f"a network named {name!r} is registered already")
    _BUILDERS[name] = build
    return build


def network_names() -> list[str]:
    return sorted(_BUILDERS)


def check_network(name: str) -> None:
    if name not in _BUILDERS:
        raise UserError(f"unknown network {name!r}: choose one of {', '.join(network_names())}")


def create_network(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Build the network ``name`` with fresh weights, drawn from torch's global generator.

    image_size: the images' height and width in pixels, from which a network may choose its stem.
    Raises UserError for an unknown name.
    """
    check_network(name)
    return _BUILDERS[name](num_classes, image_size)


def penultimate_features(model: nn.Module, images: Tensor) -> Tensor:
    """What the last linear layer of ``model`` is given for ``images`` [B, 3, H, W]: features [B, D].

    Differentiable, in the mode the model is in.
    """
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(images)
    finally:
        handle.remove()
    return seen[0]


@register_network
def resnet18(num_classes: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-18; up to 64 px with a 3x3 stride-1 stem and no max-pool (methods §1.2)."""
    model: nn.Module = torchvision.models.resnet18(num_classes=num_classes)
    if image_size <= 64:
        model.conv1 = _conv3x3(3, 64)
        model.maxpool = nn.Identity()
    return model


@register_network
def resnet8(num_classes: int, image_size: int) -> nn.Module:
    """Eight layers, widths 32-64-128: small enough to train on two CPU cores within a demo."""
    return ResNet8(num_classes)


class ResNet8(nn.Module):
    """Stem, three basic blocks with strides 1, 2, 2, global average pool, linear layer."""

    def __init__(self, num_classes: int, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Sequential(_conv3x3(3, first), nn.BatchNorm2d(first), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(
            BasicBlock(first, first),
            BasicBlock(first, second, stride=2, downsample=_shortcut(first, second, stride=2)),
            BasicBlock(second, third, stride=2, downsample=_shortcut(second, third, stride=2)),
        )
        self.fc = nn.Linear(third, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(images))
        logits: Tensor = self.fc(torch.mean(features, dim=(2, 3)))
        return logits


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
