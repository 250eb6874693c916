"""Datasets as they lie on disk, opened as one thing: classes, samples in a fixed order, their images."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from unlearnable_kernels.data.folder_scan import ignored, is_ignored_path, refuse_case_twins
from unlearnable_kernels.data.formats import FORMATS, REMOTE, WRITERS
from unlearnable_kernels.data.images import decode, profile_of, resize
from unlearnable_kernels.data.listing import Sample
from unlearnable_kernels.data.named import find, parse
from unlearnable_kernels.data.remote import is_remote, url_of
from unlearnable_kernels.errors import ImageError, UserError, shown

if TYPE_CHECKING:
    from typing_extensions import Self

SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
_LAST = ("pictures", "image-folder")


@dataclass
class Source(ABC):
    """One split of a dataset, opened. It can be pickled.

    Attributes:
        root: What was opened.
        name: Name of the dataset.
        layout: Name of its layout, for the manifest.
        split: "train", "test", or "" where the dataset does not say.
        prefix: Where the split lies below ``root``.
        classes: Class names in label order.
        samples: All images, in the order of the dataset.
        skipped: (name, reason) of whatever ``on_error="skip"`` passed over.
        side_files: Class metadata that belongs to the layout, relative to ``root``.
        left_out: Other splits and folders that were not taken.
        notes: Lines for the user.
    """

    root: Path
    name: str
    layout: str
    split: str
    prefix: str
    classes: list[str]
    samples: Sequence[Sample]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    side_files: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    written_as: ClassVar[str]
    """The output format for a protected copy, unless another one is asked for."""
    is_encoded: ClassVar[bool]
    """Whether ``read`` gives files that have to be decoded."""

    @abstractmethod
    def read(self, sample: Sample) -> bytes | np.ndarray:
        """The file's bytes, or where images are stored as an array, the image itself, uint8 [H, W, 3].

        Safe from any thread and any process.

        Raises:
            ImageError: The file is gone, cannot be read, or does not have the size it had when opened.
        """

    @property
    def lossless_as(self) -> str:
        """The output format where nothing may be lost."""
        return self.written_as if WRITERS[self.written_as].lossless else "png"

    @property
    def block(self) -> int:
        """How many neighbouring samples are read at the cost of one; 1 where each can be read alone."""
        return 1

    @abstractmethod
    def bytes_to_read(self, sample: Sample) -> int:
        """How much ``read`` reads from disk for one sample."""

    @abstractmethod
    def without_samples(self) -> Source:
        """A copy for other processes that are handed their samples; it is as small as it can be."""

    def with_classes(self, names: Sequence[str]) -> Self:
        """The same dataset without all that belongs to other classes.

        Args:
            names: Some of ``classes``, in the same order; labels become indices into these.
        """
        labels = {self.classes.index(name): label for label, name in enumerate(names)}
        dropped = set(self.classes) - set(names)
        prefix = f"{self.prefix}/" if self.prefix else ""
        return replace(
            self,
            classes=list(names),
            samples=[replace(s, label=labels[s.label]) for s in self.samples if s.label in labels],
            skipped=[each for each in self.skipped if each[0].partition("/")[0] not in dropped],
            side_files=[
                file
                for file in self.side_files
                if file.as_posix().removeprefix(prefix).partition("/")[0] not in dropped
            ],
            notes=[*self.notes, f"{len(names)} of its {len(self.classes)} classes are taken"],
        )

    def with_rows(self, rows: Sequence[int]) -> Self:
        """The same dataset with some of its samples, and all of its classes.

        Args:
            rows: Which of ``samples``, in ascending order.
        """
        return replace(self, samples=[self.samples[row] for row in rows])

    def first_of_each_class(self, count: int) -> Self:
        """The same dataset without what follows the first ``count`` samples of each class."""
        seen: Counter[int] = Counter()
        rows = []
        for row, sample in enumerate(self.samples):
            seen[sample.label] += 1
            if seen[sample.label] <= count:
                rows.append(row)
        taken = self.with_rows(rows)
        taken.notes = [*self.notes, f"{len(rows)} of its {len(self.samples)} images are taken"]
        return taken


class FolderSource(Source):
    """Images as files below ``root / prefix``."""

    written_as: ClassVar[str] = "same"
    is_encoded: ClassVar[bool] = True

    def read(self, sample: Sample) -> bytes:
        path = self.path_of(sample)
        try:
            # Not waiting for a pipe that took its place since it was opened.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                data = os.read(descriptor, sample.size + 1)
                while len(data) < sample.size and (more := os.read(descriptor, sample.size + 1 - len(data))):
                    data += more
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}") from None
        if len(data) != sample.size:
            raise ImageError(
                f"{path}: had {sample.size} bytes when the dataset was opened, and has changed since"
            )
        return data

    def path_of(self, sample: Sample) -> str:
        """The sample's file."""
        return f"{self.root}/{self.prefix}/{sample.name}"

    def bytes_to_read(self, sample: Sample) -> int:
        return sample.size

    def without_samples(self) -> Source:
        return replace(self, samples=[])


