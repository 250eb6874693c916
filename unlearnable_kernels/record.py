"""What is kept beside a result: the machine, the versions, and JSON files that are whole or not there."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision


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
    """Versions of Python, torch, torchvision, numpy and this package."""
    try:
        own = importlib.metadata.version("unlearnable_kernels")
    except importlib.metadata.PackageNotFoundError:
        own = "not installed"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "unlearnable_kernels": own,
    }


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
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; what was written there becomes ``path`` if nothing is raised.

    The file is flushed to disk before it gets its name, so that a power cut cannot leave an empty one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON; the file is replaced in one step. NaN and infinity raise ValueError."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def append_jsonl(path: Path, value: Any) -> None:
    """Append one line of JSON and flush it to disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_jsonl(path: Path, values: list[Any]) -> None:
    """Replace the file by these lines, in one step."""
    with replacing(path) as temporary:
        lines = (json.dumps(value, allow_nan=False) + "\n" for value in values)
        temporary.write_text("".join(lines), encoding="utf-8")


def read_jsonl(path: Path) -> list[Any]:
    """The lines of a JSONL file; none if it does not exist. A last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]
