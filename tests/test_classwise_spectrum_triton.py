"""The Triton kernels on CPU tensors, in Triton's interpreter, and compiled; tests/gpu runs them on a GPU."""

import os

import fresh_process
import numpy as np
import pytest
import torch
from conftest import HAS_GPU
from test_classwise_spectrum import random_call
from triton.runtime import interpreter
from triton_interpreter import repaired_interpreter  # noqa: F401  a fixture

from unlearnable_kernels.ops import classwise_spectrum as contract
from unlearnable_kernels.ops.classwise_conv import fused_multiply_add
from unlearnable_kernels.triton_kernels import classwise_spectrum as kernels

pytestmark = pytest.mark.skipif(
    HAS_GPU, reason="tests/gpu/test_classwise_spectrum_gpu.py runs them on the GPU"
)


@pytest.fixture(autouse=True)
def fused_multiply_adds(repaired_interpreter, monkeypatch):  # noqa: F811
    """The interpreter rounds tl.fma twice, a GPU once; with this it does as a GPU, and bytes must agree."""

    def create_fma(self, x, y, z):
        tensors = (torch.from_numpy(np.ascontiguousarray(v.data)) for v in (x, y, z))
        return interpreter.TensorHandle(fused_multiply_add(*tensors).numpy(), z.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fma", create_fma)


# One launch for all images, or three for some at a time; more columns, rows or terms than a tile has.
CASES = {
    "small bytes": (torch.uint8, (3, 3, 2, 6), True, {}),
    "small, of many tiles": (torch.float32, (1, 2, 3, 17), False, {"TILE": 64}),
    "small float64": (torch.float64, (2, 1, 3, 2), False, {}),
    "large bytes": (torch.uint8, (2, 3, 4, 5), True, {"SMALL": 0, "WORK": 1}),
    "large, of many tiles": (torch.uint8, (1, 2, 3, 17), False, {"SMALL": 0, "TILE": 64, "ROW_LANES": 4}),
    "large float64": (torch.float64, (2, 5, 2, 2), True, {"SMALL": 0, "ROW_LANES": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_bits_equal_the_reference(case, monkeypatch):
    dtype, shape, channels_last, settings = CASES[case]
    for name, value in settings.items():
        monkeypatch.setattr(kernels, name, value)
    images, labels, *others = random_call(3, shape, 2, dtype, channels_last)
    labels[1:2] = -1
    result, expected = (
        function(images, labels, *others) for function in (kernels.classwise_spectrum, contract.reference)
    )
    assert result.dtype == expected.dtype
    assert result.stride() == expected.stride()
    assert torch.equal(result, expected)
    assert not torch.equal(result[0], images[0])


def test_extremes_saturate_as_in_the_reference():
    images, labels, weights, curves = random_call(4, (2, 3, 2, 2))
    call = images, labels, torch.full_like(weights, 1e20), curves * 1e20
    assert torch.equal(kernels.classwise_spectrum(*call), contract.reference(*call))


def test_no_images_and_bad_arguments():
    images, labels, *others = random_call(5, (2, 3, 4, 4))
    assert kernels.classwise_spectrum(images[:0], labels[:0], *others).shape == (0, 3, 4, 4)
    none = others[0][:0], others[1][:0]
    assert torch.equal(kernels.classwise_spectrum(images, labels * 0 - 1, *none), images)
    with pytest.raises(RuntimeError, match=r"labels\[0\] is 7, but must lie in \[-1, 3\)"):
        kernels.classwise_spectrum(images, labels * 0 + 7, *others)


COMPILE = """
import subprocess, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from unlearnable_kernels.triton_kernels import classwise_spectrum as kernels

tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
place = Path(sys.argv[1]) / "kernel.cubin"
settings = {"TILE": kernels.TILE, "HEADER": 2 * kernels.MOST_STAGES, "ROWS": 5}
tables = {"labels": "*i64", "headers": "*i64", "index": "*i32"}
floats = dict.fromkeys(("weights", "curves", "work", "other", "source", "target", "factors"))
for name, images, compute, last in (
    ("images", "*u8", "*fp32", True), ("rows", "*u8", "*fp32", False), ("inverse", "*fp64", "*fp64", True)
):
    kernel = getattr(kernels, name + "_kernel")
    types = {"images": images, "out": images, **tables, **dict.fromkeys(floats, compute)}
    lanes = kernels.ROW_LANES if name == "rows" else kernels.LANES
    constants = settings | {"LAST": last, "LANES": lanes}
    constants = {n: v for n, v in constants.items() if n in kernel.arg_names}
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    places = {(kernel.arg_names.index(n),): v for n, v in constants.items()}
    aligned = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in types if n in signature}
    source = ASTSource(kernel, signature, places, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=kernels.OPTIONS)
    place.write_bytes(compiled.asm["cubin"])
    text = subprocess.run([tool, "--dump-sass", place], capture_output=True, text=True, check=True).stdout
    print(name, "spills" if "LDL" in text or "STL" in text else "fits", "FFMA" in text, "DFMA" in text)
"""


def test_compiles_for_a_gpu_without_spills_or_fused_float64(tmp_path):
    """The interpreter takes more than the compiler, which needs no GPU."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    lines = fresh_process.run(COMPILE, tmp_path, env=env).stdout.splitlines()
    assert lines == ["images fits True False", "rows fits True False", "inverse fits False False"]
