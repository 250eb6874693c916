"""Names and samples by the million: text and numbers in arrays, and objects only while they are looked at.

As objects, the samples of ImageNet and the names of their copies take half a gigabyte; so, a quarter of that.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a source.

    Attributes:
        name: Posix path below the split's folder, suffix included, the same on every machine.
        label: Index into the source's classes.
        size: Bytes of the file, or of the archive that holds the image.
        mtime_ns: Time of the last change of that file. It is no part of any digest: a copy has another.
    """

    name: str
    label: int
    size: int
    mtime_ns: int


class Compact(Sequence[T]):
    """A sequence that makes its items as they are asked for; a slice of it is a view."""

    @abstractmethod
    def item(self, position: int) -> T:
        """The item at ``position``, from 0 to ``len(self)`` - 1."""

    @overload
    def __getitem__(self, key: int) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[T]: ...
    def __getitem__(self, key: int | slice) -> T | Sequence[T]:
        rows = range(len(self))[key]
        return View(self, rows) if isinstance(rows, range) else self.item(rows)

    def __iter__(self) -> Iterator[T]:
        return map(self.item, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_equal, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)}>"


def _equal(one: object, other: object) -> bool:
    return one == other


class View(Compact[T]):
    """Some items of a sequence, by their positions; pickled, a list, since what it looks at is large."""

    def __init__(self, whole: Compact[T], rows: range) -> None:
        self._whole, self._rows = whole, rows

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, position: int) -> T:
        return self._whole.item(self._rows[position])

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


class Followed(Compact[T]):
    """A sequence that tells, (how many of them, of how many), how far one who goes through it has come."""

    def __init__(self, items: Sequence[T], tell: Callable[[int, int], None]) -> None:
        self._items, self._tell = items, tell

    def __len__(self) -> int:
        return len(self._items)

    def item(self, position: int) -> T:
        return self._items[position]

    def __iter__(self) -> Iterator[T]:
        for position, item in enumerate(self._items):
            self._tell(position, len(self))
            yield item
        self._tell(len(self), len(self))


class Names(Compact[str]):
    """Texts, as UTF-8 one behind the other."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._text, self._bounds = bytearray(), array("Q", [0])
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Add one. It may have half a surrogate pair in it, as file names may."""
        self._text += name.encode(errors="surrogatepass")
        self._bounds.append(len(self._text))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def item(self, position: int) -> str:
        start, end = self._bounds[position], self._bounds[position + 1]
        return self._text[start:end].decode(errors="surrogatepass")


class Samples(Compact[Sample]):
    """Samples of a source whose files lie by themselves.

    Attributes:
        names: Of all of them.
        labels: Likewise.
    """

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.names, self.labels = Names(), array("q")
        self._sizes, self._times = array("q"), array("q")
        for sample in samples:
            self.append(sample)

    def append(self, sample: Sample) -> None:
        """Add one."""
        self.names.append(sample.name)
        self.labels.append(sample.label)
        self._sizes.append(sample.size)
        self._times.append(sample.mtime_ns)

    def __len__(self) -> int:
        return len(self.labels)

    def item(self, position: int) -> Sample:
        return Sample(
            self.names.item(position),
            self.labels[position],
            self._sizes[position],
            self._times[position],
        )
