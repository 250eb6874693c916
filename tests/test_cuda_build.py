"""The CUDA module, as far as a machine without a GPU can tell: what is built, how strictly, no spills."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton

from unlearnable_kernels.ops import native

ROOT = Path(__file__).parents[1]
WANTED = os.environ.get("UNLEARNABLE_CUDA_ARCHS", "8.0 9.0 10.0").replace(".", "").split()
needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None or torch.version.cuda is None, reason="no nvcc, or a torch without CUDA"
)


@pytest.fixture(scope="module")
def setup_py():
    spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.strict = True
    return module


def cuobjdump(*options):
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), *options, native.cuda_module.__file__]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def resources():
    """(function, architecture, bytes of stack and local memory) of every kernel in the module."""
    found, architecture, name = [], "", ""
    for line in cuobjdump("--dump-resource-usage").splitlines():
        if match := re.match(r"arch = sm_(\d+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif match := re.search(r"STACK:(\d+) .*LOCAL:(\d+)", line):
            found.append((name, architecture, int(match[1]) + int(match[2])))
    return found


@needs_nvcc
def test_the_module_is_built_for_every_architecture_and_later_ones():
    assert native.cuda_module is not None, "nvcc is here, but unlearnable_kernels._C_cuda is not built"
    binaries = set(re.findall(r"sm_(\d+)\.cubin", cuobjdump("--list-elf")))
    intermediate = set(re.findall(r"sm_(\d+)\.ptx", cuobjdump("--list-ptx")))
    assert binaries == set(WANTED)
    assert intermediate == {max(WANTED, key=int)}


@needs_nvcc
def test_every_source_is_in_the_module(setup_py, resources):
    """A kernel of every .cu file, by the names that its `__global__` functions have."""
    built = " ".join(name for name, _, _ in resources)
    for source in setup_py.sources("csrc/cuda", "*.cu"):
        text = (ROOT / source).read_text()
        text += "".join(
            (ROOT / "csrc" / "cuda" / name).read_text() for name in re.findall(r'"(\w+\.cuh)"', text)
        )
        kernels = re.findall(r"__global__ void(?: __launch_bounds__\([\w, ]+\))?\s+(\w+)\(", text)
        assert kernels, source
        assert all(kernel in built for kernel in kernels), source


@needs_nvcc
def test_kernels_in_namespace_hot_do_not_spill(resources):
    hot = [(name, architecture, size) for name, architecture, size in resources if "3hot" in name]
    assert {architecture for _, architecture, _ in hot} == set(WANTED)
    assert len(hot) >= 12 * len(WANTED)  # classwise_conv alone: four types, three filter sizes
    # What refuses values calls printf, with three arguments of 8 bytes in memory.
    assert [entry for entry in hot if entry[2] > 24 * ("classwise_conv" in entry[0])] == []
    assert any(size == 24 for _, _, size in hot)  # such are seen


@needs_nvcc
@pytest.mark.skipif("90" not in WANTED, reason="not built for sm_90")
def test_the_tiles_say_to_which_memory_they_store(resources):
    """A generic store is slower; the compiler writes one where a pointer may be to either memory."""
    (name,) = {name for name, _, _ in resources if "classwise_conv_tilesIhLi3E" in name}
    code = cuobjdump("--dump-sass", "-arch", "sm_90", "-fun", name)
    assert "STS.64" in code
    assert "STG.E.EF.128" in code
    assert "LDGSTS.E.BYPASS.128" in code  # the next image, past the registers
    assert not re.search(r"\bST\.", code)


@needs_nvcc
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("device", "__global__ void kernel() { int unused; }"),
        ("host", "static void never_called() {} __global__ void kernel() {}"),
    ],
)
def test_warnings_are_errors(setup_py, tmp_path, fault, code):
    source = tmp_path / "kernel.cu"
    one = [flag for flag in setup_py.nvcc_flags() if "gencode" not in flag]
    command = ["nvcc", *one, "-arch=sm_90", "-c", str(source), "-o", str(tmp_path / "kernel.o")]
    source.write_text("__global__ void kernel() {}\n")
    subprocess.run(command, check=True)
    source.write_text(code + "\n")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "unused" in result.stderr or "never" in result.stderr


def test_info_says_what_serves_on_a_gpu():
    line = native.cuda_backend()
    assert ("no GPU" in line) != torch.cuda.is_available()
    assert (" ".join(native.cuda_module.architectures().split()) if native.cuda_module else "no CUDA") in line


def test_without_the_cuda_module_nothing_is_said_until_a_gpu_tensor_comes(monkeypatch, recwarn):
    monkeypatch.setitem(sys.modules, "unlearnable_kernels._C_cuda", None)
    module, why = native._load_cuda()
    assert module is None
    assert "_C_cuda" in why
    assert not recwarn.list


def test_every_triton_operator_is_a_function_of_the_dispatched_name():
    assert native.TRITON_OPERATORS
    for operator in native.TRITON_OPERATORS:
        assert hasattr(torch.ops.unlearn, operator)
        assert callable(native.triton_function(operator))
