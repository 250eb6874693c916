"""Parquet as Hugging Face keeps image datasets: a column of encoded images with their names, one of labels.

The schema's metadata has the names of the classes. Only whole row groups can be read, so they are small:
100 images, as Hugging Face writes them.
"""

from __future__ import annotations

import json
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unlearnable_kernels.data.formats import FORMATS, WRITERS
from unlearnable_kernels.data.formats.folder import dataset_name
from unlearnable_kernels.data.remote import is_remote, open_file, url_of
from unlearnable_kernels.data.shards import (
    Row,
    ShardedSample,
    ShardedSource,
    ShardWriter,
    find_shards,
    sample_name,
)
from unlearnable_kernels.data.source import Sample, Source, check_archive_names
from unlearnable_kernels.errors import ImageError, UserError, shown
from unlearnable_kernels.extras import extra_module

ROW_GROUP = 100
_GROUP_BYTES = 2**28
_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "fine_label")
_GROUPS_KEPT = 2
_kept = threading.local()


@dataclass
class ParquetSource(ShardedSource):
    """Images as rows of tables.

    Attributes:
        column: Of their bytes, such as "image.bytes".
        starts: Of each shard the first row of each of its row groups, and behind them the number of rows.
    """

    column: str = field(kw_only=True)
    starts: list[list[int]] = field(kw_only=True)

    @property
    def block(self) -> int:
        return max(end - start for starts in self.starts for start, end in pairwise(starts))

    def read(self, sample: Sample) -> bytes:
        assert isinstance(sample, ShardedSample)
        path, starts = self.path_of(sample), self.starts[sample.shard]
        group = bisect_right(starts, sample.position) - 1
        try:
            rows = _row_group(path, group, self.column, sample.mtime_ns)
            data = rows[sample.position - starts[group]].as_py()
        except (UserError, IndexError) as error:
            raise ImageError(f"{shown(sample.name)}: {error}") from None
        content = data["bytes"] if isinstance(data, dict) else data
        if not isinstance(content, bytes):
            raise ImageError(f"{url_of(path)}: {shown(sample.name)}: its row has no bytes")
        return content


def _row_group(path: Path, group: int, column: str, version: int) -> Any:
    """A column of a row group: a chunked array [rows] of bytes, or of structs of them.

    This thread's last ones are kept: images are asked for in the order of the rows.
    """
    if getattr(_kept, "process", None) != os.getpid():
        _kept.process, _kept.groups = os.getpid(), OrderedDict()
    groups: OrderedDict[tuple[Path, int, int], Any] = _kept.groups
    key = path, group, version
    if key not in groups:
        with _table(path) as table:
            read = table.read_row_group(group, columns=[column], use_threads=False)
        groups[key] = read.column(0)
        if len(groups) > _GROUPS_KEPT:
            groups.popitem(last=False)
    groups.move_to_end(key)
    return groups[key]


@contextmanager
def _table(path: Path) -> Iterator[Any]:
    """A shard as pyarrow.parquet.ParquetFile. Raises UserError where it is damaged."""
    parquet, arrow = extra_module("pyarrow.parquet"), extra_module("pyarrow")
    try:
        # By its name where it is here: a file object would be read under the interpreter's lock.
        place = open_file(path) if is_remote(path) else str(path)
        with parquet.ParquetFile(place, page_checksum_verification=True) as table:
            yield table
    except UserError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{url_of(path)}: not Parquet, or damaged ({shown(reason)})") from None


class _Columns(NamedTuple):
    """What one shard says of its images.

    Attributes:
        bytes: Name of the column of their bytes.
        paths: What each is called, or None.
        labels: Of each.
        classes: Names of the classes, if it says so.
        starts: As in ``ParquetSource``.
        sizes: Bytes of each, as a mean over its row group.
    """

    bytes: str
    paths: list[str | None]
    labels: list[Any]
    classes: list[str] | None
    starts: list[int]
    sizes: list[int]


@FORMATS.register("parquet", "Parquet as Hugging Face has it: .parquet shards of images and labels")
def open_parquet(root: Path, split: str, on_error: str) -> Source | None:
    """A folder of tables, or one of them."""
    shards = find_shards(root, split, ".parquet")
    if shards is None:
        return None
    paths = [shards.folder / file.name for file in shards.files]
    columns = [_read_columns(path) for path in paths]
    first = columns[0]
    for path, each in zip(paths, columns, strict=True):
        if (each.bytes, each.classes) != (first.bytes, first.classes):
            raise UserError(f"{url_of(path)}: has other columns or classes than {paths[0].name}")
    classes, labels = _classes(paths, columns)
    names = _names([path for each in columns for path in each.paths], labels, classes)
    check_archive_names(names, classes, shards.folder)
    places = [
        (size, file.mtime_ns, number, row)
        for number, (each, file) in enumerate(zip(columns, shards.files, strict=True))
        for row, size in enumerate(each.sizes)
    ]
    if not places:
        raise UserError(f"{url_of(paths[0])}: holds no images")
    return ParquetSource(
        root=root,
        name=dataset_name(root.parent if root.name.endswith(".parquet") else root, classes),
        layout="parquet",
        split=shards.split,
        prefix="",
        classes=classes,
        samples=[
            ShardedSample(name, label, *place)
            for name, label, place in zip(names, labels, places, strict=True)
        ],
        left_out=shards.left_out,
        folder=shards.folder,
        shards=[file.name for file in shards.files],
        column=first.bytes,
        starts=[each.starts for each in columns],
    )


