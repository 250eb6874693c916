"""From one chunk of the source to its protected images: read, decode, perturb, encode, write."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from unlearnable_kernels.data.source import Sample, Source, load_with_profile
from unlearnable_kernels.data.writer import Destination, Writer
from unlearnable_kernels.errors import ImageError, shown
from unlearnable_kernels.files import writing
from unlearnable_kernels.protect.methods.method import Perturbation

# Decoded pixels that wait to be perturbed: enough for a batch, little beside a worker's own size.
BATCH_BYTES = 32 * 2**20


class Item(Protocol):
    """What executors hand out: a chunk, or files to check."""

    @property
    def index(self) -> int:
        """Its number."""

    @property
    def pictures(self) -> str:
        """What is in it, for messages."""


C = TypeVar("C", bound=Item)
R = TypeVar("R")
_C = TypeVar("_C", bound=Item, contravariant=True)
_R = TypeVar("_R", covariant=True)


class Work(Protocol[_C, _R]):
    """What is done to each item, wherever that is. It can be pickled."""

    def render(self, chunk: _C) -> _R:
        """Do one. Raises UserError."""


@dataclass(frozen=True)
class Chunk:
    """Samples that are processed, written and recorded together.

    Attributes:
        index: Number of the chunk.
        samples: Its images.
        assignment: Of each sample, as ``Method.assignment`` gives it.
        outputs: Of each sample, as ``Writer.outputs`` gives them.
        digest: SHA-256, in hex, of all that decides what is written of it: while that is the same, it need
            not be rendered again.
    """

    index: int
    samples: Sequence[Sample]
    assignment: Sequence[int]
    outputs: Sequence[str]
    digest: str = ""

    @property
    def pictures(self) -> str:
        """Its pictures, for messages."""
        first, last = self.samples[0].name, self.samples[-1].name
        if len(self.samples) == 1:
            return shown(first)
        return f"{len(self.samples)} pictures from {shown(first)} to {shown(last)}"


@dataclass(frozen=True)
class Result:
    """What became of a chunk.

    Attributes:
        index: Number of the chunk.
        sha256: What ``Writer.write`` returned.
        skipped: Why an image was skipped, by its position within the chunk.
        sizes: Bytes of each of those files; None for one that was not written.
    """

    index: int
    sha256: list[str | None]
    skipped: dict[int, str]
    sizes: list[int | None]


@dataclass(frozen=True)
class Rendering:
    """How images are rendered: all that a worker needs to know besides its chunks. It can be pickled."""

    source: Source
    perturbation: Perturbation
    writer: Writer
    destination: Destination
    resize: int | None
    skip_bad: bool
    _buffers: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def render(self, chunk: Chunk) -> Result:
        """Write a chunk's images, over those of an earlier attempt.

        Raises:
            UserError: An image cannot be processed, or not written.
        """
        skipped: dict[int, str] = {}
        encoded = self._encoded(chunk, skipped)
        digests = self.writer.write(self.destination, chunk.index, chunk.outputs, encoded)
        files = self.writer.files(self.destination, chunk.index, chunk.outputs)
        with writing(self.destination.tree):
            sizes = [
                None if digest is None else file.stat().st_size
                for file, digest in zip(files, digests, strict=True)
            ]
        return Result(chunk.index, digests, skipped, sizes)

    def _encoded(self, chunk: Chunk, skipped: dict[int, str]) -> Iterator[tuple[int, bytes]]:
        profiles: dict[int, bytes] = {}
        for positions, images in self._perturbed(chunk, skipped, profiles):
            for position, image in zip(positions, images, strict=True):
                name, profile = chunk.samples[position].name, profiles.pop(position)
                try:
                    data = self.writer.encode(image, self.destination, name, profile)
                except ImageError as error:
                    self._skip(error, chunk, position, skipped)
                else:
                    yield position, data

    def _perturbed(
        self, chunk: Chunk, skipped: dict[int, str], profiles: dict[int, bytes]
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """(positions, protected images [n, H, W, 3]) in batches of one shape; the array is reused."""
        waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = defaultdict(list)
        size = 0
        for position, sample in enumerate(chunk.samples):
            try:
                image, profiles[position] = load_with_profile(self.source, sample, self.resize)
            except ImageError as error:
                self._skip(error, chunk, position, skipped)
                continue
            waiting[image.shape].append((position, image))
            size += image.nbytes
            if size >= BATCH_BYTES:
                yield from map(self._perturb, waiting.values(), [chunk] * len(waiting))
                waiting.clear()
                size = 0
        yield from map(self._perturb, waiting.values(), [chunk] * len(waiting))

    def _perturb(self, group: list[tuple[int, np.ndarray]], chunk: Chunk) -> tuple[list[int], np.ndarray]:
        positions = [position for position, _ in group]
        shape = (len(group), *group[0][1].shape)
        batch, result = self._buffer("in", shape), self._buffer("out", shape)
        np.stack([image for _, image in group], out=batch)
        self.perturbation.apply(batch, [chunk.assignment[position] for position in positions], result)
        return positions, result

    def _buffer(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Reused from call to call: the page faults of fresh memory cost more than a filter."""
        size = int(np.prod(shape))
        kept = self._buffers.get(name)
        if kept is None or kept.size < size:
            kept = self._buffers[name] = np.empty(size, dtype=np.uint8)
        return kept[:size].reshape(shape)

    def _skip(self, error: ImageError, chunk: Chunk, position: int, skipped: dict[int, str]) -> None:
        if not self.skip_bad:
            raise error
        # The manifest has the name beside it; the folder it lay in is the owner's own affair.
        reason = str(error).rpartition(f"{chunk.samples[position].name}: ")[2]
        for folder in (self.source.root, self.source.root.parent):
            reason = reason.replace(f"{folder}/", "")
        skipped[position] = reason
