"""What every output format does: name images, encode them, write them in chunks, put all together."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from unlearnable_kernels.data.manifest_entries import Entry
from unlearnable_kernels.data.source import Source
from unlearnable_kernels.errors import UserError


@dataclass(frozen=True)
class Destination:
    """Where a dataset is written, and what it is a copy of.

    Attributes:
        tree: Folder that becomes the dataset.
        parts: Folder for pieces that are not yet part of it; it is deleted in the end.
        source: What is copied; its ``samples`` may be missing.
        shape: (height, width, 3) of the first image.
    """

    tree: Path
    parts: Path
    source: Source
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WrittenChunk:
    """One chunk of the dataset as it was written. Lists are by position within the chunk.

    Attributes:
        index: Number of the chunk.
        outputs: From ``Writer.outputs``.
        labels: Index into the classes.
        protected: Whether the image differs from the source's on purpose.
        skipped: Positions of images that could not be written.
        sha256: What ``Writer.write`` returned.
    """

    index: int
    outputs: Sequence[str]
    labels: Sequence[int]
    protected: Sequence[bool]
    skipped: frozenset[int]
    sha256: Sequence[str | None]

    @property
    def written(self) -> list[int]:
        """Positions of the images that were written, ascending."""
        return [position for position in range(len(self.outputs)) if position not in self.skipped]


@dataclass(frozen=True)
class Writer(ABC):
    """An output format; its fields are its settings, as in ``--format jpeg:quality=90``.

    Worker processes call ``encode`` and ``write``, each chunk in one of them; the main process does the
    rest: ``outputs`` first, ``prepare`` before any chunk, ``seal`` and then ``entries`` after all of them.
    The bytes that result depend on the images and the settings alone.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool] = True
    encodes: ClassVar[bool] = True
    """Whether encoding takes so long that worker processes pay."""

    one_size: ClassVar[bool] = False
    """Whether all images must have one size."""

    libraries: ClassVar[tuple[str, ...]] = ()
    """Packages besides the image codecs whose versions decide the bytes, by their names in registries."""

    def check(self) -> None:  # noqa: B027 (nothing to check unless there are settings)
        """Check the settings.

        Raises:
            UserError: One is out of range.
        """

    @abstractmethod
    def outputs(self, source: Source) -> Sequence[str]:
        """One name for each sample of ``source``, unique, by which the manifest calls what becomes of it.

        Raises:
            UserError: A name is taken by the manifest, or is one that this format's readers refuse.
        """

    @abstractmethod
    def prepare(self, destination: Destination, outputs: Sequence[str]) -> None:
        """Make the folders that ``write`` needs, where they are missing. Raises OSError."""

    @abstractmethod
    def encode(self, image: np.ndarray, destination: Destination, name: str, profile: bytes) -> bytes:
        """What is stored of one image.

        Args:
            image: uint8 [H, W, 3], RGB.
            destination: Where it goes.
            name: Its sample's, which messages call it by.
            profile: Its ICC profile, to be kept where the format has a place for one; empty without one.

        Raises:
            ImageError: This image cannot be stored in this format; it may be skipped.
            UserError: Images like this one cannot.
        """

    @abstractmethod
    def write(
        self,
        destination: Destination,
        index: int,
        outputs: Sequence[str],
        encoded: Iterable[tuple[int, bytes]],
    ) -> list[str | None]:
        """Write one chunk, over whatever an earlier attempt left of it.

        Args:
            destination: Where it goes.
            index: Number of the chunk.
            outputs: Names of the images of the chunk.
            encoded: (position within the chunk, what ``encode`` returned), in any order; some may be missing.

        Returns:
            SHA-256, hexadecimal, of each of ``files``; None for one that was not written.

        Raises:
            WriteError: The disk is full, or the like.
        """

    @abstractmethod
    def files(self, destination: Destination, index: int, outputs: Sequence[str]) -> list[Path]:
        """The files that ``write`` writes for a chunk."""

    @abstractmethod
    def seal(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> None:
        """Put the chunks, all of them in order, together in ``destination.tree``. Raises OSError."""

    @abstractmethod
    def entries(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> Iterator[Entry]:
        """The manifest's entries for the images in what ``seal`` made, in their order. Raises OSError."""

    def side_files(self, destination: Destination) -> dict[str, str]:
        """SHA-256, by its path, of every other file that ``seal`` made. Raises OSError."""
        return {}


def read_piece(path: Path, digest: str | None) -> bytes:
    """What ``write`` left of a chunk, for ``seal``.

    Raises:
        OSError: It cannot be read.
        UserError: It has another SHA-256 by now.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{path} has changed since it was written; run the same command again with --rehash")
    return data


def one_file_each(chunks: Iterable[WrittenChunk]) -> Iterator[Entry]:
    """The entries of a dataset whose images are files of their own, named as ``Writer.outputs`` says."""
    for chunk in chunks:
        for position in chunk.written:
            digest = chunk.sha256[position]
            assert digest is not None
            yield Entry(chunk.outputs[position], digest, chunk.labels[position], chunk.protected[position])