def _read_columns(path: Path) -> _Columns:
    """All but the images themselves."""
    with _table(path) as table:
        schema = table.schema_arrow
        image = next((name for name in _IMAGES if name in schema.names), None)
        label = next((name for name in _LABELS if name in schema.names), None)
        if image is None or label is None:
            has = shown(", ".join(schema.names))
            raise UserError(f"{url_of(path)}: needs the columns image and label, and has {has}")
        fields = _fields(schema.field(image).type)
        if fields is None:
            raise UserError(f"{url_of(path)}: its column {image} has no bytes of files")
        leaf, path_leaf = (f"{image}.bytes" if fields else image), f"{image}.path"
        groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
        read = table.read(columns=[label, *([path_leaf] if "path" in fields else [])], use_threads=False)
        rows = read.column(image).to_pylist() if "path" in fields else [None] * read.num_rows
        means = [_bytes_in(group, leaf) // max(1, group.num_rows) for group in groups]
        return _Columns(
            bytes=leaf,
            paths=[row["path"] if row else None for row in rows],
            labels=read.column(label).to_pylist(),
            classes=_class_names(schema.metadata, label),
            starts=[0, *accumulate(group.num_rows for group in groups)],
            sizes=[mean for mean, group in zip(means, groups, strict=True) for _ in range(group.num_rows)],
        )


def _fields(kind: Any) -> set[str] | None:
    """The fields of a struct of bytes and more, none for a column of bytes; None for anything else."""
    types = extra_module("pyarrow").types
    if types.is_binary(kind) or types.is_large_binary(kind):
        return set()
    fields = {part.name for part in kind} if types.is_struct(kind) else set()
    return fields if "bytes" in fields else None


def _bytes_in(group: Any, leaf: str) -> int:
    columns = [group.column(number) for number in range(group.num_columns)]
    return sum(column.total_compressed_size for column in columns if column.path_in_schema == leaf)


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> list[str] | None:
    """What Hugging Face's part of the schema's metadata calls the classes, if it does."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (ValueError, LookupError, TypeError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _classes(paths: Sequence[Path], columns: Sequence[_Columns]) -> tuple[list[str], list[int]]:
    """The classes, and the label of every image. Raises UserError for a label that is none."""
    first = next((label for shard in columns for label in shard.labels), 0)
    kind = str if isinstance(first, str) else int
    names = columns[0].classes if kind is int else None
    for path, shard in zip(paths, columns, strict=True):
        for row, label in enumerate(shard.labels):
            beyond = isinstance(label, int) and (label < 0 or (names is not None and label >= len(names)))
            if type(label) is not kind or beyond:
                among = " of 0 or more" if beyond else ""
                among = among if names is None else f" from 0 to {len(names) - 1}"
                raise UserError(
                    f"{url_of(path)}: row {row} must have a label{among}, not {shown(str(label))}"
                )
    labels = [label for shard in columns for label in shard.labels]
    if names is not None:
        return names, labels
    found = sorted(set(labels))
    places = {label: place for place, label in enumerate(found)}
    return [str(label) for label in found], [places[label] for label in labels]


def _names(paths: Sequence[str | None], labels: Sequence[int], classes: Sequence[str]) -> list[str]:
    """A name for every image: the one that its row has, or numbers where not every row has its own."""
    if all(paths):
        names = [sample_name(classes, label, str(p)) for p, label in zip(paths, labels, strict=True)]
        if len(set(names)) == len(names):
            return names
    return [f"{classes[label]}/{row:08d}" for row, label in enumerate(labels)]


@WRITERS.register("parquet", "Parquet as Hugging Face has it: columns image and label, names of classes")
@dataclass(frozen=True)
class ParquetWriter(ShardWriter):
    """Images stay as they are encoded; nothing of them is compressed again."""

    suffix = ".parquet"
    libraries = ("pyarrow",)

    def check(self) -> None:
        super().check()
        extra_module("pyarrow.parquet")  # now rather than when all images are rendered

    def shard_name(self, split: str, number: int, total: int) -> str:
        return f"{split}-{number:05d}-of-{total:05d}.parquet"

    def write_shard(self, path: Path, rows: Iterable[Row], source: Source) -> None:
        arrow, parquet = extra_module("pyarrow"), extra_module("pyarrow.parquet")
        schema = _schema(source.classes)
        image, label = (schema.field(name).type for name in ("image", "label"))
        with parquet.ParquetWriter(
            str(path),
            schema,
            version="2.6",
            compression="none",
            use_dictionary=False,
            write_statistics=["label"],
            write_page_checksum=True,
        ) as table:
            for group in _row_groups(rows):
                contents = _packed([row.data for row in group], image[0].type)
                paths = _packed([row.name.encode() for row in group], image[1].type)
                images = arrow.StructArray.from_arrays([contents, paths], fields=list(image))
                numbers = arrow.py_buffer(np.array([row.label for row in group], np.int64))
                labels = arrow.Array.from_buffers(label, len(group), [None, numbers])
                table.write_table(arrow.Table.from_arrays([images, labels], schema=schema))


def _row_groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        if len(group) == ROW_GROUP or (group and size + len(row.data) > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(row)
        size += len(row.data)
    if group:
        yield group


def _packed(values: list[bytes], kind: Any) -> Any:
    """An array of Arrow of these values; ``pyarrow.array`` would import pandas first, for seconds."""
    arrow = extra_module("pyarrow")
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    buffers = [None, arrow.py_buffer(offsets), arrow.py_buffer(b"".join(values))]
    return arrow.Array.from_buffers(kind, len(values), buffers)


def _schema(classes: Sequence[str]) -> Any:
    arrow = extra_module("pyarrow")
    features = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    return arrow.schema(
        [("image", image), ("label", arrow.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
