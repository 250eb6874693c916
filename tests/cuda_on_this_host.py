"""The kernels of csrc/cuda compiled for this machine's CPU, thread by thread: tests/cuda_on_host."""

import ctypes
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
HOST = ROOT / "tests" / "cuda_on_host"
COMPILER = shutil.which("c++")
needs_compiler = pytest.mark.skipif(
    COMPILER is None or not sys.platform.startswith("linux"), reason="no C++ compiler"
)
H100, A100, SMALL = (9, 232_448), (8, 166_912), (9, 12_000)  # compute capability, bytes of shared memory
GUARD = 64  # bytes on both sides of a result


def compiled_for_the_host(operator: str, folder: Path, call: type[ctypes.Structure]) -> ctypes.CDLL:
    """One operator's kernels and the functions of cuda_on_host/<operator>.cpp, which take a ``call``."""
    headers = (HOST, ROOT / "csrc", ROOT / "csrc" / "cuda", Path(torch.__file__).parent / "include")
    flags = "-x c++ -std=c++17 -O1 -ffp-contract=off -fPIC -pthread -Wall -Wextra -Wno-unknown-pragmas"
    flags += " -fsanitize=alignment,bounds -fno-sanitize-recover=all -fno-extern-tls-init"
    flags += " -include cuda_on_host.h"
    command = [COMPILER, *flags.split(), *(f"-I{path}" for path in headers), "-c"]

    def compile_one(source: Path) -> str:
        target = folder / f"{source.name}.o"
        subprocess.run([*command, str(source), "-o", str(target)], check=True)
        return str(target)

    kernels = sorted((ROOT / "csrc" / "cuda").glob(f"{operator}*.cu"))
    sources = [*kernels, HOST / f"{operator}.cpp", HOST / "cuda_on_host.cpp"]
    with ThreadPoolExecutor(4) as pool:
        objects = list(pool.map(compile_one, sources))
    library = str(folder / "cuda.so")
    link = [COMPILER, "-shared", "-pthread", "-fsanitize=alignment,bounds", *objects, "-o", library]
    subprocess.run(link, check=True)
    loaded = ctypes.CDLL(library)
    assert loaded.size_of_call() == ctypes.sizeof(call)
    return loaded


def guarded(like: torch.Tensor):
    """A tensor laid out like another one, in memory of one value, and a check that all around keeps it."""
    size = like.numel() * like.element_size()
    memory = torch.full((GUARD + size + GUARD + 16,), 0xA5, dtype=torch.uint8)
    first = GUARD + -(memory.data_ptr() + GUARD) % 16
    values = memory[first : first + size].view(like.dtype).as_strided(like.shape, like.stride())

    def check() -> None:
        around = torch.cat([memory[:first], memory[first + size :]])
        assert (around == 0xA5).all(), "written outside"

    return values, check
