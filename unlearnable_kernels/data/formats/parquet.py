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
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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

if TYPE_CHECKING:
    from collections.abc import Iterator

ROW_GROUP = 100
_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "fine_label")
_GROUPS_KEPT = 2
_kept = threading.local()


@dataclass
class ParquetSource(ShardedSource):
    """Images as rows of tables.

    Attributes:
        starts: Of each shard the first row of each of its row groups, and behind them the number of rows.
        column: Of the images: a struct of bytes and path, or the bytes alone.
    """

    starts: list[list[int]] = field(kw_only=True, default_factory=list)
    column: str = field(kw_only=True, default="")

    def read(self, sample: Sample) -> bytes:
        assert isinstance(sample, ShardedSample)
        path, starts = self.path_of(sample), self.starts[sample.shard]
        group = bisect_right(starts, sample.position) - 1
        try:
            column = _row_group(path, group, self.column)
            data = column[sample.position - starts[group]].as_py()
        except (UserError, IndexError) as error:
            raise ImageError(f"{sample.name}: {error}") from None
        if data is None:
            raise ImageError(f"{url_of(path)}: {shown(sample.name)}: its row has no bytes")
        content: bytes = data
        return content


def _row_group(path: Path, group: int, column: str) -> Any:
    """The bytes of the images of a row group: binary [rows]; this thread's last ones are kept."""
    if getattr(_kept, "process", None) != os.getpid():
        _kept.process, _kept.groups = os.getpid(), OrderedDict()
    groups: OrderedDict[tuple[Path, int, str], Any] = _kept.groups
    key = path, group, column
    if key not in groups:
        with _table(path) as table:
            found = table.read_row_group(group, columns=[column], use_threads=False).column(0)
        found = found.combine_chunks()
        is_struct = extra_module("pyarrow").types.is_struct(found.type)
        groups[key] = found.field("bytes") if is_struct else found
        if len(groups) > _GROUPS_KEPT:
            groups.popitem(last=False)
    groups.move_to_end(key)
    return groups[key]


@contextmanager
def _table(path: Path) -> Iterator[Any]:
    """A shard as pyarrow.parquet.ParquetFile. Raises UserError where it is damaged."""
    parquet, arrow = extra_module("pyarrow.parquet"), extra_module("pyarrow")
    try:
        # By name where it is here: Python's files would be read under the interpreter's lock.
        with parquet.ParquetFile(open_file(path) if is_remote(path) else str(path)) as table:
            yield table
    except (arrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"{url_of(path)}: not Parquet, or damaged ({shown(reason)})") from None


class _Columns(NamedTuple):
    """What one shard says of its images: columns, and the classes' names, None where it has none."""

    image: str
    paths: list[str | None]
    labels: list[Any]
    names: list[str] | None
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
    for path, each in zip(paths, columns, strict=True):
        if (each.image, each.names) != (columns[0].image, columns[0].names):
            raise UserError(f"{url_of(path)}: has other columns or classes than {paths[0].name}")
    classes, labels = _classes([(url_of(p), c) for p, c in zip(paths, columns, strict=True)])
    names = _names([path for each in columns for path in each.paths], labels, classes)
    check_archive_names(names, classes, shards.folder)
    places = [
        (each.sizes[row], file.mtime_ns, number, row)
        for number, (each, file) in enumerate(zip(columns, shards.files, strict=True))
        for row in range(len(each.labels))
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
        starts=[each.starts for each in columns],
        column=columns[0].image + (".bytes" if columns[0].paths is not None else ""),
    )


def _read_columns(path: Path) -> _Columns:
    types = extra_module("pyarrow").types
    with _table(path) as table:
        schema, facts = table.schema_arrow, table.metadata
        image = next((name for name in _IMAGES if name in schema.names), None)
        label = next((name for name in _LABELS if name in schema.names), None)
        if image is None or label is None:
            raise UserError(
                f"{url_of(path)}: needs columns image and label, and has {shown(', '.join(schema.names))}"
            )
        kind = schema.field(image).type
        fields = {part.name for part in kind} if types.is_struct(kind) else set()
        if "bytes" not in fields and not (types.is_binary(kind) or types.is_large_binary(kind)):
            raise UserError(f"{url_of(path)}: {image} must be a struct of bytes and path, not {kind}")
        groups = [facts.row_group(number) for number in range(facts.num_row_groups)]
        wanted = [label, *([f"{image}.path"] if "path" in fields else [])]
        values = table.read(columns=wanted, use_threads=False)
        paths = [None] * facts.num_rows
        if "path" in fields:
            paths = [each["path"] if each else None for each in values.column(image).to_pylist()]
        column = f"{image}.bytes" if fields else image
        sizes = [
            sum(g.column(n).total_compressed_size for n in range(g.num_columns) if g.column(n).path_in_schema == column)
            // max(1, g.num_rows)
            for g in groups
        ]
        return _Columns(
            image=column,
            paths=paths,
            labels=values.column(label).to_pylist(),
            names=_class_names(schema.metadata, label),
            starts=[0, *accumulate(group.num_rows for group in groups)],
            sizes=[size for size, group in zip(sizes, groups, strict=True) for _ in range(group.num_rows)],
        )
