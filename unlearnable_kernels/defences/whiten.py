"""Whitening of colours: every image gets the same mean colour and the same coupling of its channels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.image_changes import MeanMatch
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module

# For colours from 8 bits: one grey level, beside which nothing can be made out, in the units of the space.
SPACES = {"yuv": 1 / 255, "lab": 100 / 255}


@DEFENCES.register("whiten", "each image's colours with one mean and covariance", "DUNE, ICML 2026")
@dataclass(frozen=True)
class Whiten(MeanMatch):
    """Each image's colours, whitened by their own mean and covariance, then given the training set's average.

    With C an image's 3×3 covariance over its pixels, M the mean of these, m the image's mean colour and n the
    mean of these: x becomes M^½ (C + e²I)^−½ (x − m) + n, e being one grey level.

    Attributes:
        space: Where colours are measured: "yuv" (BT.601, on stored values), or "lab" (CIELAB, sRGB, D65).

    Raises:
        UserError: There is no such space.
    """

    statistics: ClassVar[tuple[str, ...]] = ("mean", "covariance")

    space: str = "yuv"

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise UserError(f"space must be one of {', '.join(SPACES)}, not {self.space!r}")

    def measure(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean colour, float32 [n, 3], and covariance, [n, 3, 3]."""
        return moments(self._to_space(images))

    def change(self, images: Tensor) -> Tensor:
        """The images after that, rounded and clipped to 8 bits."""
        colours = self._to_space(images)
        mean, covariance = moments(colours)
        noise = SPACES[self.space] ** 2 * torch.eye(3, dtype=torch.float64)
        whitening = root(covariance.double() + noise, -0.5)
        matrix = (root(self._means["covariance"], 0.5) @ whitening).float()
        return self._from_space(
            (colours - mean[:, None]) @ matrix.mT + self._means["mean"].float(), images.shape
        )

    def _to_space(self, images: Tensor) -> Tensor:
        """float32 [n, H * W, 3] in the space, from uint8 [n, H, W, 3]."""
        convert, code = self._conversion("RGB", self.space)
        rows = (images.float() / 255).flatten(0, 1).numpy()
        return torch.from_numpy(convert(rows, code)).view(len(images), -1, 3)

    def _from_space(self, colours: Tensor, shape: torch.Size) -> Tensor:
        """uint8 [n, H, W, 3] from float32 [n, H * W, 3] in the space."""
        convert, code = self._conversion(self.space, "RGB")
        rows = np.ascontiguousarray(colours.reshape(-1, shape[2], 3).numpy())
        return (torch.from_numpy(convert(rows, code)) * 255).round().clamp(0, 255).to(torch.uint8).view(shape)

    def _conversion(self, start: str, end: str) -> tuple[Any, int]:
        """OpenCV's function, and its code for a conversion between "RGB" and the space."""
        cv2 = extra_module("cv2")
        names = {"yuv": "YUV", "lab": "Lab"}
        code: int = getattr(cv2, f"COLOR_{names.get(start, start)}2{names.get(end, end)}")
        return cv2.cvtColor, code


def moments(colours: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [n, 3] and covariance [n, 3, 3] of float32 [n, P, 3]."""
    mean = colours.mean(1)
    centred = colours - mean[:, None]
    return mean, centred.mT @ centred / colours.shape[1]


def root(matrices: Tensor, power: float) -> Tensor:
    """A power of symmetric positive semi-definite matrices, float64 [..., 3, 3]."""
    values, vectors = torch.linalg.eigh(matrices)
    result: Tensor = vectors * values.clamp(min=0)[..., None, :] ** power @ vectors.mT
    return result
