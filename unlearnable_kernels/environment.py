"""Where a result was made: the machine, and the versions of whatever decides its bytes."""

import importlib.metadata
import os
import platform
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import torch

# Besides torch and numpy, these decide which bytes are read and written.
_CODECS = ("pillow", "opencv-python-headless", "simplejpeg", "isal")


def machine() -> dict[str, Any]:
    """What the machine is made of.

    Returns:
        "cpu", its model; "cores" that this process may use; "memory_gib"; "gpu", its model or None;
        "system", the operating system and architecture.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions, by name, of Python, torch, torchvision, numpy, the image codecs and this package."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _torchvision(),
        "numpy": numpy.__version__,
        **{name: installed(name) for name in _CODECS},
        "unlearnable_kernels": installed("unlearnable_kernels"),
    }


def installed(name: str) -> str:
    """The version of a package; "not installed" without it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torchvision() -> str:
    """``torchvision.__version__``, build included (0.26.0+cu130), without the seconds of its import."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return "not installed"
    written = Path(spec.origin).with_name("version.py")
    found = (
        re.search(r"^__version__ = ['\"](.+)['\"]$", written.read_text(), re.M) if written.is_file() else None
    )
    return found[1] if found else installed("torchvision")


def commit() -> str | None:
    """The commit of this package, "-dirty" behind it where files differ; None outside its repository."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # installed; the repository around it, if there is one, is another's
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*")


def _git(*command: str) -> str | None:
    """What git says in this folder; None where it fails or is not there."""
    try:
        done = subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


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