@dataclass
class ArraySource(Source):
    """Images in one array; each process reads it from ``load`` when it first needs it."""

    load: Callable[[], np.ndarray] = field(kw_only=True)
    loaded: np.ndarray | None = field(default=None, kw_only=True, repr=False)
    _positions: dict[str, int] | None = field(default=None, kw_only=True, repr=False)

    written_as: ClassVar[str] = "npz"
    is_encoded: ClassVar[bool] = False

    def images(self) -> np.ndarray:
        """All images: uint8 [N, H, W, 3], in the order of ``samples``, not necessarily contiguous."""
        if self.loaded is None:
            self.loaded = self.load()
        return self.loaded

    def read(self, sample: Sample) -> np.ndarray:
        if self._positions is None:
            self._positions = {s.name: i for i, s in enumerate(self.samples)}
        return np.ascontiguousarray(self.images()[self._positions[sample.name]])

    def bytes_to_read(self, sample: Sample) -> int:
        return 0  # the whole array was read when it was opened

    def without_samples(self) -> Source:
        return self  # names are looked up among them

    def with_classes(self, names: Sequence[str]) -> Self:
        wanted = {self.classes.index(name) for name in names}
        rows = np.flatnonzero([sample.label in wanted for sample in self.samples])
        return self._with_images(super().with_classes(names), rows)

    def with_rows(self, rows: Sequence[int]) -> Self:
        return self._with_images(super().with_rows(rows), np.asarray(rows, dtype=np.intp))

    def _with_images(self, chosen: Self, rows: np.ndarray) -> Self:
        load = partial(_rows_of, self.load, rows)
        loaded = None if self.loaded is None else self.loaded[rows]
        return replace(chosen, load=load, loaded=loaded, _positions=None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"loaded": None, "_positions": None}


def _rows_of(load: Callable[[], np.ndarray], rows: np.ndarray) -> np.ndarray:
    chosen: np.ndarray = load()[rows]
    return chosen


def open_source(path: Path, split: str = "train", on_error: str = "raise") -> Source:
    """The dataset at ``path``, in whichever of ``FORMATS`` it is, without decoding an image.

    Args:
        path: A folder, a file, or what else stands for a dataset, see ``named``.
        split: "train" or "test" where the dataset has both; a folder of classes serves for either.
        on_error: "raise", or "skip" to pass over files that cannot be taken and list them; "list" lists even
            what is always refused, as far as the format can tell.

    Raises:
        UserError: No format fits, or an entry is refused (docs/inputs.md).
    """
    if split not in SPLIT_FOLDERS or on_error not in ("raise", "skip", "list"):
        raise UserError(
            f"split must be train or test and on_error raise or skip, not {split!r} and {on_error!r}"
        )
    reference = parse(path)
    source = _open(find(path), split, on_error)
    if not reference.subset:
        return source
    if reference.classes:
        source = source.with_classes(reference.choose(source.classes))
    if reference.images is not None:
        source = source.first_of_each_class(reference.images)
    return replace(source, name=reference.name or source.name)


def _open(path: Path, split: str, on_error: str) -> Source:
    # Any folder may be one of class folders, and any without folders one of pictures: asked last.
    names = REMOTE if is_remote(path) else FORMATS
    for name in sorted(names, key=lambda name: (name in _LAST, name == "image-folder")):
        try:
            source = FORMATS[name](path, split, on_error)
        except (UserError, OSError):
            raise
        except Exception as error:  # of a plug-in's opener, which must not take all datasets with it unnamed
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{shown(str(path))}: format {name} failed on it ({reason})") from error
        if source is not None:
            return source
    raise not_a_dataset(path, "not a dataset")


def not_a_dataset(path: Path, reason: str) -> UserError:
    """The error for a path that holds none, which lists what is understood."""
    names = REMOTE if is_remote(path) else FORMATS
    understood = "; ".join(entry.description for entry in FORMATS.entries() if entry.name in names)
    return UserError(f"{url_of(path)}: {reason}; understood are {understood}")


def load_image(source: Source, sample: Sample, size: int | None) -> np.ndarray:
    """One image, decoded and, unless ``size`` is None, resized.

    Args:
        source: Where the sample is from.
        sample: Which image.
        size: Height and width to bring it to, see ``images.resize``.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: The image cannot be read or decoded.
    """
    return load_with_profile(source, sample, size)[0]


def load_with_profile(source: Source, sample: Sample, size: int | None) -> tuple[np.ndarray, bytes]:
    """As ``load_image``, and the image's ICC profile as ``profile_of`` gives it."""
    data = source.read(sample)
    if isinstance(data, np.ndarray):
        image, profile = data, b""
    else:
        image, profile = decode(data, sample.name), profile_of(data)
    return (image if size is None else resize(image, size)), profile


def check_archive_names(names: Iterable[str], classes: list[str], path: Path) -> None:
    """Check names out of an archive, which become paths when its images are written as files.

    Raises:
        UserError: A name would leave its folder, or two are the same.
    """
    seen: set[str] = set()
    for name in names:
        parts = PurePosixPath(name).parts
        if "/".join(parts) != name or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
            raise UserError(f"{path}: the name {name!r} is not a relative path without a backslash")
        if is_ignored_path(name):
            raise UserError(f"{path}: the name {name!r} is one that is passed over in folders")
        if name in seen:
            raise UserError(f"{path}: the name {name!r} occurs twice")
        seen.add(name)
    if any(name == "" or ignored(name) or "/" in name or "\\" in name for name in classes):
        raise UserError(f"{path}: a class name is not a folder name")
    refuse_case_twins(classes, path)


def check_archivable(source: Source) -> None:
    """Check the names of a source of files, which may have what an archive's must not: a backslash.

    Raises:
        UserError: As ``check_archive_names``.
    """
    named = (sample.name for sample in source.samples)
    check_archive_names((name for name in named if "\\" in name), source.classes, source.root)
