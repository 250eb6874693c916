"""What a manifest says of each image of a protected set, and the Parquet parts that hold it for large sets.

A part is a table of at most ``PART_ENTRIES`` rows; the manifest has its SHA-256. Whatever a hostile one says
of itself, what reading it takes is bounded by its size, at most ``_LARGEST``: it is not compressed, and each
text is read once, as from a dictionary, and must be short.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from unlearnable_kernels.data.plain_parquet import is_plain
from unlearnable_kernels.data.remote import file_at, is_remote, read_file, url_of
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.files import open_regular, write_file

PART_ENTRIES = 65_536
_LARGEST = 2**27  # bytes of a part that is read: names of 2 KB each
_LONGEST = 4096  # bytes of one text, as of a path on Linux
_TEXTS = ("file", "name")
_SUFFIX = ".pq"  # not .parquet: a folder of tables would be read with them


class Entry(NamedTuple):
    """What a manifest says of one image.

    Attributes:
        file: The file that holds it, relative to the set's folder.
        sha256: Of that file, 64 hexadecimal digits.
        label: Index into the classes.
        protected: Whether it differs from the source's image on purpose.
        name: What ``open_source`` calls it; None where the file holds this image alone.
    """

    file: str
    sha256: str
    label: int
    protected: bool
    name: str | None = None


def is_entry(entry: Entry, classes: int) -> bool:
    """Whether an entry, whatever stands in it, can be one of a set of so many classes."""
    counted = type(entry.label) is int and 0 <= entry.label < classes
    named = entry.name is None or isinstance(entry.name, str)
    typed = isinstance(entry.sha256, str) and type(entry.protected) is bool
    return is_within(entry.file) and counted and named and typed


def is_within(name: str) -> bool:
    """Whether a path that a manifest lists stays in the set's folder, and is spelled as we would spell it."""
    path = PurePosixPath(name)
    inside = bool(path.parts) and ".." not in path.parts and not path.is_absolute()
    return inside and "\0" not in name and path.as_posix() == name


def part_name(number: int) -> str:
    """The name of a part, from 0."""
    return f"manifest-{number:05d}{_SUFFIX}"


def is_part_name(name: str) -> bool:
    """Whether a file name is one that parts have, in either case."""
    return name.casefold().startswith("manifest-") and name.casefold().endswith(_SUFFIX)


def write_parts(folder: Path, entries: Iterable[Entry]) -> tuple[int, list[str]]:
    """Write the parts of a manifest, in place of what an earlier attempt left of them.

    Args:
        folder: That of the set.
        entries: Of every image.

    Returns:
        The number of entries, and the SHA-256 of each part.

    Raises:
        UserError: pyarrow is not installed, or a name is longer than parts may have.
        WriteError: A part cannot be written.
    """
    for path in folder.glob(part_name(0).replace("00000", "*")):
        path.unlink()
    rows, digests, count = iter(entries), list[str](), 0
    while part := list(islice(rows, PART_ENTRIES)):
        data = _packed_part(part)
        write_file(folder / part_name(len(digests)), data)
        digests.append(hashlib.sha256(data).hexdigest())
        count += len(part)
    return count, digests


def _packed_part(rows: Sequence[Entry]) -> bytes:
    arrow, parquet = extra_module("pyarrow"), extra_module("pyarrow.parquet")
    schema, stream = _schema(), arrow.BufferOutputStream()
    for text in (text for row in rows for text in (row.file, row.name or "")):
        if len(text.encode()) > _LONGEST:
            raise UserError(f"{shown(text[:80])}…: a name must have at most {_LONGEST} bytes to be listed")
    hashes = arrow.py_buffer(bytes.fromhex("".join(row.sha256 for row in rows)))
    flags = np.packbits([row.protected for row in rows], bitorder="little")
    columns = [
        text_array([row.file for row in rows], arrow.string()),
        arrow.Array.from_buffers(schema.field("sha256").type, len(rows), [None, hashes]),
        arrow.Array.from_buffers(
            arrow.int64(), len(rows), [None, arrow.py_buffer(np.array([row.label for row in rows], np.int64))]
        ),
        arrow.Array.from_buffers(arrow.bool_(), len(rows), [None, arrow.py_buffer(flags)]),
        text_array([row.name for row in rows], arrow.string()),
    ]
    table = arrow.Table.from_arrays(columns, schema=schema)
    parquet.write_table(
        table, stream, version="2.6", compression="none", use_dictionary=False, write_statistics=False
    )
    packed: bytes = stream.getvalue().to_pybytes()
    if len(packed) > _LARGEST:
        raise UserError(f"the names of {len(rows):,} images take more than {_LARGEST} bytes: shorten them")
    return packed


