"""The networks that can be trained, by name.

Every network takes float32 images [B, 3, H, W] in [0, 1] and returns logits [B, num_classes]. Inputs are
not normalised, as in the training recipe of Sadasivan et al. (CVPR 2023).
"""

from collections.abc import Callable

from torch import Tensor, nn

from unlearnable_kernels.registry import Registry

Builder = Callable[[int, int], nn.Module]

NETWORKS: Registry[Builder] = Registry("network", __name__)
"""``build(num_classes, image_size)`` by name; image_size is the height and width of the images in pixels."""


def create_network(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Build the network ``name`` with fresh weights, drawn from torch's global generator.

    Args:
        name: One of ``NETWORKS``.
        num_classes: Number of logits.
        image_size: Height and width of the images in pixels, from which a network may choose its stem.

    Raises:
        UserError: There is no network of that name.
    """
    return NETWORKS[name](num_classes, image_size)


def penultimate_features(model: nn.Module, images: Tensor) -> Tensor:
    """What the last linear layer of ``model`` is given, differentiable, in the mode the model is in.

    Args:
        model: A network with a linear layer at its end.
        images: float32 [B, 3, H, W] in [0, 1].

    Returns:
        Features [B, D].
    """
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(images)
    finally:
        handle.remove()
    return seen[0]
