"""ImageNet's or one's own weights for all of a network but its classifier, to be fine-tuned."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.networks import classifier, find_network

CACHE = "cache"
PUBLISHED = {
    "resnet18": "torchvision:resnet18",
    "resnet18-cuda2023": "torchvision:resnet18",
    "vgg16": "torchvision:vgg16_bn",
    "vgg16-cuda2023": "torchvision:vgg16_bn",
    "densenet121": "torchvision:densenet121",
    "densenet121-cuda2023": "torchvision:densenet121",
    "deit_tiny": "timm:deit_tiny_patch16_224",
    "deit_small": "timm:deit_small_patch16_224",
    "efficientnet_v2_s": "torchvision:efficientnet_v2_s",
    "mobilenet_v2": "torchvision:mobilenet_v2",
}
"""Whose ImageNet weights our networks take from the cache; those of a library take their own."""

# What files keep the weights under, and what wrappers of a network put before every name.
_PARTS = ("state_dict", "model")
_PREFIXES = ("module.", "model.")


def load_pretrained(model: nn.Module, name: str, source: str) -> list[str]:
    """Load every tensor whose name and shape fit, but for the classifier's, which are always to be learnt.

    Args:
        model: The network ``name`` for any number of classes and any image size; changed in place.
        name: As ``find_network`` takes it.
        source: "cache" for the ImageNet weights that torchvision or timm have, from their cache or else
            downloaded into it; or a .safetensors or .pth file that holds a network's state.

    Returns:
        The names, in ``model.state_dict()``, of the tensors that were left as they are.

    Raises:
        UserError: There are no such weights, the file is damaged, or fewer than half of the tensors fit.
    """
    stored = _published(name) if source == CACHE else _read(Path(source))
    own = model.state_dict()
    last = classifier(model)
    (head,) = (f"{path}." for path, module in model.named_modules() if module is last)
    fitting = {
        key: stored[key]
        for key, tensor in own.items()
        if not key.startswith(head) and key in stored and stored[key].shape == tensor.shape
    }
    if 2 * len(fitting) < len(own):
        where = f"the cached weights of {PUBLISHED.get(name, name)}" if source == CACHE else source
        raise UserError(f"{where}: only {len(fitting)} of {len(own)} tensors fit the network {name}")
    model.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name, on the CPU, without what wrappers put before the names."""
    if not path.is_file():
        raise UserError(f"weights must be {CACHE!r} or a .safetensors or .pth file, not {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            stored: Any = extra_module("safetensors.torch").load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's own line tells people to load it unsafely
            reason = "it is damaged, or holds more than tensors"
        raise UserError(f"{path} cannot be read as a network's weights ({reason})") from error
    for part in _PARTS:
        if isinstance(stored, dict) and isinstance(stored.get(part), dict):
            stored = stored[part]
    if not isinstance(stored, dict):
        raise UserError(f"{path} must hold tensors by name, not a {type(stored).__name__}")
    tensors = {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}
    for key, value in tensors.items():
        if value.layout != torch.strided or value.is_meta or value.is_complex():
            raise UserError(
                f"{path} cannot be a network's weights: {key} must be a dense tensor of real numbers"
            )
    for prefix in _PREFIXES:
        if any(key.startswith(prefix) for key in tensors):
            tensors = {k.removeprefix(prefix): value for k, value in tensors.items() if k.startswith(prefix)}
    return tensors


def _published(name: str) -> Mapping[str, Tensor]:
    """The ImageNet weights of a network."""
    library, _, own_name = PUBLISHED.get(name, name).partition(":")
    if not own_name:
        raise UserError(f"there are no ImageNet weights of {name}: give a file of weights instead of {CACHE}")
    find_network(f"{library}:{own_name}")
    try:
        if library == "torchvision":
            weights = extra_module("torchvision.models").get_model_weights(own_name).DEFAULT
            stored: Mapping[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
        else:
            stored = extra_module("timm").create_model(own_name, pretrained=True).state_dict()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(f"the weights of {library}:{own_name} cannot be loaded ({reason})") from error
    return stored
