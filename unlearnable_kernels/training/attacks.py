"""The attacks that a network can be tested with: PGD, and torchattacks' AutoAttack."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearnable_kernels.defences.pgd import PUBLISHED_EPS, Attack, Pgd, frozen, written
from unlearnable_kernels.device import autocast
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.parsing import parse_number
from unlearnable_kernels.training.reproducible import seeded

AUTO = "autoattack"
ATTACKS = (*PUBLISHED_EPS, *(f"{AUTO}-{norm}" for norm in PUBLISHED_EPS))

Against = Callable[[Tensor, Tensor], Tensor]
"""Attacked copies of images float32 [B, C, H, W] in [0, 1], given labels int64 [B]."""

_TARGETS = 9  # the likeliest other classes, in the published attack
_FEWEST = 4  # classes that the targeted loss compares


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack (Croce and Hein, ICML 2020) in torchattacks' standard version.

    APGD, targeted APGD, targeted FAB and Square, each on the images that the ones before it left recognised.
    torchattacks takes 10 steps of the first three where the published attack takes 100, so its accuracies may
    be too high to be compared with published ones.

    Attributes:
        norm: "linf" or "l2".
        eps: The ball's radius, for images in [0, 1].

    Raises:
        UserError: A value is out of range.
    """

    norm: str
    eps: float

    def __post_init__(self) -> None:
        Pgd(self.norm, self.eps)  # which checks them

    @property
    def name(self) -> str:
        """Such as "linf 8/255, AutoAttack"."""
        return f"{self.norm} {written(self.eps)}, AutoAttack"

    def as_dict(self) -> dict[str, Any]:
        """The settings and torchattacks' version, as JSON."""
        return {"name": AUTO, **asdict(self), "torchattacks": importlib.metadata.version("torchattacks")}

    def against(self, model: nn.Module, classes: int, precision: str, seed: int) -> Against:
        """The attack of one network.

        Args:
            model: In evaluation mode.
            classes: Number of its logits.
            precision: "fp32" or "bf16", of passes through it.
            seed: Of all that is random, for each batch anew.

        Raises:
            UserError: torchattacks is missing, or there are fewer than 4 classes.
        """
        try:
            import torchattacks
        except ImportError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"torchattacks cannot be imported ({reason}): pip install 'unlearnable_kernels[autoattack]'"
            ) from None
        if classes < _FEWEST:
            raise UserError(f"AutoAttack needs at least {_FEWEST} classes to aim at, not {classes}")
        network = _Network(model, precision)
        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        targets = min(classes, _TARGETS + 1)
        attack = torchattacks.AutoAttack(network, norm, self.eps, n_classes=targets, seed=seed)

        def attacked(images: Tensor, labels: Tensor) -> Tensor:
            with seeded(seed, images.device), frozen(model):
                found: Tensor = attack(images.contiguous(), labels)
            return found.contiguous(memory_format=torch.channels_last)

        return attacked


class _Network(nn.Module):
    """A channels-last network as torchattacks takes it: contiguous gradients, logits in float32."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            images.register_hook(torch.Tensor.contiguous)
        with autocast(images.device, self.precision):
            logits: Tensor = self.model(images.contiguous(memory_format=torch.channels_last))
        return logits.float()


def attack_on(
    model: nn.Module, attack: Pgd | AutoAttack, classes: int, precision: str, seed: int, device: torch.device
) -> Against:
    """An attack of one network.

    Args:
        model: In evaluation mode, on ``device``.
        attack: Its settings.
        classes: Number of its logits.
        precision: "fp32" or "bf16", of passes through it.
        seed: Of the attack's random starts.
        device: Where the images will be.

    Raises:
        UserError: What the attack needs is missing.
    """
    if isinstance(attack, AutoAttack):
        return attack.against(model, classes, precision, seed)
    pgd, ascent = attack, Attack(model, attack, precision)
    generator = torch.Generator(device).manual_seed(seed)
    return lambda images, labels: ascent(images, labels, pgd.noise(images, len(images), generator))


def read_attack(settings: Mapping[str, Any]) -> Pgd | AutoAttack:
    """The attack with these settings, as its ``as_dict`` returned them.

    Raises:
        TypeError: There are others than an attack has.
        UserError: A value is out of range.
    """
    if settings.get("name") != AUTO:
        return Pgd(**settings)
    return AutoAttack(**{key: settings[key] for key in settings if key not in ("name", "torchattacks")})


def requested_attacks(names: Sequence[str], eps: str | None, steps: int | None) -> list[Pgd | AutoAttack]:
    """The attacks to test with, from the command line: every one with every radius.

    Args:
        names: From ``ATTACKS``.
        eps: Radii with commas between them, such as "2/255,4/255"; None means the published one.
        steps: Of PGD; None means 10.

    Raises:
        UserError: A value is out of range, or belongs to none of the attacks.
    """
    if not names:
        for name, given in (("eps", eps), ("steps", steps)):
            if given is not None:
                raise UserError(f"{name} is {given}, but there is no attack: give --attack linf or l2")
        return []
    norms = list(dict.fromkeys(name.removeprefix(f"{AUTO}-") for name in names))
    if eps is not None and len(norms) > 1:
        raise UserError(f"eps is a radius in one norm: give attacks in one, not in {' and '.join(norms)}")
    if steps is not None and not set(names) & set(PUBLISHED_EPS):
        raise UserError(f"steps are those of PGD, not of AutoAttack: leave out {steps}")
    attacks: list[Pgd | AutoAttack] = []
    for name in dict.fromkeys(names):
        norm = name.removeprefix(f"{AUTO}-")
        for text in [None] if eps is None else eps.split(","):
            radius = PUBLISHED_EPS[norm] if text is None else parse_number("eps", text)
            pgd = Pgd(norm, radius, 10 if steps is None else steps)
            attacks.append(AutoAttack(norm, radius) if name != norm else pgd)
    return attacks
