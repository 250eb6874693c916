"""Datasets in shards, files that hold many images each: what the formats for them have in common.

To be written, the images of a chunk wait in a piece of their own. In the end every ``shard_size`` images in
the order of the dataset become a shard, whatever the chunks were, so that the shards depend on the images
and the settings alone.
"""

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from unlearnable_kernels.data.formats.folder import output_names
from unlearnable_kernels.data.images import JPEG_QUALITY, SUFFIX, encode
from unlearnable_kernels.data.manifest_entries import Entry
from unlearnable_kernels.data.remote import File, file_at, is_remote, list_folder, url_of
from unlearnable_kernels.data.source import SPLIT_FOLDERS, Sample, Source, check_archivable
from unlearnable_kernels.data.writer import Destination, Writer, WrittenChunk, read_piece
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.files import sha256_of, write_all, writing

SHARD_SIZE = 1000
_NEIGHBOURS = 100  # of a remote store's images, which are asked for by the megabyte
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "val": "test",
    "valid": "test",
    "validation": "test",
}
_WORD = re.compile(rf"(?:^|[-_.])({'|'.join(_SPLIT_WORDS)})(?=[-_.])")


@dataclass(frozen=True, slots=True)
class ShardedSample(Sample):
    """One image of a source in shards.

    Attributes:
        shard: Index into the source's shards.
        position: Where it begins in a tar, or its row in a table.
    """

    shard: int
    position: int


@dataclass
class ShardedSource(Source):
    """A dataset in shards, here or in a remote store.

    Attributes:
        folder: That of the shards.
        shards: Their names in it.
    """

    folder: Path = field(kw_only=True)
    shards: list[str] = field(kw_only=True)

    written_as: ClassVar[str] = "png"
    is_encoded: ClassVar[bool] = True

    @property
    def block(self) -> int:
        return _NEIGHBOURS if is_remote(self.folder) else 1

    def bytes_to_read(self, sample: Sample) -> int:
        return sample.size

    def without_samples(self) -> Source:
        return replace(self, samples=[])

    def path_of(self, sample: Sample) -> Path:
        """The shard that holds a sample."""
        assert isinstance(sample, ShardedSample)
        return self.folder / self.shards[sample.shard]


class Shards(NamedTuple):
    """The shards of one split.

    Attributes:
        folder: Where they lie.
        files: Each of them, by name.
        split: "train", "test", or "" where their names do not say.
        left_out: Names of the shards of other splits.
        others: Names of the other files there.
    """

    folder: Path
    files: list[File]
    split: str
    left_out: list[str]
    others: set[str]


def find_shards(root: Path, split: str, suffix: str) -> Shards | None:
    """The shards of a split in ``root``, in its folder ``data``, or in one named after the split.

    Args:
        root: A folder, or one shard. A folder with folders in it is none of shards, unless they lie in
            one of those.
        split: "train" or "test"; where the names of the shards say train, test, val or validation, only
            those of the split are taken.
        suffix: Of the files' names, such as ".tar".

    Returns:
        None where there is no such file.

    Raises:
        UserError: The folder cannot be read, or has shards of other splits alone.
    """
    if root.name.endswith(suffix) and (file := file_at(root)) is not None:
        others = {each.name for each in list_folder(root.parent)[1]}
        return Shards(root.parent, [file], split_of(root.name), [], others)
    if not is_remote(root) and not root.is_dir():
        return None
    folders, files = list_folder(root)
    named = [name for name in (*SPLIT_FOLDERS[split], "validation", "data") if name in folders]
    for folder, (inner, found) in [
        *((root / name, list_folder(root / name)) for name in named),
        (root, (folders, files)),
    ]:
        shards = [file for file in found if file.name.endswith(suffix)]
        if shards and not inner:
            _refuse_pipes(folder, shards)
            others = {file.name for file in found if not file.name.endswith(suffix)}
            return _of_split(folder, shards, split, others)
    return None


def _refuse_pipes(folder: Path, shards: list[File]) -> None:
    """Raise UserError for a pipe or the like among local shards: whoever opens it waits for it."""
    for file in shards if not is_remote(folder) else ():
        if not (folder / file.name).is_file():
            raise UserError(f"{url_of(folder / file.name)}: not a regular file")


def _of_split(folder: Path, shards: list[File], split: str, others: set[str]) -> Shards:
    splits = {file.name: split_of(file.name) for file in shards}
    if not any(splits.values()):
        return Shards(folder, shards, _SPLIT_WORDS.get(folder.name, ""), [], others)
    taken = [file for file in shards if splits[file.name] == split]
    if not taken:
        raise UserError(f"{url_of(folder)}: holds {shards[0].name} but no shards of the {split} split")
    left = [file.name for file in shards if splits[file.name] != split]
    return Shards(folder, taken, split, left, others)


def split_of(name: str) -> str:
    """Which split the name of a shard says, such as "train-000000.tar"; "" where it says none."""
    found = _WORD.search(name)
    return _SPLIT_WORDS[found[1]] if found else ""


