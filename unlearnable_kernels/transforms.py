"""Protection on the fly, as a transform of (images, labels), without a second copy of the dataset."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.protect.keys import Key, Secret, Seed
from unlearnable_kernels.protect.methods import classwise_conv as method
from unlearnable_kernels.protect.methods.filters import DEFAULTS, IRP, SMALL_SIDE, SQUARE, class_filters


class ClasswiseConv:
    """Filters images with the private filter of their class, CUDA (Sadasivan et al., CVPR 2023).

    The images get the bytes that ``protect`` writes for them with ``--method classwise-conv``. It is called
    with images and labels, and returns both, as transforms of ``torchvision.transforms.v2`` do; it comes
    before anything that changes pixels. It can be pickled; it then holds the filters, which are as secret as
    the key, but not the key.

    Every image is protected, or left as it is where its label is -1. A share of each class cannot be chosen
    here, since that takes the names of all images: use ``protect --fraction``.

    Example::

        protect = ClasswiseConv(read_key_file("my.key"), "cifar10", dataset.classes)
        for images, labels in loader:  # images uint8 [N, 3, H, W], on any device
            images, labels = protect(images, labels)

    Args:
        secret: The key, or a seed.
        name: Name of the dataset, part of the filters' derivation: "dataset_name" in the manifest.
        classes: Their names, in the order of the labels; or how many there are, for the filters that older
            sets have by their place.
        size: Pixels of the shorter side of the images, by which ``protect`` chooses kernel_size and strength
            where the name is not that of a known dataset.
        kernel_size: Side of the filters, odd; by default as for ``protect``.
        strength: p_b of the filters; likewise.
        padding: What lies beyond the border; by default reflect with a key and zeros with a seed.
        filters: Their kind, as for ``protect``; but not irp, which is fitted to a dataset's images.
        centred: Whether the 1 of every filter is in its middle.

    Attributes:
        filters: float32 [K, k, k].
        padding: One of "zeros", "reflect", "replicate", "circular".

    Raises:
        UserError: A setting is out of range, or one cannot be told without ``size``.
    """

    def __init__(
        self,
        secret: Secret,
        name: str,
        classes: int | Sequence[str],
        *,
        size: int | None = None,
        kernel_size: int | None = None,
        strength: float | None = None,
        padding: str | None = None,
        filters: str = SQUARE,
        centred: bool = False,
    ) -> None:
        if not isinstance(secret, Key | Seed):
            raise UserError(f"secret must be a Key or a Seed, such as read_key_file gives, not {secret!r}")
        if isinstance(classes, str):
            raise UserError(f"classes must be their number or a list of their names, not {classes!r}")
        count = classes if isinstance(classes, int) else len(classes)
        if size is None and None in (kernel_size, strength) and name not in DEFAULTS:
            raise UserError(
                f"size must be given, the images' shorter side, or kernel_size and strength: {name!r} is not "
                f"one of {', '.join(DEFAULTS)}"
            )
        given = method.ClasswiseConv(kernel_size, strength, padding, filters)
        given.check()
        if filters == IRP:
            raise UserError("irp filters are fitted to the images of a dataset: use protect")
        own = given.with_defaults(secret, name, count, size or 0)
        assert own.kernel_size is not None
        assert own.strength is not None
        assert own.padding is not None
        self._side = size if name not in DEFAULTS and None in (kernel_size, strength) else None
        derived = classes if isinstance(secret, Key) else count  # a seed's filters go by place alone
        self.filters = class_filters(secret, name, derived, own.kernel_size, own.strength, filters, centred)
        self.padding = own.padding

    def __call__(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """Protect a batch or one image.

        Args:
            images: uint8 [N, C, H, W] or [C, H, W], on any device; or a PIL image, RGB or L.
            labels: int64 [N], or the label of the one image.

        Returns:
            The protected images, as they came (a PIL image as RGB), and ``labels`` itself.

        Raises:
            UserError: The images are something else.
            RuntimeError: A label is out of range, or is missing; see ``classwise_conv``.
        """
        if isinstance(images, Tensor):
            if images.dtype != torch.uint8 or images.dim() not in (3, 4):
                raise UserError(
                    f"images must be uint8 [N, C, H, W] or [C, H, W], not {images.dtype} "
                    f"{list(images.shape)}: protect them before they become floats"
                )
            return self._filter(images, labels), labels
        if getattr(images, "mode", None) not in ("RGB", "L"):
            kind = getattr(images, "mode", type(images).__name__)
            raise UserError(f"images must be tensors or PIL images of mode RGB or L, not {kind}")
        pixels = torch.from_numpy(np.array(images.convert("RGB"))).permute(2, 0, 1)
        result = self._filter(pixels, labels).permute(1, 2, 0).contiguous().numpy()
        return extra_module("PIL.Image").fromarray(result), labels

    def collate(self, samples: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Make a batch of samples and protect it: ``DataLoader(..., collate_fn=transform.collate)``.

        Args:
            samples: (uint8 tensor [C, H, W], label) for each image, all of one shape.
        """
        images, labels = default_collate(samples)
        return self(images, labels)

    def __repr__(self) -> str:
        """Shows no filter."""
        count, k, _ = self.filters.shape
        return f"{type(self).__name__}(classes={count}, kernel_size={k}, padding={self.padding!r})"

    def _filter(self, images: Tensor, labels: Any) -> Tensor:
        if images.dim() == 3:
            return self._filter(images[None], [labels])[0]
        side = min(images.shape[2:])
        if self._side is not None and (side < SMALL_SIDE) != (self._side < SMALL_SIDE):
            warnings.warn(
                f"images have the shorter side {side}, but the filters were chosen for {self._side}: "
                "`protect` takes others for a dataset of such images",
                stacklevel=3,
            )
        labels = torch.as_tensor(labels, device=images.device)
        if labels.is_floating_point():
            raise UserError(f"labels must be whole numbers, not {labels.dtype}")
        labels = labels.long()
        return classwise_conv(images, labels, self.filters.to(images.device), self.padding)
