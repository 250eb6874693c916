"""AutoAugment: two image operations for every image, from a policy that was learnt."""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.defences.image_operations import OPERATIONS, SIGNED, operate
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module

POLICIES = ("cifar10", "imagenet", "svhn")

_BINS = 10  # of each magnitude


@DEFENCES.register("autoaugment", "applies AutoAugment's learnt operations", "Cubuk et al., CVPR 2019")
@dataclass(frozen=True)
class AutoAugment(Defence):
    """One of a policy's 25 pairs of operations for every image, each with its probability and magnitude.

    Attributes:
        policy: "cifar10", "imagenet" or "svhn".

    Raises:
        UserError: There is no such policy.
    """

    policy: str = "cifar10"

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UserError(f"policy must be {', '.join(POLICIES)}, not {self.policy!r}")

    def augment(self, batch: Batch) -> Batch:
        """The batch after both operations."""
        images, device = batch.images, batch.images.device
        operations, chances, magnitudes = (
            table.to(device) for table in _tables(self.policy, images.shape[3], images.shape[2])
        )
        signed = torch.tensor([name in SIGNED for name in OPERATIONS], device=device)

        def pairs(count: int, generator: torch.Generator) -> Tensor:
            return torch.randint(len(operations), (count,), generator=generator, device=device)

        def draws(count: int, generator: torch.Generator) -> Tensor:
            return torch.rand(count, 2, 2, generator=generator, device=device)

        pair = batch.draw(pairs)
        happens, turns = batch.draw(draws).unbind(2)
        chosen = torch.where(happens < chances[pair], operations[pair], OPERATIONS.index("Identity"))
        sign = torch.where(signed[chosen] & (turns < 0.5), -1, 1)
        for number in range(2):
            images = operate(images, chosen[:, number], (sign * magnitudes[pair])[:, number])
        return replace(batch, images=images)


@cache
def _tables(policy: str, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Operations (int64), probabilities and magnitudes (float32) of a policy's pairs, each [25, 2]."""
    steps = torch.arange(_BINS) / (_BINS - 1)
    space = {
        **dict.fromkeys(("ShearX", "ShearY"), steps * 0.3),
        "TranslateX": steps * 150 / 331 * width,
        "TranslateY": steps * 150 / 331 * height,
        "Rotate": steps * 30,
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), steps * 0.9),
        "Posterize": 8 - (steps * 4).round(),
        "Solarize": 255 - steps * 255,
    }
    transforms = extra_module("torchvision.transforms")
    pairs = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy)).policies

    def magnitude(name: str, number: int | None) -> float:
        return 0.0 if number is None else float(space[name][number])

    return (
        torch.tensor([[OPERATIONS.index(name) for name, _, _ in pair] for pair in pairs]),
        torch.tensor([[chance for _, chance, _ in pair] for pair in pairs]),
        torch.tensor([[magnitude(name, number) for name, _, number in pair] for pair in pairs]),
    )
