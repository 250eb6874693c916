"""What every protection method answers: its parameters, whom it touches, and what it does to their pixels."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from unlearnable_kernels.data.images import SUFFIX
from unlearnable_kernels.data.source import Source
from unlearnable_kernels.progress import Notify, Progress
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.registry import Registry


@dataclass(frozen=True)
class Task:
    """What a method goes by. ``image``: the first one that can be read."""

    source: Source
    secret: Secret
    name: str
    fraction: float
    resize: int | None
    format: str
    image: np.ndarray

    @property
    def names(self) -> list[str]:
        return [sample.name for sample in self.source.samples]

    @property
    def labels(self) -> list[int]:
        return [sample.label for sample in self.source.samples]


@dataclass(frozen=True)
class Workspace:
    """Where a method may work before the first file is written, and whom it tells.

    ``folder`` survives a kill and vanishes with the staging folder; ``skip_bad``: images that cannot be read
    are passed over, as they will be when the files are written.
    """

    folder: Path
    skip_bad: bool
    notify: Notify
    progress: Progress


class Perturbation(Protocol):
    """What is done to images of one shape; picklable, since it goes to every worker process.

    outcome: what the manifest tells about it, beyond the parameters.
    """

    @property
    def outcome(self) -> dict[str, Any]: ...

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        """images, out: uint8 [n, H, W, 3], contiguous. An image marked -1 is copied as it is."""


@dataclass(frozen=True)
class Method(ABC):
    """A method with its own options, which are its fields."""

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]] = (*SUFFIX, "npz")

    @abstractmethod
    def check(self) -> None:
        """Raises UserError for options that are wrong with any data set."""

    @abstractmethod
    def parameters(self, task: Task) -> dict[str, Any]:
        """Every option with its final value, for the manifest. Raises UserError."""

    @abstractmethod
    def assignment(self, task: Task, parameters: dict[str, Any]) -> list[int]:
        """For every sample -1, to stay clean, or what ``Perturbation.apply`` goes by. Raises UserError."""

    @abstractmethod
    def perturbation(
        self, task: Task, parameters: dict[str, Any], assignment: list[int], workspace: Workspace
    ) -> Perturbation:
        """Do all that comes before the first file. Raises UserError."""

    @classmethod
    @abstractmethod
    def heading(cls, parameters: dict[str, Any]) -> str:
        """The parameters that show in a picture, in a few words."""


METHODS: Registry[type[Method]] = Registry("method", "unlearnable_kernels.protect.methods")
