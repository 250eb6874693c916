"""How networks that were made for photographs of 224 px take small images (docs/networks.md).

Up to ``SMALL`` pixels the first layers of such a network do not shrink the image; above, it is as published.
"""

from torch import nn

SMALL = 64


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """The stem for small images: 3x3, stride 1, no bias, weights as He et al. (ICCV 2015) draw them."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def keep_size(conv: nn.Conv2d) -> None:
    """Set the stride of a convolution to 1."""
    conv.stride = (1, 1)
