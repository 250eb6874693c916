"""The networks that can be trained, by name (docs/networks.md).

Every network takes float32 images [B, 3, H, W] in [0, 1] and returns logits [B, num_classes]. Inputs are
not normalised, as in the training recipe of Sadasivan et al. (CVPR 2023); ``normalise.normalised`` changes
that.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.registry import Registry

Builder = Callable[[int, int], nn.Module]

NETWORKS: Registry[Builder] = Registry("network", __name__)
"""``build(num_classes, image_size)`` by name; image_size is the height and width of the images in pixels."""


def find_network(name: str) -> Builder:
    """The function that builds the network ``name``.

    Args:
        name: One of ``NETWORKS``, or "timm:NAME" or "torchvision:NAME" with that library's own name.

    Returns:
        ``build(num_classes, image_size)``.

    Raises:
        UserError: There is no network of that name, or its library cannot be imported.
    """
    library, colon, own_name = name.partition(":")
    if not colon:
        return NETWORKS[name]
    from unlearnable_kernels.networks.libraries import library_network

    return library_network(library, own_name)


def create_network(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Build the network ``name`` with fresh weights, drawn from torch's global generator.

    One black image goes through it, so that a size that it cannot take is found before training.

    Args:
        name: As ``find_network`` takes it.
        num_classes: Number of logits.
        image_size: Height and width of the images in pixels, from which a network may choose its stem.

    Returns:
        The network, in training mode.

    Raises:
        UserError: There is no network of that name, or none for that size.
    """
    build = find_network(name)
    images = f"{image_size}x{image_size} images"
    try:
        model = build(num_classes, image_size).eval()
        with torch.no_grad():
            shape = tuple(model(torch.zeros(1, 3, image_size, image_size)).shape)
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(f"network {name} cannot take {images} ({reason})") from error
    if shape != (1, num_classes):
        raise UserError(f"network {name} must return logits (1, {num_classes}) for one image, not {shape}")
    return model.train()


def classifier(model: nn.Module) -> nn.Linear:
    """The last linear layer of ``model``, in the order of ``model.modules()``: the one that gives the logits.

    Raises:
        UserError: There is none.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise UserError(f"{type(model).__name__} has no linear layer, whose inputs would be its features")
    return layers[-1]


def penultimate_features(model: nn.Module, images: Tensor) -> Tensor:
    """What the last linear layer of ``model`` is given, differentiable, in the mode the model is in.

    Args:
        model: A network with a linear layer at its end.
        images: float32 [B, 3, H, W] in [0, 1].

    Returns:
        Features [B, D].

    Raises:
        UserError: The network has no linear layer.
    """
    seen: list[Tensor] = []
    handle = classifier(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(images)
    finally:
        handle.remove()
    return seen[0]
