"""Files that are whole or not there: atomic replacement, JSON, hashes, and one line where writing fails."""

import errno
import hashlib
import json
import math
import os
import secrets
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from unlearnable_kernels.errors import UserError, WriteError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_AT_ONCE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an OSError within the block into a WriteError.

    Args:
        path: What the message says cannot be written; the reason follows.

    Raises:
        WriteError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = "disk full" if error.errno in _FULL else error.strerror or error
        raise WriteError(f"cannot write {path}: {reason}") from error


@contextmanager
def resumable() -> Iterator[None]:
    """Add to a WriteError within the block how to resume once its cause is gone.

    Raises:
        WriteError: The block raised one.
    """
    try:
        yield
    except WriteError as error:
        raise WriteError(f"{error}; run the same command again to resume") from error


def open_regular(path: str | Path, flags: int = 0) -> BinaryIO:
    """Open a file to read its bytes. A pipe in its place is not waited for, nor a device read without end.

    Args:
        path: The file.
        flags: More of those of ``os.open``, such as ``O_NOFOLLOW``.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, _AT_ONCE | flags)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_regular(path: str | Path) -> bytes:
    """The bytes of a file. Raises OSError as ``open_regular``."""
    with open_regular(path) as file:
        return file.read()


def write_file(path: str | Path, data: bytes) -> None:
    """Write a new file, in the place of an older one but not of a symbolic link.

    Args:
        path: The file.
        data: Its content.

    Raises:
        WriteError: The file cannot be written.
    """
    with writing(path):
        try:
            descriptor = os.open(path, _CREATE, 0o666)
        except FileExistsError:
            if Path(path).is_symlink():
                raise
            Path(path).unlink()  # not through it: it may be a pipe, or another's file under a second name
            descriptor = os.open(path, _CREATE, 0o666)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)


def require_replaceable(path: Path, signature: bytes, what: str) -> None:
    """Allow only an older file of the same kind to be overwritten: one slip, and a key would be lost.

    Args:
        path: Where a file is to be written.
        signature: The bytes that such a file begins with; letters count alike in either case.
        what: What such a file is called, such as "a PNG file".

    Raises:
        UserError: Something else is there.
        WriteError: What is there cannot be read.
    """
    with writing(path):
        if not path.exists():
            return
        start = b""
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(len(signature))
    if start.lower() != signature.lower():
        raise UserError(f"{path} exists and is not {what}: choose another name")


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data`` to an open file, however many calls it takes.

    Raises:
        OSError: Writing fails.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file in one step once its new content is complete.

    The content is flushed to disk before it gets its name, so that a power cut cannot leave an empty file.
    If the block raises, the old file stays as it was.

    Args:
        path: The file.

    Yields:
        A temporary name beside ``path`` to write to.

    Raises:
        WriteError: The block raised an OSError, or the file cannot be flushed or renamed.
    """
    # Processes on two machines may have one number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with writing(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON; the file is replaced in one step.

    Raises:
        ValueError: ``value`` contains a NaN or an infinity.
        WriteError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def append_jsonl(path: Path, value: Any) -> None:
    """Append one line of JSON and flush it to disk.

    Raises:
        ValueError: ``value`` contains a NaN or an infinity.
        WriteError: The file cannot be written.
    """
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_jsonl(path: Path, values: list[Any]) -> None:
    """Write each of ``values`` as a line of JSON; the file is replaced in one step.

    Raises:
        ValueError: A value contains a NaN or an infinity.
        WriteError: The file cannot be written.
    """
    with replacing(path) as temporary:
        lines = (json.dumps(value, allow_nan=False) + "\n" for value in values)
        temporary.write_text("".join(lines), encoding="utf-8")


def read_jsonl(path: Path) -> list[Any]:
    """Read a file of JSON lines.

    Args:
        path: The file; it need not exist.

    Returns:
        The value of each line, without a last line that a crash cut short.

    Raises:
        UserError: The file cannot be read, or another line is not valid JSON.
    """
    if not path.exists():
        return []
    lines = _read(path).split(b"\n")[:-1]
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: The file cannot be read or is not valid JSON.
    """
    return _parse(_read(path), str(path))


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _parse(text: bytes, name: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{name} is damaged: {error}") from None


def parse_json(text: bytes) -> Any:
    """The value of a JSON text that we might have written.

    Raises:
        ValueError: It is not valid JSON, has a NaN or an infinity, is nested too deeply, or gives a name
            twice, which readers would understand in two ways.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
    except _TwiceError:
        raise
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None


class _TwiceError(ValueError):
    pass


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _), *_] = Counter(name for name, _ in pairs).most_common(1)
        raise _TwiceError(f"it gives {twice!r} twice")
    return found


def sha256_of(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def resolved(path: Path) -> Path:
    """``path`` made absolute, with symbolic links followed; it need not exist.

    Raises:
        UserError: The name is too long, or a link leads to itself.
    """
    try:
        path = path.resolve()
        # Resolving keeps silent about what the file system refuses.
        path.exists()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except RuntimeError:
        raise UserError(f"{path}: a symbolic link that leads back to itself") from None
    return path
