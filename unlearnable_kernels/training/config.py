"""What a training run is told, all of it, and the settings that the demo uses."""

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from unlearnable_kernels.defences.pgd import PUBLISHED_EPS, Pgd
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.parsing import parse_number

SCHEDULES = ("step", "one-cycle")
PRECISIONS = ("fp32", "bf16")
# Each with the norm of the attack that it trains against.
PROTOCOLS = {"erm": None, "at-linf": "linf", "at-l2": "l2"}

_WARM_UP = 0.25  # of a one-cycle run

# What differs from the defaults where two CPU cores are to show the effect while one waits.
_SHORT: dict[str, Any] = {"network": "resnet8", "schedule": "one-cycle", "lr": 0.05}
# A mirrored digit is none.
DIGITS_DEMO: dict[str, Any] = {**_SHORT, "epochs": 8, "batch_size": 32, "flip": False}
# Crops and flips teach more than so short a run can learn, and blur what a filter leaves.
PHOTO_DEMO: dict[str, Any] = {
    **_SHORT,
    "epochs": 10,
    "batch_size": 64,
    "crop_padding": 0,
    "flip": False,
    "limit_per_class": 500,
    "test_limit_per_class": 200,
}


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are the recipe of Sadasivan et al. (CVPR 2023) for plain (ERM) training.

    protocol: "erm" trains on the images as they are, "at-linf" and "at-l2" on what ``attacks.Pgd`` makes of
    them (adversarial training). eps: radius of the attack's ball; left out, 4/255 for at-linf and 0.5 for
    at-l2. attack_steps: of the attack. attack_step_size: None means 1.5 * eps / attack_steps.
    precision: "fp32", or "bf16" for passes through the network in bfloat16 where autocast allows it; weights,
    optimiser and attacked images stay float32. compile: run the network through torch.compile.
    batch_size: images a step, over all processes together.
    train, test: data sets as ``open_source`` takes them, made absolute; without ``test`` nothing is tested
    while training.
    clean, protected_fraction, only_clean: with the originals of ``train`` in ``clean``, that part of every
    class, after any limit, is taken from ``train`` and the rest from ``clean``, or the rest alone; see
    ``data.mixture.mix``.
    image_size: shorter side to this many pixels, then centre crop; None takes equal-sized images as they are.
    limit_per_class, test_limit_per_class: only the first so many images of each class, in name order, of the
    training and of the test set.
    schedule: "step" multiplies ``lr`` by ``lr_factor`` after every ``lr_step`` epochs; "one-cycle" rises
    linearly from 0 to ``lr`` over the first quarter of the run and falls linearly back to 0.
    clip_norm: largest norm of the whole gradient; None leaves it. crop_padding: see ``random_crop_flip``; 0
    turns the crop off, and more than the images' own pixels are refused. Raises UserError for a value out of
    range.
    """

    train: str
    test: str | None = None
    network: str = "resnet18"
    epochs: int = 100
    batch_size: int = 512
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "step"
    lr_step: int = 40
    lr_factor: float = 0.1
    clip_norm: float | None = 5.0
    crop_padding: int = 4
    flip: bool = True
    image_size: int | None = None
    limit_per_class: int | None = None
    test_limit_per_class: int | None = None
    seed: int = 0
    protocol: str = "erm"
    eps: float | None = None
    attack_steps: int = 10
    attack_step_size: float | None = None
    precision: str = "fp32"
    compile: bool = False
    clean: str | None = None
    protected_fraction: float | None = None
    only_clean: bool = False

    def __post_init__(self) -> None:
        for name in ("train", "test", "clean"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(Path(getattr(self, name)).resolve()))
        _ = NETWORKS[self.network]
        for name, choices in (("schedule", SCHEDULES), ("protocol", PROTOCOLS), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise UserError(f"unknown {name} {getattr(self, name)!r}: choose one of {', '.join(choices)}")
        for name in (
            "epochs",
            "batch_size",
            "attack_steps",
            "lr_step",
            "image_size",
            "limit_per_class",
            "test_limit_per_class",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: at least 1 is allowed")
        for name in ("lr", "lr_factor", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name} is {value}: a finite number above 0 is allowed")
        for name in ("weight_decay", "momentum", "crop_padding", "seed"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise UserError(f"{name} is {value}: 0 or more is allowed")
        self._check_mixture()
        self._settle_attack()

    def _check_mixture(self) -> None:
        fraction = self.protected_fraction
        if fraction is not None and not 0 < fraction <= 1:
            raise UserError(f"protected_fraction is {fraction}: above 0 and at most 1 is allowed")
        if (self.clean is None) != (fraction is None) or (self.only_clean and self.clean is None):
            raise UserError("a mixture needs clean, the originals' folder, and protected_fraction: give both")

    def _settle_attack(self) -> None:
        """Fill in the published radius, so that the run's record names it, and check what was given."""
        norm = PROTOCOLS[self.protocol]
        if norm is None:
            for name in ("eps", "attack_step_size"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"{name} is {getattr(self, name)}: protocol erm has no attack, leave it out"
                    )
        elif self.eps is None:
            object.__setattr__(self, "eps", PUBLISHED_EPS[norm])
        _ = self.attack  # which checks its settings

    @property
    def attack(self) -> Pgd | None:
        """The attack to train against; None under ERM."""
        norm = PROTOCOLS[self.protocol]
        if norm is None:
            return None
        assert self.eps is not None
        return Pgd(norm, self.eps, self.attack_steps, self.attack_step_size)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def learning_rate(self, epoch: float) -> float:
        """The rate after ``epoch`` epochs, fractions included."""
        if self.schedule == "step":
            return self.lr * self.lr_factor ** (int(epoch) // self.lr_step)
        done = epoch / self.epochs
        return self.lr * min(done / _WARM_UP, (1 - done) / (1 - _WARM_UP))


def parse_settings(texts: Sequence[str], taken: Collection[str]) -> dict[str, Any]:
    """Each "name=value", for a field of TrainConfig that is not in ``taken``, as its type demands.

    "none" stands for None where the field may be that. Raises UserError for an unknown name, one given twice,
    and a value of another type.
    """
    types = {name: kind for name, kind in get_type_hints(TrainConfig).items() if name not in taken}
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in types:
            raise UserError(f"{text!r} is no setting: give name=value, with a name of {', '.join(types)}")
        if name in settings:
            raise UserError(f"{name} is set twice, to {settings[name]} and to {value}")
        settings[name] = _parse(name, value, get_args(types[name]) or (types[name],))
    return settings


def _parse(name: str, text: str, kinds: tuple[type, ...]) -> Any:
    if text == "none" and type(None) in kinds:
        return None
    if kinds[0] is float:
        return parse_number(name, text)
    if kinds[0] is bool and text not in ("true", "false"):
        raise UserError(f"{name} is {text!r}: true or false is allowed")
    try:
        return text == "true" if kinds[0] is bool else kinds[0](text)
    except ValueError:
        raise UserError(f"{name} is {text!r}: a whole number is allowed") from None


def requested_attack(norm: str | None, eps: str | None, steps: int | None) -> Pgd | None:
    """The attack to test with, from an option's text; by default the published radius, and 10 steps.

    Raises UserError for a value out of range, and for ``eps`` or ``steps`` without ``norm``.
    """
    if norm is None:
        for name, given in (("eps", eps), ("steps", steps)):
            if given is not None:
                raise UserError(f"{name} is {given}, but there is no attack: give --attack linf or l2")
        return None
    radius = PUBLISHED_EPS[norm] if eps is None else parse_number("eps", eps)
    return Pgd(norm, radius, 10 if steps is None else steps)
