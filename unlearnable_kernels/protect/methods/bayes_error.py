"""The second method: pixels that raise the Bayes error of the dataset within a budget (docs/maths.md)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.methods.ascent import Ascent, Target
from unlearnable_kernels.protect.methods.bayes_ascent import LARGEST, SCALES, BayesAscent
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
        bandwidth: σ of the kernel on scaled features, or "median" for their median distance.
        scale: What features are divided by, one of ``SCALES``.
        differentiate_divisor: See ``Loop``.

    Memory: that of ``OptimisedImages`` and of ``ops.bayes_error``.
    """

    bandwidth: float | str = 0.3
    scale: str = LARGEST
    differentiate_divisor: bool = False

    purpose: ClassVar[str] = "bayes-error"

    def check(self) -> None:
        super().check()
        sigma = self.bandwidth
        if sigma != "median" and (isinstance(sigma, str) or not (math.isfinite(sigma) and sigma > 0)):
            raise UserError(f"bandwidth must be a finite number above 0, or median, not {sigma}")
        if self.scale not in SCALES:
            raise UserError(f"scale must be one of {', '.join(SCALES)}, not {self.scale!r}")

    def _own_parameters(self) -> dict[str, Any]:
        # Named only if it is not as usual, so that manifests of before stay as they are.
        return {"bandwidth": self.bandwidth} | ({} if self.scale == LARGEST else {"scale": self.scale})

    def _ascent(self, target: Target, seed_for: Callable[..., int], workspace: Workspace) -> Ascent:
        return BayesAscent(
            self.bandwidth,
            self.scale,
            target,
            self.budget,
            self.steps,
            self.network,
            self.loop,
            seed_for,
            workspace,
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
