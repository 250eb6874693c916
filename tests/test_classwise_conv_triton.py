"""The Triton kernels on CPU tensors, in Triton's interpreter, and compiled; tests/gpu runs them on a GPU."""

import os

import fresh_process
import numpy as np
import pytest
import torch
from conftest import HAS_GPU
from triton.runtime import interpreter
from triton_interpreter import repaired_interpreter  # noqa: F401  a fixture

from unlearnable_kernels.ops import classwise_conv as contract
from unlearnable_kernels.triton_kernels import classwise_conv as kernels

pytestmark = pytest.mark.skipif(HAS_GPU, reason="tests/gpu/test_classwise_conv_gpu.py runs them on the GPU")
SAMPLES = list(contract.sample_inputs())
TOLERANCES = {
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-2},
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
}


@pytest.fixture(autouse=True)
def fused_multiply_adds(repaired_interpreter, monkeypatch):  # noqa: F811
    """The interpreter rounds tl.fma twice, a GPU once; with this it does as a GPU, and bytes must agree."""

    def create_fma(self, x, y, z):
        tensors = (torch.from_numpy(np.ascontiguousarray(v.data)) for v in (x, y, z))
        return interpreter.TensorHandle(contract.fused_multiply_add(*tensors).numpy(), z.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_fma", create_fma)


@pytest.mark.parametrize("arguments", SAMPLES, ids=range(len(SAMPLES)))
def test_forward_equals_the_reference(arguments):
    result, expected = kernels.classwise_conv(*arguments), contract.reference(*arguments)
    assert result.dtype == expected.dtype
    assert result.stride() == expected.stride()
    assert torch.equal(result, expected)


def random_call(seed, shape, k, dtype=torch.uint8, channels_last=False):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    images = images if dtype == torch.uint8 else (images / 255).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(-1, 3, shape[:1], generator=generator)
    return images, labels, torch.rand(3, k, k, generator=generator) - 0.2


@pytest.mark.parametrize("padding", contract.PADDINGS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_more_than_one_block_and_images_smaller_than_their_padding(padding, channels_last):
    for shape, k in (((1, 3, 20, 21), 3), ((1, 2, 3, 2), 7), ((1, 1, 1, 1), 3)):
        call = random_call(4, shape, k, channels_last=channels_last)
        assert torch.equal(kernels.classwise_conv(*call, padding), contract.reference(*call, padding))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("rescale", contract.RESCALES)
def test_gradients_equal_the_reference(dtype, rescale):
    # Every padding once, whatever else varies.
    own = (list(TOLERANCES).index(dtype) + contract.RESCALES.index(rescale)) % len(contract.PADDINGS)
    for number, padding in enumerate(contract.PADDINGS):
        if dtype != torch.float32 and number != own:
            continue
        call = random_call(2, (3, 2, 5, 4), 3, dtype, channels_last=number % 2 == 1)
        grad = torch.randn(call[0].shape, generator=torch.Generator().manual_seed(3)).to(dtype)
        results = kernels.classwise_conv_backward(grad, *call, padding, rescale)
        expected = contract.reference_backward(grad, *call, padding, rescale)
        for result, plain in zip(results, expected, strict=True):
            assert result.stride() == plain.stride()
            torch.testing.assert_close(result, plain, **TOLERANCES[dtype])


def test_nan_stays_in_its_image():
    images, _, filters = random_call(4, (3, 3, 6, 6), 3, torch.float32)
    images[1, 2, 5, 5] = torch.nan
    result = kernels.classwise_conv(images, torch.zeros(3, dtype=torch.long), filters)
    assert result[1].isnan().all()
    assert result[[0, 2]].isfinite().all()


def test_no_images_and_bad_arguments():
    images, labels, filters = random_call(5, (2, 3, 4, 4), 3)
    assert kernels.classwise_conv(images[:0], labels[:0], filters).shape == (0, 3, 4, 4)
    with pytest.raises(RuntimeError, match=r"labels\[0\] is 7, but must lie in \[-1, 3\)"):
        kernels.classwise_conv(images, labels * 0 + 7, filters)
    with pytest.raises(RuntimeError, match="so it must share no memory with images"):
        kernels.classwise_conv_into(images, images, labels, filters)


COMPILE = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from unlearnable_kernels.triton_kernels import classwise_conv as kernels

def compile(kernel, types, **constants):
    names, types = kernel.arg_names, iter(types.split())
    signature = {name: "constexpr" if name in constants else next(types) for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    triton.compile(ASTSource(kernel, signature, places), target=GPUTarget("cuda", 90, 32))
    print(kernel.__name__)

sizes = " i32 i32 i32 i32"
layout = {"PADDING": "reflect", "LAST": True, "S": tl.float32, "BLOCK": kernels.BLOCK}
compile(kernels.forward_kernel, "*u8 *i64 *fp32 *u8" + sizes, RESCALE=True, **layout)
compile(kernels.division_kernel, "*bf16 *bf16 *i64 *fp32 *fp32" + sizes, RESCALE=True, **layout)
compile(kernels.taps_kernel, "*fp16 *fp32 *fp32" + sizes, **layout)
compile(kernels.fold_kernel, "*fp16 *i64 *fp32 *fp16" + sizes, **layout)
wide = layout | {"S": tl.float64, "PADDING": "zeros"}
compile(kernels.forward_kernel, "*fp64 *i64 *fp64 *fp64" + sizes, RESCALE=False, **wide)
del wide["PADDING"]
compile(kernels.padded_gradient_kernel, "*fp64 *i64 *fp64 *fp64" + sizes, **wide)
del wide["LAST"]
compile(kernels.classes_kernel, "*i64 *fp64 *fp64 i64 i32", **wide)
"""


def test_every_kernel_compiles_for_a_gpu():
    """The interpreter takes more than the compiler, which needs no GPU."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = fresh_process.run(COMPILE, env=env)
    assert set(result.stdout.split()) == {name for name in dir(kernels) if name.endswith("_kernel")}
