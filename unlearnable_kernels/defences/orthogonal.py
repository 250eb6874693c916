"""Orthogonal regularisation: the filters of each layer are kept near an orthonormal set."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Defence
from unlearnable_kernels.errors import UserError


@DEFENCES.register(
    "orthogonal", "keeps the filters of each layer near an orthonormal set", "Bansal et al., NeurIPS 2018"
)
@dataclass(frozen=True)
class Orthogonal(Defence):
    """The soft orthogonality regulariser: weight · Σ ‖W Wᵀ − I‖² over convolutions and linear layers.

    W has a row for each output; where there are more of these than inputs the smaller WᵀW is taken, since
    W Wᵀ cannot be I. In grouped convolutions each group counts by itself.

    Attributes:
        weight: λ.

    Raises:
        UserError: ``weight`` is out of range.
    """

    weight: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 100:
            raise UserError(f"weight must be above 0 and at most 100, not {self.weight}")

    def regularise(self, model: nn.Module) -> Tensor | None:
        """The term, over those layers that are trained; None without any."""
        terms = [
            _deviation(module.weight, getattr(module, "groups", 1))
            for module in model.modules()
            if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.requires_grad
        ]
        return self.weight * torch.stack(terms).sum() if terms else None


def _deviation(weight: Tensor, groups: int) -> Tensor:
    """‖W Wᵀ − I‖², summed over the groups, float32 scalar."""
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    if rows.shape[1] > rows.shape[2]:
        rows = rows.mT
    gram = rows @ rows.mT
    return (gram - torch.eye(rows.shape[1], device=weight.device)).square().sum()
