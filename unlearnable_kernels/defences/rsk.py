"""Random sharpening kernels (RSK): in training every image is sharpened with a random cross."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_conv import PADDINGS, classwise_conv


@DEFENCES.register(
    "rsk", "sharpens every image with a random cross", "Kim and Sandoval-Segura, arXiv 2411.01742, 2024"
)
@dataclass(frozen=True)
class Rsk(Defence):
    """A 3×3 cross for every image: centre c ~ N(centre, spread), each neighbour −n, n ~ N((c − 1)/4, spread).

    Attributes:
        centre: Mean of the centre.
        spread: Standard deviation of the centre, and of each neighbour.
        padding: "valid", as published, makes images two pixels smaller, which not every network takes; the
            others keep the size.

    Raises:
        UserError: A value is out of range.
    """

    centre: float = 2.5
    spread: float = 0.1
    padding: str = "reflect"

    def __post_init__(self) -> None:
        if not 1 <= self.centre <= 10:
            raise UserError(f"centre must be at least 1 and at most 10, not {self.centre}")
        if not 0 <= self.spread <= 1:
            raise UserError(f"spread must be at least 0 and at most 1, not {self.spread}")
        if self.padding not in ("valid", *PADDINGS):
            raise UserError(f"padding must be valid, {', '.join(PADDINGS)}, not {self.padding!r}")

    def augment(self, batch: Batch) -> Batch:
        """The sharpened batch, clamped to [0, 1]."""
        images = batch.images
        each = torch.arange(len(images), device=images.device)
        padding = "zeros" if self.padding == "valid" else self.padding
        sharp = classwise_conv(images, each, batch.draw(self.filters), padding, "none").clamp_(0, 1)
        if self.padding == "valid":
            sharp = sharp[:, :, 1:-1, 1:-1].contiguous(memory_format=torch.channels_last)
        return replace(batch, images=sharp)

    def filters(self, count: int, generator: torch.Generator) -> Tensor:
        """Random crosses, float32 [count, 3, 3]."""
        normal = torch.randn(count, 5, generator=generator, device=generator.device) * self.spread
        centre = self.centre + normal[:, :1]
        filters = normal.new_zeros(count, 9)
        filters[:, 4:5] = centre
        filters[:, 1::2] = -((centre - 1) / 4 + normal[:, 1:])
        return filters.view(count, 3, 3)
