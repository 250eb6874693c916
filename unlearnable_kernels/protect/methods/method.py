"""What every protection method answers: its parameters, whom it touches, and what it does to their pixels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from unlearnable_kernels.data.listing import Samples
from unlearnable_kernels.data.source import Source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.progress import Notify, Progress
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.registry import Registry


@dataclass(frozen=True)
class Task:
    """What is to be protected, as far as a method has to know.

    Attributes:
        source: The dataset.
        secret: What everything secret or random derives from.
        name: Name of the dataset, part of every derivation.
        fraction: Share of each class to protect, in (0, 1].
        resize: Side in pixels that images are brought to first, or None.
        format: Name of the output format.
        format_settings: Its settings by name.
        scheme: How secrets of a class derive: 2 from its name, which it keeps when others come; 1 from its
            place among the classes, as with seeds, and with keys before there were two schemes.
        image: The first image that can be read, uint8 [H, W, 3], after the resize.
    """

    source: Source
    secret: Secret
    name: str
    fraction: float
    resize: int | None
    format: str
    format_settings: dict[str, Any]
    scheme: int
    image: np.ndarray

    @property
    def classes(self) -> int | list[str]:
        """What the secrets of classes derive from: their names, or their number."""
        return list(self.source.classes) if self.scheme == 2 else len(self.source.classes)

    @property
    def names(self) -> Sequence[str]:
        samples = self.source.samples
        return samples.names if isinstance(samples, Samples) else [sample.name for sample in samples]

    @property
    def labels(self) -> Sequence[int]:
        samples = self.source.samples
        return samples.labels if isinstance(samples, Samples) else [sample.label for sample in samples]


@dataclass(frozen=True)
class Workspace:
    """Where a method may work before the first image is written, and how it reports.

    Attributes:
        folder: Survives a kill, and is deleted when the dataset is whole.
        skip_bad: Whether images that cannot be read are passed over, as they will be when images are written.
        notify: Takes messages.
        progress: Takes progress.
    """

    folder: Path
    skip_bad: bool
    notify: Notify
    progress: Progress


class Perturbation(Protocol):
    """What is done to images. It can be pickled, since it goes to every worker process."""

    @property
    def outcome(self) -> dict[str, Any]:
        """Further fields of the manifest, beyond the parameters."""

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        """Perturb images of one shape.

        Args:
            images: uint8 [n, H, W, 3], contiguous.
            assignment: n numbers, from ``Method.assignment``; an image with -1 is copied as it is.
            out: uint8 [n, H, W, 3], contiguous; receives the result.
        """


@dataclass(frozen=True)
class Method(ABC):
    """A protection method; its fields are its settings, as in ``--method classwise-conv:strength=0.2``."""

    name: ClassVar[str]
    lossless_only: ClassVar[bool] = False
    """Whether the perturbation survives in lossless formats alone."""
    per_image: ClassVar[bool] = True
    """Whether an image's perturbation depends on no other image, so that it can be previewed."""

    @property
    def one_size(self) -> bool:
        """Whether all images must have one size."""
        return not self.per_image

    @classmethod
    def settings(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """The settings, by name, of what gave these parameters, however the defaults have changed since."""
        return {each.name: parameters[each.name] for each in fields(cls) if each.name in parameters}

    @classmethod
    def growable(cls, parameters: dict[str, Any]) -> bool:
        """Whether a picture's perturbation depends on no other picture, so that others may be added later."""
        return False

    @classmethod
    def inverse(
        cls, parameters: dict[str, Any], secret: Secret, name: str, classes: int | Sequence[str]
    ) -> Perturbation:
        """What estimates originals from protected images.

        Args:
            parameters: As ``Method.parameters`` gave them.
            secret: Key or seed.
            name: Of the dataset, part of every derivation.
            classes: As ``Task.classes``.

        Raises:
            UserError: There is no inverse.
        """
        raise UserError(f"there is no way here to undo what {cls.name} did")

    @abstractmethod
    def check(self) -> None:
        """Check the settings.

        Raises:
            UserError: A setting is wrong for any dataset.
        """

    @abstractmethod
    def parameters(self, task: Task) -> dict[str, Any]:
        """Every setting with its final value, and what of ``task`` matters, for the manifest.

        Raises:
            UserError: A setting is wrong for this dataset.
        """

    @abstractmethod
    def assignment(self, task: Task, parameters: dict[str, Any]) -> list[int]:
        """For every sample -1, to stay clean, or a number of 0 or more that ``Perturbation.apply`` goes by.

        Raises:
            UserError: The fraction is out of range.
        """

    @abstractmethod
    def perturbation(
        self, task: Task, parameters: dict[str, Any], assignment: list[int], workspace: Workspace
    ) -> Perturbation:
        """Do all that comes before the first image is written. Called again, it resumes.

        Raises:
            UserError: The dataset cannot be protected in this way.
        """

    @classmethod
    @abstractmethod
    def heading(cls, parameters: dict[str, Any]) -> str:
        """The parameters that show in a picture, in a few words."""


METHODS: Registry[type[Method]] = Registry("method", "unlearnable_kernels.protect.methods")


def make_method(method: str | Method, settings: dict[str, Any]) -> Method:
    """A method by its name, or as it is.

    Args:
        method: A name in ``METHODS``, or a method with its settings.
        settings: With a name, values by setting; None is the default.

    Raises:
        UserError: The name or a setting is unknown, or a value is of another type.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if not isinstance(method, Method):
        made: Method = METHODS.make(method, given)
        return made
    if given:
        raise UserError(f"method {method.name} has its settings already: leave out {', '.join(given)}")
    return method
