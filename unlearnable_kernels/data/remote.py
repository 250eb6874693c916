"""Files of a dataset on this machine or, named by a URL such as s3://bucket/set, in a remote store.

A URL travels as a ``Path``, which writes s3:/bucket/set; ``fsspec`` understands every kind of store, and a
package of its own knows each: s3fs, gcsfs, huggingface_hub, …
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from unlearnable_kernels.errors import UserError, WriteError, shown
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.files import open_regular

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/")
_HERE = re.compile(r"(file|local):/")
_CAPITAL = re.compile(r"(?=[^/]*[A-Z])[A-Za-z][A-Za-z0-9+.-]+:/")
_EMPTY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/?")
_HOSTLESS = re.compile(r"\b[a-z][a-z0-9+.-]+:///")
_AHEAD = 8 * 2**20  # bytes asked of a store at once: images are read one after the other
_OPEN = 4  # remote files that a thread keeps open
_kept = threading.local()


class MissingError(UserError):
    """There is no such file or folder."""


class File(NamedTuple):
    """A file in a folder: its name there, its size in bytes, and when it was last changed, 0 if unknown."""

    name: str
    size: int
    mtime_ns: int


def is_remote(path: Path) -> bool:
    """Whether an absolute path is a URL."""
    return _URL.match(str(path)) is not None


def url_of(path: Path) -> str:
    """``path`` as people write it, on one printable line."""
    return shown(str(path).replace(":/", "://", 1) if is_remote(path) else str(path))


def refuse_misread_url(path: Path) -> None:
    """Raise UserError for a URL that would be taken for a folder here, or that names one.

    As a ``Path``, the URL of a file here lost the slash that makes it absolute.
    """
    if _EMPTY.fullmatch(str(path)):
        scheme = str(path).partition(":")[0]
        raise UserError(f"{scheme}://: name the bucket and the folder after ://, such as s3://bucket/set")
    if _CAPITAL.match(str(path)):
        scheme, _, rest = str(path).partition(":/")
        raise UserError(f"{shown(f'{scheme}://{rest}')}: write {scheme.lower()}:// in lower case")
    if _HERE.match(str(path)):
        raise UserError(f"{url_of(path)} is on this machine: give the path itself, such as /home/me/set")


def refuse_hostless(text: str) -> None:
    """Raise UserError for a URL as it was written that names no host: a ``Path`` takes a folder for it."""
    if _HOSTLESS.search(text):
        raise UserError(
            f"{shown(text)}: name the host or bucket after ://, or give the path itself where the "
            "files are on this machine"
        )


def require_local(path: Path, what: str) -> None:
    """Raise UserError if ``path`` is a URL: ``what`` cannot be done to a set in a remote store."""
    if is_remote(path):
        raise UserError(f"{url_of(path)}: a remote set cannot be {what}: copy it to this machine first")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise MissingError(f"{url_of(path)}: no such file or folder") from None
    except Exception as error:  # every store has its own
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{url_of(path)}: cannot be read: {shown(reason)}") from None


def check_store(folder: Path) -> None:
    """Raise UserError unless the store of a remote folder is known here and, in S3, has its bucket.

    Other stores tell no bucket that is not there from a folder that is not there, or make what is missing.
    """
    system, _ = _system(folder)
    if "s3" in system.protocol:
        bucket = Path(*folder.parts[:2])
        with _reading(bucket):
            system.info(_system(bucket)[1])


def list_folder(folder: Path, hidden: bool = False) -> tuple[list[str], list[File]]:
    """The folders and the files in a folder, both by name; dot-files among them only where ``hidden``.

    A link that leads nowhere is one of the files here: whoever opens it tells.

    Raises:
        UserError: It cannot be read; MissingError where there is none.
    """
    folders, files = [], []
    with _reading(folder):
        if is_remote(folder):
            system, place = _system(folder)
            for entry in system.ls(place, detail=True):
                name = entry["name"].rstrip("/").rpartition("/")[2]
                if entry["type"] == "directory":
                    folders.append(name)
                elif entry["name"].rstrip("/") != place.rstrip("/"):  # a store's own mark of a folder
                    files.append(File(name, int(entry["size"]), _time_of(entry)))
        else:
            for path in folder.iterdir():
                if path.name.startswith(".") and not hidden:
                    continue
                if path.is_dir():
                    folders.append(path.name)
                else:
                    status = path.stat() if path.exists() else path.lstat()
                    files.append(File(path.name, status.st_size, status.st_mtime_ns))
    files.sort()
    return sorted(folders), [file for file in files if hidden or not file.name.startswith(".")]


def file_at(path: Path) -> File | None:
    """What is known of a file; None where there is no file of that name."""
    if not is_remote(path):
        if not path.is_file():
            return None
        status = path.stat()
        return File(path.name, status.st_size, status.st_mtime_ns)
    with _reading(path):
        system, place = _system(path)
        try:
            entry = system.info(place)
        except FileNotFoundError:
            return None
        found = File(path.name, int(entry["size"] or 0), _time_of(entry))
        return found if entry["type"] == "file" else None


def open_file(path: Path) -> IO[bytes]:
    """A file to read from at any place.

    Raises:
        UserError: It cannot be opened.
    """
    with _reading(path):
        if not is_remote(path):
            return open_regular(path)
        system, place = _system(path)
        opened: IO[bytes] = system.open(place, "rb", block_size=_AHEAD, cache_type="readahead")
        return opened


def read_file(path: Path) -> bytes:
    """The whole of a file. Raises UserError where it cannot be read."""
    with open_file(path) as file, _reading(path):
        return file.read()


def sha256_at(path: Path) -> str:
    """SHA-256, in hexadecimal, of a file. Raises UserError where it cannot be read."""
    digest = hashlib.sha256()
    with open_file(path) as file, _reading(path):
        while block := file.read(_AHEAD):
            digest.update(block)
    return digest.hexdigest()


def read_at(path: Path, offset: int, size: int, version: int = 0) -> bytes:
    """``size`` bytes of a file from ``offset`` on, fewer where it ends. Safe from any thread and process.

    Args:
        path: The file.
        offset: In bytes, from its beginning.
        size: In bytes.
        version: Another number than before where a remote file may have changed since it was last read.

    Raises:
        UserError: It cannot be read.
    """
    with _reading(path):
        if is_remote(path):
            file = _kept_open(path, version)
            file.seek(offset)
            return file.read(size)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, size, offset)
            while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
                data += more
            return data
        finally:
            os.close(descriptor)


def forget(folder: Path) -> None:
    """Ask the store of a remote folder anew from now on: stores keep lists of what they were asked for."""
    with _reading(folder):
        _system(folder)[0].invalidate_cache()


def put(path: Path, data: bytes) -> None:
    """Write a remote file. Raises WriteError."""
    with _writing(path) as (system, place):
        system.pipe_file(place, data)


def remove(path: Path) -> None:
    """Delete a remote file. Raises WriteError."""
    with _writing(path) as (system, place):
        system.rm_file(place)


def upload(
    folder: Path, target: Path, last: str, tell: Callable[[int, int], None], stale: Collection[str] = ()
) -> None:
    """Copy the files in a folder here into a remote one, over older ones.

    Args:
        folder: It holds no folders.
        target: The remote one; it need not exist.
        last: The name of the file that is written when all others are there.
        tell: Takes (bytes that are there, of how many) whenever a file is.
        stale: Names of files there that are deleted before that.

    Raises:
        UserError: The store is not known here, ``folder`` holds a folder, or ``last`` is there already.
        WriteError: A file cannot be written or deleted.
    """
    for path in folder.iterdir():
        if not path.is_file():
            raise UserError(f"{url_of(target)} takes files alone, and {shown(str(path))} is a folder")
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != last}
    sent, size = 0, sum(sizes.values())
    tell(sent, size)
    for name in sorted(sizes):
        with _writing(target / name) as (system, place):
            system.put_file(str(folder / name), place)
        sent += sizes[name]
        tell(sent, size)
    for name in sorted(stale):
        remove(target / name)
    forget(target)
    if file_at(target / last) is not None:
        raise UserError(f"{url_of(target / last)} is there already: another run finished meanwhile")
    with _writing(target / last) as (system, place):
        system.put_file(str(folder / last), place)


@contextmanager
def _writing(path: Path) -> Iterator[tuple[Any, str]]:
    system, place = _system(path)
    try:
        yield system, place
    except Exception as error:  # every store has its own
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".splitlines()[0]
        raise WriteError(f"cannot write {url_of(path)}: {shown(reason)}") from None


def _kept_open(path: Path, version: int) -> IO[bytes]:
    """This thread's open file of that name: a store is asked for many images at once."""
    if getattr(_kept, "process", None) != os.getpid():  # a fork shares no connection
        _kept.process, _kept.files = os.getpid(), OrderedDict()
    files: OrderedDict[tuple[Path, int], IO[bytes]] = _kept.files
    key = path, version
    if key not in files:
        files[key] = open_file(path)
        if len(files) > _OPEN:
            files.popitem(last=False)[1].close()
    files.move_to_end(key)
    return files[key]


def _system(path: Path) -> tuple[Any, str]:
    """The store, and what it calls ``path``."""
    refuse_misread_url(path)
    fsspec = extra_module("fsspec")
    try:
        system, place = fsspec.core.url_to_fs(str(path).replace(":/", "://", 1))
    except (ImportError, ValueError) as error:
        raise UserError(f"{url_of(path)}: {str(error).splitlines()[0]}") from None
    return system, place


def _time_of(entry: dict[str, Any]) -> int:
    for name in ("LastModified", "mtime", "created", "last_modified"):
        time = entry.get(name)
        if isinstance(time, datetime):
            time = time.timestamp()
        if isinstance(time, int | float):
            return round(time * 1_000_000) * 1000
    return 0
