"""What a training run is told, all of it, and the settings that the demo uses."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import check_network

SCHEDULES = ("step", "one-cycle")

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

    train, test: data sets as ``open_source`` takes them, made absolute; without ``test`` nothing is tested
    while training.
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

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(Path(getattr(self, name)).resolve()))
        check_network(self.network)
        if self.schedule not in SCHEDULES:
            raise UserError(f"unknown schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        for name in (
            "epochs",
            "batch_size",
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

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def learning_rate(self, epoch: float) -> float:
        """The rate after ``epoch`` epochs, fractions included."""
        if self.schedule == "step":
            return self.lr * self.lr_factor ** (int(epoch) // self.lr_step)
        done = epoch / self.epochs
        return self.lr * min(done / _WARM_UP, (1 - done) / (1 - _WARM_UP))
