"""Vision transformers as DeiT has them: no distillation, class token, learnt positions."""

from torch import nn

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.networks import NETWORKS

PAPER = "Touvron et al., ICML 2021"


@NETWORKS.register("deit_tiny", "DeiT-Ti, with patches of 4 px up to 32 px, 8 up to 64, then 16", PAPER)
def deit_tiny(num_classes: int, image_size: int) -> nn.Module:
    """timm's DeiT-Ti."""
    return deit("tiny", num_classes, image_size)


@NETWORKS.register("deit_small", "DeiT-S, with patches of 4 px up to 32 px, 8 up to 64, then 16", PAPER)
def deit_small(num_classes: int, image_size: int) -> nn.Module:
    """timm's DeiT-S."""
    return deit("small", num_classes, image_size)


def deit(variant: str, num_classes: int, image_size: int) -> nn.Module:
    """timm's DeiT for a size of images, which its patches must divide.

    Raises:
        UserError: They do not.
    """
    patch = 4 if image_size <= 32 else 8 if image_size <= 64 else 16
    if image_size % patch != 0:
        raise UserError(f"deit_{variant} needs images of a multiple of {patch} pixels, not {image_size}")
    model: nn.Module = extra_module("timm").create_model(
        f"deit_{variant}_patch16_224", num_classes=num_classes, img_size=image_size, patch_size=patch
    )
    return model
