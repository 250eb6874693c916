"""Builds the native modules, sources by glob. Metadata stands in pyproject.toml."""

import os
import sys
from pathlib import Path

import pybind11
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).parent
SANITIZE = [
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-g1",
]


def sources(folder: str, pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).glob(pattern))


def cpu_module() -> CppExtension:
    sanitize = SANITIZE if os.environ.get("UNLEARNABLE_SANITIZE") == "1" else []
    module = CppExtension(
        "unlearnable_kernels._C",
        sources("csrc/cpu", "*.cpp"),
        include_dirs=[str(ROOT / "csrc"), pybind11.get_include()],
        # Contraction would fuse where docs/maths.md rounds twice, and change bytes between compilers.
        extra_compile_args=["-O3", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", *sanitize],
        extra_link_args=sanitize,
        # Builds against one torch serve later ones: only its stable ABI is used.
        define_macros=[("TORCH_TARGET_VERSION", "0x020a000000000000")],
    )
    # Without a compiler the package installs all the same, and says at import that the reference serves.
    module.optional = os.environ.get("UNLEARNABLE_REQUIRE_NATIVE") != "1"
    return module


if sys.platform == "win32":
    raise SystemExit("unlearnable_kernels builds on Linux and macOS only")

setup(ext_modules=[cpu_module()], cmdclass={"build_ext": BuildExtension})
