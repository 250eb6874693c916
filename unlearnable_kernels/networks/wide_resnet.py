"""Wide residual networks: WRN-34-10."""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.networks.resnet import basic_block
from unlearnable_kernels.networks.stem import SMALL

STEM = 16
WIDTHS = (160, 320, 640)
BLOCKS = 5  # in a group: 34 = 6 * 5 + 4 layers


@NETWORKS.register(
    "wrn34_10",
    "WRN-34-10, activated before convolutions; above 64 px with a stem of stride 4",
    "Zagoruyko & Komodakis, BMVC 2016",
)
def wrn34_10(num_classes: int, image_size: int) -> nn.Module:
    """WRN-34-10 without dropout."""
    model = wide_resnet(num_classes, image_size, PreActivationBlock, nn.Identity(), norm_relu(WIDTHS[-1]))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


@NETWORKS.register(
    "wrn34_10-cuda2023",
    "WRN-34-10 as wrn34_10, but activated after additions",
    "Sadasivan et al., CVPR 2023",
)
def wrn34_10_cuda2023(num_classes: int, image_size: int) -> nn.Module:
    """WRN-34-10 of ResNet's own blocks, with PyTorch's default initial weights."""
    return wide_resnet(num_classes, image_size, basic_block, norm_relu(STEM), nn.Identity())


def wide_resnet(
    num_classes: int,
    image_size: int,
    block: Callable[[int, int, int], nn.Module],
    after_stem: nn.Module,
    after_groups: nn.Module,
) -> nn.Module:
    """Stem, three groups of blocks with strides 1, 2, 2, global average pool, linear layer.

    Args:
        num_classes: Number of logits.
        image_size: Above ``SMALL`` pixels the stem has stride 2, and a max-pool of stride 2 behind it.
        block: ``block(in_channels, out_channels, stride)``.
        after_stem: What follows the stem's convolution.
        after_groups: What follows the last block.
    """
    small = image_size <= SMALL
    stem = nn.Conv2d(3, STEM, kernel_size=3, stride=1 if small else 2, padding=1, bias=False)
    pool = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem, after_stem, pool))
    before = STEM
    for number, width in enumerate(WIDTHS, start=1):
        first = block(before, width, 1 if number == 1 else 2)
        layers[f"group{number}"] = nn.Sequential(first, *(block(width, width, 1) for _ in range(BLOCKS - 1)))
        before = width
    layers["norm"] = after_groups
    layers["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers["fc"] = nn.Linear(before, num_classes)
    return nn.Sequential(layers)


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and ReLU; the shortcut is added as it is.

    Where the shape changes, the shortcut is a 1x1 convolution of what the first ReLU gives.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        active = functional.relu(self.bn1(inputs))
        passed = inputs if self.shortcut is None else self.shortcut(active)
        features: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return features + passed


def norm_relu(channels: int) -> nn.Sequential:
    """Batch norm, and ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
