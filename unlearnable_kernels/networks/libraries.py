"""Any network of timm or torchvision by that library's own name, as "timm:resnet26"."""

from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from torch import nn

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.networks import Builder


def library_network(library: str, name: str) -> Builder:
    """The function that builds a network of a library, with fresh weights.

    Args:
        library: "timm" or "torchvision".
        name: What the library calls the network; timm's may end in ".TAG", which names pretrained weights.

    Raises:
        UserError: There is no such library or network, or the library is not installed.
    """
    if library == "timm":
        return _timm_network(name)
    if library == "torchvision":
        return _torchvision_network(name)
    raise UserError(f"unknown network {library}:{name}: before the colon must be timm or torchvision")


def _timm_network(name: str) -> Builder:
    timm = extra_module("timm")
    _require(name, timm.list_pretrained() if "." in name else timm.list_models(), "timm")

    def build(num_classes: int, image_size: int) -> nn.Module:
        try:
            model: nn.Module = timm.create_model(name, num_classes=num_classes, img_size=image_size)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            model = timm.create_model(name, num_classes=num_classes)
        return model

    return build


def _torchvision_network(name: str) -> Builder:
    models = extra_module("torchvision.models")
    _require(name, models.list_models(module=models), "torchvision")

    def build(num_classes: int, image_size: int) -> nn.Module:
        options: dict[str, Any] = {}
        if name.startswith("vit_"):
            options = {"image_size": image_size}
        elif name.startswith("maxvit"):
            options = {"input_size": (image_size, image_size)}
        elif name in ("googlenet", "inception_v3"):
            options = {"aux_logits": False, "init_weights": True}
        model: nn.Module = models.get_model(name, num_classes=num_classes, **options)
        return model

    return build


def _require(name: str, names: Collection[str], library: str) -> None:
    if name not in names:
        close = get_close_matches(name, names)
        advice = f"did you mean {' or '.join(close)}?" if close else f"see {library}'s list of models"
        raise UserError(f"unknown network {library}:{name}: {advice}")
