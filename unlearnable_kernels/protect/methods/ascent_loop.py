"""What an outer loop of the Bayes-error method does, and one of the rules by which it moves pixels."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unlearnable_kernels.errors import UserError

RULES = ("pgd", "adamw")
# AdamW as the authors use it: its defaults, but for the rate.
ADAM_LR, ADAM_BETAS, ADAM_EPS, ADAM_DECAY = 1e-3, (0.9, 0.999), 1e-8, 0.01


@dataclass(frozen=True)
class Loop:
    """What distinguishes one outer loop from another.

    Attributes:
        embeddings: How many are ascended together.
        warm_start: Whether they, and a further one that is never ascended and only measures, are trained on
            from step to step for ``epochs`` at ``warm_lr``. Otherwise they are trained afresh for
            ``first_epochs`` at ``lr`` in every step, and measure before they are ascended.
        first_epochs: Epochs of a fresh embedding.
        epochs: Epochs of one that is trained on.
        inner_steps: Ascent steps in each outer step.
        rule: "pgd", or "adamw" on the gradient of the summed error.
        lr: Learning rate at the start of a fresh embedding's training.
        warm_lr: That of one that is trained on.
        augment: Whether embeddings learn from random crops and flips in fresh order. Otherwise images come as
            they are, in one order for all epochs.
        float_images: Whether embeddings see the images as they are moved, before they are rounded to 8 bits.
        ascend_all: Whether all images are moved, and those to protect taken from them at the end.
        differentiate_divisor: Whether the gradient goes through the division of features, too.

    Raises:
        UserError: A value is out of range.
    """

    embeddings: int
    warm_start: bool
    first_epochs: int
    epochs: int
    inner_steps: int
    rule: str
    lr: float = 0.1
    warm_lr: float = 0.02
    augment: bool = True
    float_images: bool = False
    ascend_all: bool = False
    differentiate_divisor: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UserError(f"rule must be one of {', '.join(RULES)}, not {self.rule!r}")
        for name in ("embeddings", "first_epochs", "epochs", "inner_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.float_images and self.augment:
            raise UserError("float_images needs augment=false: only 8-bit images are cropped and flipped")

    @property
    def reach(self) -> float:
        """How far the steps of "pgd" lead in all, over eps; a single one crosses the whole budget."""
        return 2.0 if self.inner_steps == 1 else 1.5

    def epochs_in(self, steps: int) -> int:
        """Epochs of all embeddings together, of the one that only measures too, in 1 outer step or more."""
        later = self.epochs if self.warm_start else self.first_epochs
        return (self.embeddings + self.warm_start) * (self.first_epochs + (steps - 1) * later)

    def as_dict(self) -> dict[str, Any]:
        """As JSON. Details left as they were before they could be set are left out, as they were then."""
        details = {"augment", "float_images", "ascend_all", "differentiate_divisor"}
        return {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if each.name not in details or getattr(self, each.name) != each.default
        }


def adamw_ascent(x: Tensor, gradient: Tensor, moments: list[Tensor], step: int) -> Tensor:
    """One step of AdamW up the gradient.

    Args:
        x: float32, of any shape.
        gradient: float32, of the shape of ``x``.
        moments: Of first and second order, each like ``x``; changed in place.
        step: Which step this is, from 1.

    Returns:
        The next x.
    """
    first, second = moments
    first.lerp_(gradient, 1 - ADAM_BETAS[0])
    second.mul_(ADAM_BETAS[1]).addcmul_(gradient, gradient, value=1 - ADAM_BETAS[1])
    mean = first / (1 - ADAM_BETAS[0] ** step)
    spread = (second / (1 - ADAM_BETAS[1] ** step)).sqrt_().add_(ADAM_EPS)
    return x * (1 - ADAM_LR * ADAM_DECAY) + ADAM_LR * mean / spread
