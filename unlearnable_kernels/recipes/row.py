"""A row of a table: what was measured, how, and the published figure where there is one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from unlearnable_kernels.errors import UserError

CLEAN, PROTECTED, PERMUTED, SHARED, DETECTED = "clean", "protected", "permuted", "shared", "detected"
TESTS = (CLEAN, PROTECTED, PERMUTED, SHARED, DETECTED)
"""Test images as they are, filtered as their own class was in training, as the next class was, or all of them
as the first class was. Or no training at all: how often EPD tells the protected images from clean ones."""


@dataclass(frozen=True)
class Row:
    """One figure, and how to measure it.

    Attributes:
        name: TABLE/DEFENCE OR PROTOCOL/PROTECTION, unique; TABLE is PAPER/DATA SET, or PAPER alone. Within a
            table the last part stands for one protection, stored in one way.
        published: Lowest and highest published accuracy in percent; both are the same where there is one
            figure. None for a row of our own.
        dataset: As ``open_source`` takes it.
        protection: As ``protect --method`` takes it; None trains on the data set itself.
        network: As ``find_network`` takes it.
        defences: As ``train --defence`` takes them.
        training: Fields of ``TrainConfig`` that are not its defaults.
        pretraining: The same of a plain training beforehand, with whose weights the defences that fine-tune
            begin; what it does not name is as in ``training``. Empty where there is none.
        test: One of ``TESTS``.
        stored_as: As ``protect --format`` takes it; None stores without loss.
        upon: A protection that images get before that one, as ``protect --method`` takes it.
        lacking: What it needs that is not here; it cannot be run, then. Empty where nothing is lacking.
        about: Whether the figure was published as "about" so much.

    Raises:
        UserError: ``upon`` is given without ``protection``, or with test images that are filtered.
    """

    name: str
    published: tuple[float, float] | None
    dataset: str
    protection: str | None = None
    network: str = "resnet18"
    defences: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    test: str = CLEAN
    stored_as: str | None = None
    upon: str | None = None
    lacking: str = ""
    about: bool = False

    def __post_init__(self) -> None:
        if self.upon is not None and (self.protection is None or self.test not in (CLEAN, DETECTED)):
            raise UserError(
                f"{self.name}: upon needs a protection that is laid upon it, and test images as they are"
            )

    @property
    def paper(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Paper:
    """The rows of one publication, or of a table of our own.

    Attributes:
        name: First part of its rows' names.
        title: Authors, venue and year; or what it shows.
        rows: In the order of its tables.
    """

    name: str
    title: str
    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def once(figure: float) -> tuple[float, float]:
    """A published figure that stands alone."""
    return figure, figure
