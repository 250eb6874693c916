"""A control for methods with a budget: the largest change that it allows, up or down at random."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from unlearnable_kernels.protect.methods.budget import check_budget, levels_of
from unlearnable_kernels.protect.methods.method import METHODS, Method, Perturbation, Task, Workspace
from unlearnable_kernels.protect.methods.selection import check_fraction, exact_subset

_SEED_BYTES = 8


@dataclass(frozen=True)
class SignNoise:
    """Adds ±``levels`` to every number of an image, each sign a bit of SHAKE-256 of the image's number.

    Attributes:
        levels: In grey levels.
        outcome: Nothing.
    """

    levels: int
    outcome: dict[str, Any] = field(default_factory=dict)

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        for image, assigned, place in zip(images, assignment, out, strict=True):
            place[...] = image if assigned < 0 else self._noisy(image, assigned)

    def _noisy(self, image: np.ndarray, number: int) -> np.ndarray:
        drawn = hashlib.shake_256(number.to_bytes(_SEED_BYTES, "big")).digest(-(-image.size // 8))
        signs = np.unpackbits(np.frombuffer(drawn, np.uint8), count=image.size).reshape(image.shape)
        return np.clip(image + (2 * signs.astype(np.int16) - 1) * self.levels, 0, 255)


@METHODS.register("random-noise", "changes every number of an image by eps, up or down at random: a control")
@dataclass(frozen=True)
class RandomNoise(Method):
    """Random signs times the budget, for every image its own.

    What a method with the same budget does beyond this, it does by its direction.

    Attributes:
        eps: Change of every number of an image, pixels being in [0, 1]; less where that leaves [0, 1].
    """

    eps: float = 8 / 255

    lossless_only: ClassVar[bool] = True

    def check(self) -> None:
        check_budget(self.eps, "linf")

    def parameters(self, task: Task) -> dict[str, Any]:
        check_fraction(task.fraction)
        return {
            "eps": float(self.eps),
            "fraction": float(task.fraction),
            "resize": task.resize,
            "format": task.format,
            **task.format_settings,
        }

    def assignment(self, task: Task, parameters: dict[str, Any]) -> list[int]:
        chosen = exact_subset(task.secret, task.name, task.names, task.labels, task.fraction)
        return [
            self._number(task, name) if taken else -1 for name, taken in zip(task.names, chosen, strict=True)
        ]

    def _number(self, task: Task, name: str) -> int:
        drawn = task.secret.derive("random-noise", task.name, name, length=_SEED_BYTES)
        return int.from_bytes(drawn, "big") >> 1

    def perturbation(
        self, task: Task, parameters: dict[str, Any], assignment: list[int], workspace: Workspace
    ) -> Perturbation:
        return SignNoise(levels_of(self.eps))

    @classmethod
    def heading(cls, parameters: dict[str, Any]) -> str:
        return f"{cls.name}, {parameters['eps']:.4g}"
