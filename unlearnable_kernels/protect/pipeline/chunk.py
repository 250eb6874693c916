"""From one chunk of the source to its protected files: read, decode, treat, encode, write, hash."""

import errno
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from unlearnable_kernels.data.images import encode
from unlearnable_kernels.data.source import Sample, Source, load_image
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.files import write_file
from unlearnable_kernels.protect.methods.method import Perturbation

# Decoded pixels that wait for the perturbation: enough for a batch, little beside a worker's own size.
BATCH_BYTES = 32 * 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Chunk:
    """Samples that are processed, written and recorded together; ``assignment`` as in ``method.Method``."""

    index: int
    samples: list[Sample]
    assignment: list[int]
    outputs: list[str]


@dataclass(frozen=True)
class Result:
    """What became of a chunk: SHA-256 of each file (None where skipped), and why some were, by position.

    A chunk that goes into an array is one file, whatever it holds.
    """

    index: int
    sha256: list[str | None]
    skipped: dict[int, str]


@dataclass(frozen=True)
class Rendering:
    """How images are rendered, all that a worker needs to know besides its chunks.

    ``folder`` receives the files; ``shape`` [H, W, 3] is that of all images if they go into an array.
    """

    source: Source
    perturbation: Perturbation
    resize: int | None
    format: str
    quality: int | None
    skip_bad: bool
    folder: str
    shape: tuple[int, ...] | None
    _buffers: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def render(self, chunk: Chunk) -> Result:
        """Write a chunk's files, over whatever bears their names. Raises UserError."""
        skipped: dict[int, str] = {}
        if self.shape is not None:
            return self._render_array(chunk, skipped)
        hashes: list[str | None] = [None] * len(chunk.samples)
        for positions, images in self._treated(chunk, skipped):
            for position, image in zip(positions, images, strict=True):
                try:
                    data = self._encoded(image, chunk.samples[position].name)
                except ImageError as error:
                    self._skip(error, chunk, position, skipped)
                    continue
                write_file(f"{self.folder}/{chunk.outputs[position]}", data)
                hashes[position] = hashlib.sha256(data).hexdigest()
        return Result(chunk.index, hashes, skipped)

    def _render_array(self, chunk: Chunk, skipped: dict[int, str]) -> Result:
        rows: dict[int, bytes] = {}
        for positions, images in self._treated(chunk, skipped):
            rows.update(zip(positions, map(np.ndarray.tobytes, images), strict=True))
        data = b"".join(rows[position] for position in sorted(rows))
        write_file(array_file(self.folder, chunk.index), data)
        return Result(chunk.index, [hashlib.sha256(data).hexdigest()], skipped)

    def _treated(self, chunk: Chunk, skipped: dict[int, str]) -> Iterator[tuple[list[int], np.ndarray]]:
        """(positions, protected images [n, H, W, 3]) in batches of one shape; the array is reused."""
        waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = defaultdict(list)
        size = 0
        for position, sample in enumerate(chunk.samples):
            try:
                image = self._load(sample)
            except ImageError as error:
                self._skip(error, chunk, position, skipped)
                continue
            waiting[image.shape].append((position, image))
            size += image.nbytes
            if size >= BATCH_BYTES:
                yield from map(self._treat, waiting.values(), [chunk] * len(waiting))
                waiting.clear()
                size = 0
        yield from map(self._treat, waiting.values(), [chunk] * len(waiting))

    def _treat(self, group: list[tuple[int, np.ndarray]], chunk: Chunk) -> tuple[list[int], np.ndarray]:
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

    def _load(self, sample: Sample) -> np.ndarray:
        image = load_image(self.source, sample, self.resize)
        if self.shape is not None and image.shape != self.shape:
            raise UserError(
                f"{sample.name}: {image.shape[1]}x{image.shape[0]} pixels, but the first image has "
                f"{self.shape[1]}x{self.shape[0]}, and an array needs one size: resize, or another format"
            )
        return image

    def _encoded(self, image: np.ndarray, name: str) -> bytes:
        try:
            return encode(image, self.format, 0 if self.quality is None else self.quality)
        except ValueError as error:
            raise ImageError(f"{name}: cannot be written as {self.format}: {error}") from None

    def _skip(self, error: ImageError, chunk: Chunk, position: int, skipped: dict[int, str]) -> None:
        if not self.skip_bad:
            raise error
        # The manifest has the name beside it, and no business with the folder that it lay in.
        skipped[position] = str(error).rpartition(f"{chunk.samples[position].name}: ")[2]


def array_file(folder: str, index: int) -> str:
    """Where the pixels of a chunk wait until the array is put together."""
    return f"{folder}/{index:08d}.raw"
