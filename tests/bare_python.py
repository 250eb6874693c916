"""Python processes for tests that lack some of the installed packages."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
# What only protecting, reading image files and the command line need; torchvision itself brings Pillow.
EXTRAS = "cv2 simplejpeg isal typer rich matplotlib jinja2 sklearn"
# torch, numpy, and what torch itself requires.
TORCH = (
    "torch torchgen functorch numpy triton typing_extensions sympy mpmath networkx jinja2 markupsafe "
    "filelock fsspec setuptools nvidia cuda"
)


def environment(**packages: str) -> dict[str, str]:
    """The environment variables of such a process; packages: WITHOUT or WITH_ONLY, names with spaces."""
    path = os.pathsep.join((str(TESTS / "without"), str(TESTS.parent)))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | packages


def run(program: str, *arguments: object, **packages: str) -> subprocess.CompletedProcess[str]:
    """Run a program, given as text, with ``arguments`` in sys.argv."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment(**packages), capture_output=True, text=True, check=False)
