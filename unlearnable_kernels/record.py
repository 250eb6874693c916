"""What is kept beside a result: the machine, the versions, and JSON files that are whole or not there."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision

from unlearnable_kernels.errors import UserError

# Besides torch and numpy, these decide which bytes are read and written.
_CODECS = ("pillow", "opencv-python-headless", "simplejpeg", "isal")


class WriteError(UserError):
    """A file that cannot be written: a full disk, a read-only place, no permission."""


def machine() -> dict[str, Any]:
    """CPU model, usable cores, memory in GiB, GPU model or None, and the operating system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python, torch, torchvision, numpy, the image codecs and this package."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        **{name: _installed(name) for name in _CODECS},
        "unlearnable_kernels": _installed("unlearnable_kernels"),
    }


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def usable_cores() -> int:
    """Cores this process may run on, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError within the block into a WriteError of one line that names ``path``."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; what was written there becomes ``path`` if nothing is raised.

    The file is flushed to disk before it gets its name, so that a power cut cannot leave an empty one.
    Raises WriteError where that fails.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    """Write ``value`` as JSON; the file is replaced in one step. NaN and infinity raise ValueError."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def append_jsonl(path: Path, value: Any) -> None:
    """Append one line of JSON and flush it to disk. Raises WriteError."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_jsonl(path: Path, values: list[Any]) -> None:
    """Replace the file by these lines, in one step."""
    with replacing(path) as temporary:
        lines = (json.dumps(value, allow_nan=False) + "\n" for value in values)
        temporary.write_text("".join(lines), encoding="utf-8")


def read_jsonl(path: Path) -> list[Any]:
    """The lines of a JSONL file; none if it does not exist. A last line cut short by a crash is left out.

    Raises UserError if the file cannot be read or another line is no JSON.
    """
    if not path.exists():
        return []
    lines = _read(path).split(b"\n")[:-1]
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError if it cannot be read or is no JSON."""
    return _parse(_read(path), str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _parse(text: bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{name} is damaged: it is no JSON") from None
