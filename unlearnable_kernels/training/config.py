"""The configuration of a training run, all of it, and the settings that the demo uses."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from unlearnable_kernels import parsing
from unlearnable_kernels.data.named import resolve
from unlearnable_kernels.defences import DEFENCES, Defence, make_defence
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import find_network
from unlearnable_kernels.networks.normalise import read_statistics
from unlearnable_kernels.networks.pretrained import CACHE

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("step", "cosine", "one-cycle")
AMP = ("bf16",)

LATER = ("protected_epochs",)
"""Fields that earlier versions lack: at None they are left out, so that earlier runs still go on."""

LIMITS = ("limit_per_class", "test_limit_per_class")

_SEEDS = 2**63  # what torch's generators take
_RISE = 0.25  # of a one-cycle run
_DROPS = 0.4  # of a run's epochs, between drops of the rate

# What differs from the defaults where two CPU cores are to show the effect while one waits.
_SHORT: dict[str, Any] = {"network": "resnet8", "schedule": "one-cycle", "lr": 0.05}
# A mirrored digit is not a digit.
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
    """One training run. The defaults are plain training (ERM) as in Sadasivan et al. (CVPR 2023).

    Attributes:
        train, test: Datasets as ``open_source`` takes them, made absolute; without ``test`` nothing is
            tested while training.
        network: As ``find_network`` takes it, such as "resnet18" or "timm:resnet26".
        epochs: Passes over the training images.
        batch_size: Images a step, over all processes together.
        optimizer: "sgd", or "adamw" with betas 0.9 and 0.999.
        lr: Highest learning rate.
        momentum: Of SGD.
        weight_decay: Of either optimiser, on all weights.
        schedule: "step" multiplies ``lr`` by ``lr_factor`` after every ``lr_step`` epochs; "cosine" falls
            from ``lr`` to 0 as half a cosine; "one-cycle" rises linearly from 0 to ``lr`` over the first
            quarter of the run and falls linearly back to 0.
        lr_step: None becomes int(0.4 * epochs), but 1 at least: 40 of the published 100 epochs.
        warmup: Epochs over which the rate first rises linearly from 0 to ``lr``; a cosine begins after them.
        clip_norm: Largest norm of the whole gradient; None leaves it.
        crop_padding: See ``random_crop_flip``; 0 turns the crop off, and more than the images' own pixels are
            refused.
        flip: Whether to mirror images with probability 1/2.
        image_size: Shorter side to this many pixels, then centre crop; None takes equal-sized images as they
            are.
        limit_per_class, test_limit_per_class: Only the first so many images of each class, in name order, of
            the training and of the test set.
        seed: Of weights, order, augmentation and defences.
        defences: Applied in this order, each a ``Defence``, a text such as "at-linf:eps=4/255", or the
            object that ``Defence.settings`` returns, which it becomes.
        normalise: What the network subtracts from its images and divides them by, as
            ``networks.normalise`` takes it, such as "cifar10"; None leaves them in [0, 1].
        pretrained: Whence the weights to begin with, as ``networks.pretrained`` takes it: "cache" or a file,
            made absolute. None draws them.
        amp: "bf16" for passes through the network in bfloat16 where autocast allows it; weights, optimiser
            and the images that a defence changes stay float32. None computes in float32.
        compile: Whether to run the network through torch.compile.
        deterministic: Whether to use algorithms alone that give the same bits whenever they run; torch
            refuses what has none.
        clean, protected_fraction, only_clean: With the originals of ``train`` in ``clean``, that part of
            every class, after any limit, is taken from ``train`` and the rest from ``clean``, or the rest
            alone; see ``data.mixture.mix``.
        protected_epochs: Of such a mixture, the last so many epochs see the protected share alone, and those
            before them the clean share alone; rate and optimiser go on. None trains on both together.

    Raises:
        UserError: A value is out of range.
    """

    train: str
    test: str | None = None
    network: str = "resnet18"
    epochs: int = 100
    batch_size: int = 512
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "step"
    lr_step: int | None = None
    lr_factor: float = 0.1
    warmup: int = 0
    clip_norm: float | None = 5.0
    crop_padding: int = 4
    flip: bool = True
    image_size: int | None = None
    limit_per_class: int | None = None
    test_limit_per_class: int | None = None
    seed: int = 0
    defences: Sequence[Defence | str | Mapping[str, Any]] = ()
    normalise: str | None = None
    pretrained: str | None = None
    amp: str | None = None
    compile: bool = False
    deterministic: bool = False
    clean: str | None = None
    protected_fraction: float | None = None
    only_clean: bool = False
    protected_epochs: int | None = None

    def __post_init__(self) -> None:
        for name in ("train", "test", "clean"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, resolve(getattr(self, name)))
        if self.pretrained not in (None, CACHE):
            object.__setattr__(self, "pretrained", str(Path(self.pretrained).resolve()))
        if self.lr_step is None:
            object.__setattr__(self, "lr_step", max(1, int(_DROPS * self.epochs)))
        self._check_values()
        self._check_mixture()
        object.__setattr__(self, "defences", [_defence(given).settings() for given in self.defences])

    def _check_values(self) -> None:
        find_network(self.network)
        if self.normalise is not None:
            read_statistics(self.normalise)
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("amp", (None, *AMP))):
            if getattr(self, name) not in choices:
                known = ", ".join(choice or "none" for choice in choices)
                raise UserError(f"unknown {name} {getattr(self, name)!r}: choose one of {known}")
        for name in ("epochs", "batch_size", "lr_step", "image_size", *LIMITS):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        for name in ("lr", "lr_factor", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name} must be a finite number above 0, not {value}")
        if self.seed >= _SEEDS:
            raise UserError(f"seed must be below 2^63, not {self.seed}")
        if self.momentum >= 1:
            raise UserError(f"momentum must be below 1, not {self.momentum}")
        for name in ("weight_decay", "momentum", "crop_padding", "seed"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise UserError(f"{name} must be 0 or more, not {value}")
        if not 0 <= self.warmup < self.epochs:
            raise UserError(
                f"warmup must be 0 or more, and fewer than the {self.epochs} epochs, not {self.warmup}"
            )
        if self.warmup and self.schedule == "one-cycle":
            raise UserError(f"warmup must be 0 with schedule one-cycle, which has its own, not {self.warmup}")

    def _check_mixture(self) -> None:
        fraction = self.protected_fraction
        if fraction is not None and not 0 < fraction <= 1:
            raise UserError(f"protected_fraction must be above 0 and at most 1, not {fraction}")
        if (self.clean is None) != (fraction is None) or (self.only_clean and self.clean is None):
            raise UserError("a mixture needs clean, the originals' folder, and protected_fraction: give both")
        last = self.protected_epochs
        if last is None:
            return
        if not 1 <= last < self.epochs:
            raise UserError(
                f"protected_epochs must be at least 1, and fewer than the {self.epochs} epochs, not {last}"
            )
        if fraction is None or fraction == 1 or self.only_clean:
            raise UserError(
                "protected_epochs needs a mixture: clean, protected_fraction below 1, and no only_clean"
            )

    def make_defences(self) -> list[Defence]:
        """The defences, made anew."""
        return [_defence(settings) for settings in self.defences]

    def as_dict(self) -> dict[str, Any]:
        """All fields, as JSON, but for those of ``LATER`` that are None: what config.json holds."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in LATER or value is not None}

    @property
    def precision(self) -> str:
        """Of passes through the network, "fp32" or "bf16": what ``device.autocast`` takes."""
        return self.amp or "fp32"

    def learning_rate(self, epoch: float) -> float:
        """The rate after ``epoch`` epochs, fractions included."""
        if epoch < self.warmup:
            return self.lr * epoch / self.warmup
        if self.schedule == "step":
            assert self.lr_step is not None
            return self.lr * self.lr_factor ** (int(epoch) // self.lr_step)
        if self.schedule == "cosine":
            done = (epoch - self.warmup) / (self.epochs - self.warmup)
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        done = epoch / self.epochs
        return self.lr * min(done / _RISE, (1 - done) / (1 - _RISE))


def _defence(given: Defence | str | Mapping[str, Any]) -> Defence:
    if isinstance(given, str):
        made: Defence = DEFENCES.create(given)
        return made
    if not isinstance(given, Defence):
        return make_defence(given)
    name = getattr(given, "name", "")
    if name not in DEFENCES or DEFENCES[name] is not type(given):
        raise UserError(f"{type(given).__name__} is not a registered defence: use DEFENCES.register")
    return given


def parse_settings(texts: Sequence[str], taken: Collection[str]) -> dict[str, Any]:
    """Fields of ``TrainConfig`` from texts of the form "name=value".

    Args:
        texts: What was written; "none" stands for None where the field may be that.
        taken: Fields that cannot be set in this way.

    Raises:
        UserError: A name is unknown or given twice, or a value does not fit.
    """
    kinds = {name: kind for name, kind in get_type_hints(TrainConfig).items() if name not in taken}
    return parsing.parse_settings(texts, kinds, "training")
