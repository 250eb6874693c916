"""The image operations of AutoAugment and TrivialAugment for a whole batch, another one for each image.

Torchvision has them for one image, or one magnitude for all, and draws from the global generator; here
every image has an operation and a magnitude of its own, without a loop and without waiting for the device.
"""

import torch
from torch import Tensor
from torch.nn import functional

from unlearnable_kernels.ops.classwise_conv import classwise_conv

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Invert",
)
"""By the names that torchvision gives them; an operation's number is its place."""

SIGNED = OPERATIONS[1:10]
"""Those whose magnitude is as often negative."""

_LUMA = (0.2989, 0.587, 0.114)


def operate(images: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Each image after its operation.

    Args:
        images: float32 [B, 3, H, W] in [0, 1]; what depends on levels rounds to 255ths.
        operations: int64 [B], indices into ``OPERATIONS``.
        magnitudes: float32 [B]: the slope of a shear; pixels, of which the whole ones count; degrees; what
            is added to the factor 1 of brightness, colour, contrast and sharpness; bits that are kept; the
            level of 255 from which solarize inverts.

    Returns:
        float32 [B, 3, H, W] in [0, 1]. Pixels from beyond the border are black.
    """
    images = images.clamp(0, 1)
    number, magnitude = operations[:, None, None, None], magnitudes[:, None, None, None]
    levels = (images * 255).round()
    unit = 2 ** (8 - magnitude)  # of a posterized image's levels
    results = {
        "ShearX ShearY TranslateX TranslateY Rotate": _moved(images, operations, magnitudes),
        "Brightness Color Contrast Sharpness": _blended(images, number, magnitude),
        "Posterize": (levels / unit).floor() * unit / 255,
        "Solarize": torch.where(levels >= magnitude, 1 - images, images),
        "AutoContrast": _stretched(images),
        "Equalize": _equalized(levels),
        "Invert": 1 - images,
    }
    for names, result in results.items():
        images = torch.where(_is_any(number, names), result, images)
    return images


def _is_any(number: Tensor, names: str) -> Tensor:
    """Where ``number`` is that of one of the named operations."""
    found = torch.zeros_like(number, dtype=torch.bool)
    for name in names.split():
        found |= number == OPERATIONS.index(name)
    return found


def _moved(images: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Sheared about the upper left corner, moved or turned about the middle, to the nearest pixel."""
    height, width = images.shape[2:]

    def only(name: str) -> Tensor:
        """The magnitude of images with this operation, 0 for others; [B, 1, 1]."""
        return torch.where(operations == OPERATIONS.index(name), magnitudes, 0)[:, None, None]

    x = torch.arange(width, device=images.device) + 0.5
    y = (torch.arange(height, device=images.device) + 0.5)[:, None]
    angle = only("Rotate").deg2rad()
    cosine, sine = angle.cos(), angle.sin()
    from_x = cosine * (x - width / 2) - sine * (y - height / 2) + width / 2
    from_y = sine * (x - width / 2) + cosine * (y - height / 2) + height / 2
    from_x = from_x + only("ShearX") * y - only("TranslateX").trunc()
    from_y = from_y + only("ShearY") * x - only("TranslateY").trunc()
    grid = torch.stack([from_x * (2 / width) - 1, from_y * (2 / height) - 1], dim=3)
    return functional.grid_sample(images, grid, mode="nearest", align_corners=False)


def _blended(images: Tensor, number: Tensor, magnitude: Tensor) -> Tensor:
    """A black, grey, even or blurred image, and 1 + magnitude times what sets the image apart from it."""
    grey = (images * images.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    plain = torch.zeros_like(images)
    plain = torch.where(_is_any(number, "Color"), grey, plain)
    plain = torch.where(_is_any(number, "Contrast"), grey.mean((2, 3), keepdim=True), plain)
    plain = torch.where(_is_any(number, "Sharpness"), _blurred(images), plain)
    return plain.lerp(images, 1 + magnitude).clamp_(0, 1)


def _blurred(images: Tensor) -> Tensor:
    """The mean with the eight neighbours, the pixel itself five times; the border stays."""
    filters = torch.full((1, 3, 3), 1 / 13, device=images.device)
    filters[0, 1, 1] = 5 / 13
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    blurred = images.clone()
    blurred[:, :, 1:-1, 1:-1] = classwise_conv(images, labels, filters, "zeros", "none")[:, :, 1:-1, 1:-1]
    return blurred


def _stretched(images: Tensor) -> Tensor:
    """Each channel brought to [0, 1] by its minimum and maximum; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / torch.where(high > low, high - low, 1), images)


def _equalized(levels: Tensor) -> Tensor:
    """Each channel with its histogram of 256 levels made even, as Pillow does it."""
    flat = levels.long().flatten(2)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=levels.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    last = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - last) // 255
    below = counts.cumsum(2) - counts
    table = (below + step // 2) // step.clamp(min=1)
    evened = table.clamp(max=255).gather(2, flat).view(levels.shape)
    return torch.where(step[..., None] > 0, evened, levels) / 255
