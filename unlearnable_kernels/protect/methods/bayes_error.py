"""The second method: pixels that raise the Bayes error of the dataset within a budget (docs/maths.md)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.methods.ascent import Ascent, Target
from unlearnable_kernels.protect.methods.bayes_ascent import BayesAscent
from unlearnable_kernels.protect.methods.method import METHODS, Workspace
from unlearnable_kernels.protect.methods.optimised_images import OptimisedImages


@METHODS.register(
    "bayes-error",
    "optimises pixels within a budget to raise the Bayes error of the dataset; takes long",
    "after Zhang et al., AAAI 2026",
)
@dataclass(frozen=True)
class BayesError(OptimisedImages):
    """Pixels moved within a budget, up the Bayes error that networks' features show (docs/maths.md).

    Attributes:
        bandwidth: σ of the kernel on features whose largest value is 1, or "median" for their median
            distance.
        differentiate_divisor: See ``Loop``.

    Memory: that of ``OptimisedImages`` and of ``ops.bayes_error``.
    """

    bandwidth: float | str = 0.3
    differentiate_divisor: bool = False

    purpose: ClassVar[str] = "bayes-error"

    def check(self) -> None:
        super().check()
        sigma = self.bandwidth
        if sigma != "median" and (isinstance(sigma, str) or not (math.isfinite(sigma) and sigma > 0)):
            raise UserError(f"bandwidth must be a finite number above 0, or median, not {sigma}")

    def _own_parameters(self) -> dict[str, Any]:
        return {"bandwidth": self.bandwidth}

    def _ascent(self, target: Target, seed_for: Callable[..., int], workspace: Workspace) -> Ascent:
        return BayesAscent(
            self.bandwidth, target, self.budget, self.steps, self.network, self.loop, seed_for, workspace
        )

    @classmethod
    def heading(cls, parameters: dict[str, Any]) -> str:
        return (
            f"{cls.name}, {parameters['norm']} {parameters['eps']:.4g}, "
            f"bandwidth {parameters['bandwidth']}, {parameters['steps']} steps"
        )


@METHODS.register("beo-aaai2026", "bayes-error by its authors' own loop", "Zhang et al., AAAI 2026")
@dataclass(frozen=True)
class BeoAaai2026(BayesError):
    """The authors' outer loop: all settings as in their script, but for the number of steps.

    A step of AdamW moves a pixel by a quarter of a grey level, so that fewer than 32 cannot use a budget of 8
    levels, whatever their gradients, and the two of the published artefact change one level at most. The
    default is 100.
    """

    steps: int = 100
    embeddings: int = 1
    warm_start: bool = False
    first_epochs: int = 30
    inner_steps: int = 1
    rule: str = "adamw"
    augment: bool = False
    float_images: bool = True
    ascend_all: bool = True
    differentiate_divisor: bool = True
