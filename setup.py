"""Builds the native modules, sources by glob. Metadata stands in pyproject.toml.

``UNLEARNABLE_REQUIRE_NATIVE`` 1: a module that cannot be built is an error; 0: the package is installed
without it. Unset it is 1 where there is a C++ compiler, since installers hide what a good build says.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pybind11
import torch
from setuptools import Extension, setup
from setuptools.errors import BaseError, CCompilerError, CompileError

ROOT = Path(__file__).parent
# Contraction would fuse where docs/maths.md rounds twice, and change bytes between compilers.
CPP_FLAGS = ["-O3", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra"]
SANITIZE = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
# Builds against one torch serve later ones: only its stable ABI is used.
MACROS = [("TORCH_TARGET_VERSION", "0x020a000000000000")]
INCLUDES = [str(ROOT / "csrc"), pybind11.get_include()]
# For us: another compiler's new warning must not take the kernels from those who only install them.
strict = os.environ.get("UNLEARNABLE_STRICT") == "1"
sanitizing = os.environ.get("UNLEARNABLE_SANITIZE") == "1"
architectures = os.environ.get("UNLEARNABLE_CUDA_ARCHS", "8.0 9.0 10.0").split()

# What nvcc would run names its release, and where its libraries are: nvcc itself may be a wrapper elsewhere.
dryrun = [shutil.which("nvcc") or "false", "--dryrun", "x.cu"]
plan = subprocess.run(dryrun, capture_output=True, text=True, check=False).stderr
if toolkit := re.search(r"^#\$ TOP=(.+)$", plan, re.MULTILINE):
    os.environ.setdefault("CUDA_HOME", str(Path(toolkit[1]).resolve()))
has_nvcc = torch.version.cuda and f"__CUDACC_VER_MAJOR__={torch.version.cuda.split('.')[0]} " in plan
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402  reads CUDA_HOME


def sources(folder: str, *patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for p in patterns for path in (ROOT / folder).glob(p))


def cpu_module() -> Extension:
    module = CppExtension(
        "unlearnable_kernels._C",
        [*sources("csrc", "*.cpp"), *sources("csrc/cpu", "*.cpp")],
        define_macros=MACROS,
    )
    module.include_dirs = [*INCLUDES, *module.include_dirs]  # torch's pybind11 refuses the stable ABI
    module.extra_link_args = SANITIZE.split() if sanitizing else []
    module.extra_compile_args = [*CPP_FLAGS, *module.extra_link_args]
    return module


def nvcc_flags() -> list[str]:
    numbers = [version.replace(".", "") for version in architectures]
    newest = max(numbers, key=int)
    codes = [f"-gencode=arch=compute_{n},code=[sm_{n}{f',compute_{n}' * (n == newest)}]" for n in numbers]
    errors = "-Werror all-warnings -Xcompiler -Werror" if strict else ""
    return f"-O3 -std=c++17 -fmad=false -lineinfo -Xcompiler -Wall,-Wextra {errors}".split() + codes


def cuda_module() -> Extension:
    module = CUDAExtension(
        "unlearnable_kernels._C_cuda", [*sources("csrc", "*.cpp"), *sources("csrc/cuda", "*.cu", "*.cpp")]
    )
    headers = [flag for path in module.include_dirs for flag in ("-isystem", path)]
    module.include_dirs = INCLUDES
    cxx = [*CPP_FLAGS, *["-Werror"] * strict, *headers]
    module.extra_compile_args = {"cxx": cxx, "nvcc": [*nvcc_flags(), *headers]}
    module.define_macros = [*MACROS, ("USE_CUDA", None), ("ARCHITECTURES", f'"{" ".join(architectures)}"')]
    return module


INSTEAD = {"_C": "the much slower PyTorch reference serves", "_C_cuda": "Triton serves on a GPU"}
COMPLAINT = re.compile(r"^.*(?:error:|\bfatal\b|not found|cannot find|undefined reference).*$", re.MULTILINE)


@contextmanager
def copied_to(path: Path) -> Iterator[None]:
    """Also writes to ``path`` what this process and the compilers it starts print."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with subprocess.Popen(["tee", path], stdin=subprocess.PIPE, stdout=kept[0]) as tee:
        os.dup2(tee.stdin.fileno(), 1)
        os.dup2(tee.stdin.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
    os.close(kept[0])
    os.close(kept[1])


class Build(BuildExtension):
    """Where a module fails, its first error is said; an optional one's is kept for ``unlearnable info``."""

    def build_extension(self, extension: Extension) -> None:
        module, record = self._paths(extension, self.build_lib)
        record.unlink(missing_ok=True)
        with TemporaryDirectory() as folder:
            log = Path(folder, "log")
            try:
                with copied_to(log):
                    super().build_extension(extension)
            except (RuntimeError, BaseError, CCompilerError) as error:
                found = COMPLAINT.search(log.read_text(errors="replace"))
                cause = found[0].strip() if found else str(error).splitlines()[0]
                instead = INSTEAD[record.stem]
                if not extension.optional:
                    raise CompileError(
                        f"{extension.name} is not built: {cause} (to install without it, where {instead}, "
                        "set UNLEARNABLE_REQUIRE_NATIVE=0)"
                    ) from error
                module.unlink(missing_ok=True)  # of an earlier build
                record.parent.mkdir(parents=True, exist_ok=True)
                record.write_text(f"{cause}\n")
                print(
                    f"unlearnable_kernels: {extension.name} is not built, so {instead}: {cause}",
                    file=sys.stderr,
                )

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        for extension in self.extensions:
            _, built = self._paths(extension, self.build_lib)
            module, record = self._paths(extension, "")
            record.unlink(missing_ok=True)
            if built.is_file():
                shutil.copy(built, record)
                module.unlink(missing_ok=True)

    def _paths(self, extension: Extension, folder: str | Path) -> tuple[Path, Path]:
        """A module, and the record of its failure, as ``ops/native.py`` reads it."""
        module = Path(folder, self.get_ext_filename(extension.name))
        return module, module.with_name(f"{extension.name.rpartition('.')[2]}.failed")


def required() -> bool:
    compilers = "c++", (sysconfig.get_config_var("CXX") or "c++").split()[0]
    has_compiler = "CXX" in os.environ or any(map(shutil.which, compilers))
    return os.environ.get("UNLEARNABLE_REQUIRE_NATIVE", "1" if has_compiler else "0") == "1"


if __name__ == "__main__":
    assert sys.platform != "win32", "unlearnable_kernels builds on Linux and macOS only"
    modules = [cpu_module(), *([cuda_module()] if has_nvcc and not sanitizing else [])]
    for module in modules:
        # Without a compiler the package installs all the same, and says at import what serves instead.
        module.optional = not required()
    setup(ext_modules=modules, cmdclass={"build_ext": Build})