def text_array(values: Sequence[str | None], kind: Any) -> Any:
    """An array of Arrow of these texts; ``pyarrow.array`` would import pandas first, for seconds."""
    arrow = extra_module("pyarrow")
    encoded = [b"" if value is None else value.encode() for value in values]
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    there = np.packbits([value is not None for value in values], bitorder="little")
    buffers = [arrow.py_buffer(there), arrow.py_buffer(offsets), arrow.py_buffer(b"".join(encoded))]
    return arrow.Array.from_buffers(kind, len(values), buffers)


def _schema() -> Any:
    arrow = extra_module("pyarrow")
    return arrow.schema(
        [
            arrow.field("file", arrow.string(), nullable=False),
            arrow.field("sha256", arrow.binary(32), nullable=False),
            arrow.field("label", arrow.int64(), nullable=False),
            arrow.field("protected", arrow.bool_(), nullable=False),
            arrow.field("name", arrow.string()),
        ]
    )


def read_parts(folder: Path, digests: Sequence[str]) -> Iterator[Entry]:
    """The entries in the parts of a manifest, one part in memory at a time.

    Args:
        folder: That of the set, here or in a remote store.
        digests: SHA-256 of each part.

    Raises:
        UserError: A part is missing, is not the one with that hash, or is no such table; pyarrow is not
            installed.
    """
    arrow = extra_module("pyarrow")
    for number, digest in enumerate(digests):
        path = folder / part_name(number)
        data = _read(path)
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{url_of(path)}: has changed: its hash is not the one in the manifest")
        try:
            yield from _unpacked(path, data)
        except (arrow.ArrowException, OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            reason = str(error).partition("\n")[0]
            raise UserError(f"{url_of(path)}: not Parquet, or damaged ({shown(reason)})") from None


def _read(path: Path) -> bytes:
    missing = UserError(f"{url_of(path)}: missing, although the manifest lists it")
    if is_remote(path):
        if (found := file_at(path)) is None:
            raise missing
        _check_size(path, found.size)
        return read_file(path)
    try:
        if path.is_symlink():
            raise UserError(f"{url_of(path)}: a symbolic link, not a part of the manifest")
        with open_regular(path, os.O_NOFOLLOW) as file:
            _check_size(path, size := os.fstat(file.fileno()).st_size)
            return file.read(size)
    except FileNotFoundError:
        raise missing from None
    except OSError as error:
        raise UserError(f"{url_of(path)}: cannot be read: {error.strerror}") from None


def _check_size(path: Path, size: int) -> None:
    if size > _LARGEST:
        raise UserError(f"{url_of(path)}: must be at most {_LARGEST} bytes, and is larger")


def _unpacked(path: Path, data: bytes) -> Iterator[Entry]:
    arrow, parquet = extra_module("pyarrow"), extra_module("pyarrow.parquet")
    if not is_plain(data, len(_schema())):
        raise UserError(
            f"{url_of(path)}: damaged, or not a part of a manifest, which is Parquet with one row group, "
            f"{len(_schema())} columns, and neither compression nor dictionaries"
        )
    with parquet.ParquetFile(arrow.BufferReader(data)) as file:
        if not file.schema_arrow.equals(_schema()):
            has = shown(", ".join(f"{field.name} {field.type}" for field in file.schema_arrow))
            raise UserError(f"{url_of(path)}: has other columns than a part of a manifest ({has})")
        if not 1 <= (count := file.metadata.num_rows) <= PART_ENTRIES:
            raise UserError(f"{url_of(path)}: must have 1 to {PART_ENTRIES} entries, not {count}")
    with parquet.ParquetFile(arrow.BufferReader(data), read_dictionary=_TEXTS) as file:
        table = file.read(use_threads=False)
    files, names = (_texts(path, table[name]) for name in _TEXTS)
    hashes, labels, flags = (table[name].to_pylist() for name in ("sha256", "label", "protected"))
    for row in zip(files, hashes, labels, flags, names, strict=True):
        if row[0] is None or None in row[:4]:
            raise UserError(f"{url_of(path)}: damaged: a row of it is not whole")
        yield Entry(row[0], row[1].hex(), *row[2:])


def _texts(path: Path, column: Any) -> list[str | None]:
    found: list[str | None] = []
    for chunk in column.chunks:
        words = chunk.dictionary
        if len(words) > PART_ENTRIES or (len(words) and _lengths(words).max() > _LONGEST):
            raise UserError(f"{url_of(path)}: a name must have at most {_LONGEST} bytes")
        table = words.to_pylist()
        found += (None if index is None else table[index] for index in chunk.indices.to_pylist())
    return found


def _lengths(texts: Any) -> np.ndarray:
    """The bytes of each text of an array of Arrow."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)
    return np.diff(offsets[texts.offset : texts.offset + len(texts) + 1])
