"""WebDataset: tar shards in which KEY.png and KEY.cls are an image and its label, with an index beside them.

The index, SPLIT-index.json, has the names of the classes, which tars have no place for, and where every
image lies, so that a set is opened without reading its shards. Shards from elsewhere are read through once
instead; their classes are called what their .cls files hold, as a rule numbers.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unlearnable_kernels.data.folder_scan import has_image_suffix, is_ignored_path, is_utf8
from unlearnable_kernels.data.formats import FORMATS, WRITERS
from unlearnable_kernels.data.formats.folder import dataset_name
from unlearnable_kernels.data.images import SUFFIX
from unlearnable_kernels.data.manifest import canonical
from unlearnable_kernels.data.originals import stem
from unlearnable_kernels.data.remote import open_file, read_at, read_file, url_of
from unlearnable_kernels.data.shards import (
    Row,
    ShardedSample,
    ShardedSource,
    Shards,
    ShardWriter,
    find_shards,
    sample_name,
    split_name,
)
from unlearnable_kernels.data.source import Sample, Source, check_archive_names
from unlearnable_kernels.data.writer import Destination
from unlearnable_kernels.errors import ImageError, UserError, shown
from unlearnable_kernels.files import parse_json, write_file

_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)  # as the readers split names
_LONGEST_LABEL = 255
_INDEX_VERSION = 1
_COLUMNS = {"names": str, "labels": int, "offsets": int, "sizes": int}


class WebDatasetSource(ShardedSource):
    """Images as members of tars."""

    def read(self, sample: Sample) -> bytes:
        assert isinstance(sample, ShardedSample)
        path = self.path_of(sample)
        try:
            data = read_at(path, sample.position, sample.size, sample.mtime_ns)
        except UserError as error:
            raise ImageError(str(error)) from None
        if len(data) != sample.size:
            raise ImageError(f"{url_of(path)}: ends within {shown(sample.name)}")
        return data


@FORMATS.register("webdataset", "WebDataset: .tar shards of images and .cls files, with or without an index")
def open_webdataset(root: Path, split: str, on_error: str) -> Source | None:
    """A folder of tars, or one of them."""
    shards = find_shards(root, split, ".tar")
    if shards is None:
        return None
    source = WebDatasetSource(
        root=root,
        name="",
        layout="webdataset",
        split=shards.split,
        prefix="",
        classes=[],
        samples=[],
        left_out=shards.left_out,
        folder=shards.folder,
        shards=[file.name for file in shards.files],
    )
    index = index_name(shards.split or "train")
    if index in shards.others:
        _take_index(source, shards, shards.folder / index)
    else:
        _take_members(source, shards, on_error)
    if not source.samples and not source.skipped:
        raise UserError(f"{url_of(shards.folder / source.shards[0])}: holds no image with a .cls file")
    check_archive_names((s.name for s in source.samples), source.classes, shards.folder)
    source.name = dataset_name(root.parent if root.name.endswith(".tar") else root, source.classes)
    return source


def index_name(split: str) -> str:
    """The name of the index of a split."""
    return f"{split}-index.json"


def _take_index(source: WebDatasetSource, shards: Shards, path: Path) -> None:
    """Fill in the classes and samples that the index lists. Raises UserError unless it fits the shards."""
    try:
        index = parse_json(read_file(path))
        classes, tables = index["classes"], index["shards"]
        named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        if index["version"] != _INDEX_VERSION or not named:
            raise ValueError("another version, or no classes")
        for table in tables:
            _check_table(table, len(classes))
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{url_of(path)}: not an index of shards, or damaged ({error})") from None
    source.classes = classes
    if source.root.name.endswith(".tar"):  # one of the shards
        tables = [table for table in tables if table["name"] in source.shards]
    listed = [table["name"] for table in tables]
    samples: list[Sample] = []
    for number, (file, table) in enumerate(zip(shards.files, tables, strict=False)):
        if table["name"] == file.name and table["bytes"] != file.size:
            raise UserError(
                f"{url_of(shards.folder / file.name)}: has {file.size} bytes, but {table['bytes']} by "
                f"{path.name}: it is truncated or has changed"
            )
        rows = zip(*(table[column] for column in _COLUMNS), strict=True)
        samples += [ShardedSample(n, y, s, file.mtime_ns, number, at) for n, y, at, s in rows]
    source.samples = samples
    if listed != source.shards:
        name = min(set(listed) ^ set(source.shards), default=path.name)
        raise UserError(
            f"{url_of(shards.folder / name)}: the shards here are not those that {path.name} lists; without "
            "that file they are taken as they are"
        )


def _check_table(table: dict[str, Any], classes: int) -> None:
    columns = [table[column] for column in _COLUMNS]
    for values, kind in zip(columns, _COLUMNS.values(), strict=True):
        if len(values) != len(columns[0]) or not all(type(value) is kind for value in values):
            raise ValueError("a column of another length or type")
    _, labels, offsets, sizes = columns
    end = table["bytes"]
    if not all(0 <= label < classes for label in labels):
        raise ValueError("a label without a class")
    if not all(at >= 0 and size >= 0 and at + size <= end for at, size in zip(offsets, sizes, strict=True)):
        raise ValueError("an image beyond the end of its shard")


class _Member(NamedTuple):
    """A member of a tar: its name, its size, and where it begins."""

    name: str
    size: int
    offset: int


class _Found(NamedTuple):
    """An image and the text of its label."""

    image: _Member
    label: str
    shard: int
    mtime_ns: int


def _take_members(source: WebDatasetSource, shards: Shards, on_error: str) -> None:
    """Fill in the classes and samples that the shards themselves hold."""
    found: list[_Found] = []
    for number, file in enumerate(shards.files):
        path = shards.folder / file.name
        for key, group in _groups(path).items():
            try:
                image, label = _pair(path, key, group)
            except ImageError as error:
                if on_error == "raise":
                    raise
                source.skipped.append((shown(key), str(error).rpartition(f"{shown(key)}: ")[2]))
                continue
            if image is not None:
                found.append(_Found(image, label, number, file.mtime_ns))
    texts = {each.label for each in found}
    source.classes = sorted(texts, key=int if all(map(str.isdecimal, texts)) else str)
    labels = {name: label for label, name in enumerate(source.classes)}
    source.samples = [
        ShardedSample(
            name=sample_name(source.classes, labels[each.label], each.image.name),
            label=labels[each.label],
            size=each.image.size,
            mtime_ns=each.mtime_ns,
            shard=each.shard,
            position=each.image.offset,
        )
        for each in found
    ]


def _groups(path: Path) -> dict[str, dict[str, _Member]]:
    """The members of a tar by key and by what follows it; what has no key is passed over, as readers do."""
    groups: dict[str, dict[str, _Member]] = {}
    for member in _members(path):
        if not (matched := _KEY.fullmatch(member.name)):
            continue
        key, rest = matched.groups()
        group = groups.setdefault(key, {})
        if rest.lower() in group:
            raise UserError(f"{url_of(path)}: the name {member.name!r} occurs twice")
        group[rest.lower()] = member
    return groups


def _members(path: Path) -> Iterator[_Member]:
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isdir() or is_ignored_path(name):
                    continue
                if not member.isreg() or member.issparse():
                    raise UserError(f"{url_of(path)}: {shown(name)} is a link or device, and no file")
                if not is_utf8(name):
                    raise UserError(f"{url_of(path)}: the name {shown(name)} is not UTF-8")
                check_archive_names([name], [], path)
                yield _Member(name, member.size, member.offset_data)
                archive.members.clear()  # type: ignore[attr-defined]
            # A damaged header ends a tar as far as tarfile is concerned; a mark of zeros ends a whole one.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{url_of(path)}: not a tar, or truncated ({error})") from None


def _pair(path: Path, key: str, group: dict[str, _Member]) -> tuple[_Member | None, str]:
    """The image of a key and the text of its label; no image where there is neither.

    Raises:
        ImageError: There is one without the other, or several images.
    """
    where = f"{url_of(path)}: {shown(key)}: "
    images = [member for rest, member in group.items() if has_image_suffix(f"{key}.{rest}")]
    if not images and "cls" not in group:
        return None, ""
    if len(images) != 1:
        raise ImageError(f"{where}{len(images) or 'no'} images beside its label; there must be one")
    if "cls" not in group:
        raise ImageError(f"{where}has no label, a file {shown(key)}.cls")
    member = group["cls"]
    try:
        label = read_at(path, member.offset, min(member.size, _LONGEST_LABEL + 1)).decode().strip()
    except UnicodeDecodeError:
        label = ""
    if not label.isprintable() or not 0 < len(label) <= _LONGEST_LABEL or "/" in label:
        raise ImageError(f"{where}its .cls file must hold a number or a name of up to {_LONGEST_LABEL} bytes")
    return images[0], str(int(label)) if label.isdecimal() else label


@WRITERS.register("webdataset", "WebDataset: .tar shards of images and .cls files, with an index")
@dataclass(frozen=True)
class WebDatasetWriter(ShardWriter):
    """Tars in GNU's format, whose headers say no time, no owner and no machine."""

    suffix = ".tar"

    def shard_name(self, split: str, number: int, total: int) -> str:
        return f"{split}-{number:06d}.tar"

    def write_shard(self, path: Path, rows: Iterable[Row], source: Source) -> dict[str, Any]:
        table: dict[str, Any] = {"name": path.name, **{column: [] for column in _COLUMNS}}
        keys: set[str] = set()
        with path.open("wb") as file:
            for name, label, data in rows:
                key = _key(name, keys)
                for suffix, content in ((SUFFIX[self.images], data), (".cls", str(label).encode())):
                    file.write(_header(key + suffix, len(content)))
                    if content is data:
                        values = (name, label, file.tell(), len(data))
                        for column, value in zip(_COLUMNS, values, strict=True):
                            table[column].append(value)
                    file.write(content)
                    file.write(bytes(-len(content) % tarfile.BLOCKSIZE))
            end = file.tell() + 2 * tarfile.BLOCKSIZE
            file.write(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))
            table["bytes"] = file.tell()
        return table

    def write_index(self, destination: Destination, names: Sequence[str], tables: Sequence[Any]) -> None:
        index = {"version": _INDEX_VERSION, "classes": destination.source.classes, "shards": list(tables)}
        write_file(
            destination.tree / index_name(split_name(destination.source)),
            canonical(index) + b"\n",
        )

    def index_name(self, source: Source) -> str:
        return index_name(split_name(source))


def _key(name: str, taken: set[str]) -> str:
    """The name without its suffix and, since readers split it at the first, without other dots.

    Args:
        name: Of the image.
        taken: The keys of the shard so far, to which this one is added.
    """
    folder, slash, last = stem(name).rpartition("/")
    key = folder + slash + last.replace(".", "_")
    while key in taken:
        key += "_"
    taken.add(key)
    return key


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