def sample_name(classes: Sequence[str], label: int, name: str) -> str:
    """What an image is called that a shard calls ``name``: a copy as files needs the folder of its class."""
    folder = f"{classes[label]}/"
    return name if name.startswith((folder, "/")) else folder + name  # an absolute one is refused later


class Row(NamedTuple):
    """One image on its way into a shard."""

    name: str
    label: int
    data: bytes


@dataclass(frozen=True)
class ShardWriter(Writer):
    """Images in shards.

    Attributes:
        images: How each image is stored: png, webp (without loss) or jpeg.
        quality: Of a JPEG, from 1 to 100.
        shard_size: Images in a shard; the last one may have fewer.
    """

    images: str = "png"
    quality: int = JPEG_QUALITY
    shard_size: int = SHARD_SIZE

    suffix: ClassVar[str]

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        """Whether pixels survive."""
        return self.images != "jpeg"

    def check(self) -> None:
        if self.images not in SUFFIX:
            raise UserError(f"images must be one of {', '.join(SUFFIX)}, not {self.images!r}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality must be from 1 to 100, not {self.quality}")
        if self.shard_size < 1:
            raise UserError(f"shard_size must be at least 1 image, not {self.shard_size}")

    def format_of(self, name: str) -> str:
        """The format that a sample is written in."""
        return self.images

    def outputs(self, source: Source) -> Sequence[str]:
        """The source's names with the suffix of the images."""
        check_archivable(source)
        return output_names(replace(source, prefix=""), self.format_of)

    def prepare(self, destination: Destination, outputs: Sequence[str]) -> None:
        destination.parts.mkdir(parents=True, exist_ok=True)

    def encode(self, image: np.ndarray, destination: Destination, name: str, profile: bytes) -> bytes:
        try:
            return encode(image, self.images, self.quality, profile)
        except ValueError as error:
            raise ImageError(f"{name}: cannot be written as {self.images}: {error}") from None

    def write(
        self,
        destination: Destination,
        index: int,
        outputs: Sequence[str],
        encoded: Iterable[tuple[int, bytes]],
    ) -> list[str | None]:
        images = dict(encoded)
        order = sorted(images)
        # The sizes of the images first, on a line, which ``_rows`` reads back.
        head = json.dumps([len(images[position]) for position in order]).encode() + b"\n"
        digest = hashlib.sha256()
        with writing(path := self._piece(destination, index)), path.open("wb", buffering=0) as file:
            for data in (head, *(images[position] for position in order)):
                digest.update(data)
                write_all(file.fileno(), data)
        return [digest.hexdigest()]

    def files(self, destination: Destination, index: int, outputs: Sequence[str]) -> list[Path]:
        return [self._piece(destination, index)]

    def _piece(self, destination: Destination, index: int) -> Path:
        return destination.parts / f"{index:08d}.images"

    def seal(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> None:
        for path in destination.tree.glob(f"*{self.suffix}"):
            path.unlink()  # of an attempt that skipped other images
        rows = self._rows(destination, chunks)
        names = self.shard_names(destination, chunks)
        tables = [
            self.write_shard(destination.tree / name, islice(rows, self.shard_size), destination.source)
            for name in names
        ]
        self.write_index(destination, names, tables)

    def _rows(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> Iterator[Row]:
        for chunk in chunks:
            data = read_piece(self._piece(destination, chunk.index), chunk.sha256[0])
            start = data.index(b"\n") + 1
            for position, size in zip(chunk.written, json.loads(data[:start]), strict=True):
                yield Row(chunk.outputs[position], chunk.labels[position], data[start : start + size])
                start += size

    def shard_names(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> list[str]:
        """The names of all shards."""
        total = -(-sum(len(chunk.written) for chunk in chunks) // self.shard_size)
        return [self.shard_name(split_name(destination.source), number, total) for number in range(total)]

    @abstractmethod
    def shard_name(self, split: str, number: int, total: int) -> str:
        """The name of one of ``total`` shards, from 0."""

    @abstractmethod
    def write_shard(self, path: Path, rows: Iterable[Row], source: Source) -> Any:
        """Write a shard and return what ``write_index`` has to know of it. Raises OSError."""

    def write_index(self, destination: Destination, names: Sequence[str], tables: Sequence[Any]) -> None:
        """Write what ``index_name`` names. Raises OSError."""

    def index_name(self, source: Source) -> str | None:
        """The file beside the shards that says what is in them, where there is one."""
        return None

    def entries(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> Iterator[Entry]:
        images = ((chunk, position) for chunk in chunks for position in chunk.written)
        names = self.shard_names(destination, chunks)
        with ThreadPoolExecutor() as pool:
            digests = pool.map(sha256_of, [destination.tree / name for name in names])
            for name, digest in zip(names, digests, strict=True):
                for chunk, row in islice(images, self.shard_size):
                    yield Entry(name, digest, chunk.labels[row], chunk.protected[row], chunk.outputs[row])

    def side_files(self, destination: Destination) -> dict[str, str]:
        index = self.index_name(destination.source)
        return {} if index is None else {index: sha256_of(destination.tree / index)}


def split_name(source: Source) -> str:
    """What the shards of a copy are named after."""
    return source.split or "train"
