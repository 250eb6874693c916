"""Adversarial training: the network is trained on what PGD makes of the images against it."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.defences.pgd import PUBLISHED_EPS, Attack, Pgd


@dataclass(frozen=True)
class AdversarialTraining(Defence):
    """Training on attacked images (Madry et al., ICLR 2018).

    Attributes:
        eps: Radius of the ball, for images in [0, 1].
        steps: Of the attack.
        step_size: Of the attack; None means 1.5 * eps / steps.

    Raises:
        UserError: A value is out of range.
    """

    norm: ClassVar[str]

    eps: float
    steps: int = 10
    step_size: float | None = None
    # On a GPU an attack holds a recorded step of its network.
    _attacks: dict[nn.Module, Attack] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _ = self.pgd  # which checks its settings

    @property
    def pgd(self) -> Pgd:
        """The attack."""
        return Pgd(self.norm, self.eps, self.steps, self.step_size)

    def adversary(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch after PGD from a random start, in the precision of the batch."""
        if model not in self._attacks:
            self._attacks[model] = Attack(model, self.pgd, batch.precision)
        noise = batch.draw(lambda count, generator: self.pgd.noise(batch.images, count, generator))
        return replace(batch, images=self._attacks[model](batch.images, batch.labels, noise))

    def describe(self) -> str:
        """Such as "against linf 4/255, 10 steps"."""
        return f"against {self.pgd.name}"


@DEFENCES.register("at-linf", "adversarial training against PGD in an L∞ ball", "Madry et al., ICLR 2018")
@dataclass(frozen=True)
class AtLinf(AdversarialTraining):
    """Adversarial training in the L∞ ball, by default with the radius of Sadasivan et al. (CVPR 2023)."""

    norm: ClassVar[str] = "linf"

    eps: float = PUBLISHED_EPS["linf"]


@DEFENCES.register("at-l2", "adversarial training against PGD in an L2 ball", "Madry et al., ICLR 2018")
@dataclass(frozen=True)
class AtL2(AdversarialTraining):
    """Adversarial training in the L2 ball, by default with the radius of Sadasivan et al. (CVPR 2023)."""

    norm: ClassVar[str] = "l2"

    eps: float = PUBLISHED_EPS["l2"]
