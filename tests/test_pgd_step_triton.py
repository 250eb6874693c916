"""The Triton kernels on CPU tensors, in Triton's interpreter; on a machine with a GPU, on the GPU."""

import math
import os

import fresh_process
import pytest
import torch
from conftest import HAS_GPU
from test_pgd_step import LAYOUTS, SPECIAL, eager, random_call, same_bits

from unlearnable_kernels.ops import pgd_step as contract
from unlearnable_kernels.triton_kernels import pgd_step as kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # 0/0 in lanes not taken
DEVICE = "cuda" if HAS_GPU else "cpu"


def step(*call, in_place=False):
    x, grad, origin, *rest = call
    x, grad, origin = (t.to(DEVICE) for t in (x, grad, origin))
    if not in_place:
        return kernels.pgd_step(x, grad, origin, *rest).cpu()
    assert kernels.pgd_step_(x, grad, origin, *rest) is None
    return x.cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step_size", [2 / 255, -0.1])
def test_linf_has_the_eager_sequence_bits(dtype, step_size):
    call = random_call(0, (3, 701), dtype)
    generator = torch.Generator().manual_seed(1)
    for t in call:
        chosen = torch.rand(t.shape, generator=generator) < 0.2
        t[chosen] = SPECIAL[torch.randint(len(SPECIAL), (int(chosen.sum()),), generator=generator)].to(dtype)
    for eps, bounds in ((8 / 255, (0.0, 1.0)), (0.0, (-1.5, 2.5)), (math.inf, (-math.inf, math.inf))):
        result = step(*call, step_size, eps, "linf", *bounds)
        assert same_bits(result, eager(*call, step_size, eps, *bounds))


@pytest.mark.parametrize("dtype", contract.DTYPES)
@pytest.mark.parametrize("norm", contract.NORMS)
@pytest.mark.parametrize("shape", [(5, 3, 11, 13), (2, 3, 64, 50), (3, 1), (2, 9001)])
def test_equals_the_reference(dtype, norm, shape):
    call = *random_call(2, shape, dtype), 0.3, 0.2, norm
    call[1][1] = 0
    result, expected = step(*call), contract.reference(*call)
    if dtype == torch.float64 and norm == "l2":  # the last bits of a norm depend on its order
        torch.testing.assert_close(result, expected, rtol=1e-14, atol=1e-14)
    elif dtype == torch.bfloat16 and not HAS_GPU:  # the interpreter truncates
        torch.testing.assert_close(result, expected, rtol=2**-7, atol=0)
    else:
        assert torch.equal(result, expected)
    assert torch.equal(step(*(t.clone() for t in call[:3]), *call[3:], in_place=True), result)


@pytest.mark.parametrize("norm", contract.NORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("in_place", [False, True])
def test_layouts(norm, layout, in_place):
    x, grad, origin = random_call(3)
    expected = contract.reference(x, grad, origin, 0.3, 0.2, norm)
    call = LAYOUTS[layout](x.clone()), grad, LAYOUTS["channels-last"](origin), 0.3, 0.2, norm
    result = step(*call, in_place=in_place)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-7)
    if not in_place:
        assert result.stride() == torch.empty_like(call[0]).stride()


@pytest.mark.parametrize("shape", [(4, 300), (4, 8200)])
def test_a_gradient_without_direction_takes_no_step(shape):
    x, grad, origin = random_call(4, shape)
    grad[0], grad[1, 0], grad[2, 5] = 0, math.nan, math.inf
    grad[3] *= 1e-41
    result = step(x, grad, origin, 0.5, 10.0, "l2")
    assert torch.equal(result, contract.reference(x, grad, origin, 0.5, 10.0, "l2"))
    torch.testing.assert_close(result[:3], x[:3], rtol=0, atol=1e-7)
    assert (result[3] - x[3]).abs().max() > 1e-3


def test_many_parts_of_a_sample(monkeypatch):
    monkeypatch.setattr(kernels, "WHOLE_SAMPLE", 1024)
    monkeypatch.setattr(kernels, "MOST_PARTS", 5)
    call = *random_call(5, (2, 10300)), 0.3, 0.2, "l2"
    assert torch.equal(step(*call), contract.reference(*call))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_empty(shape):
    call = random_call(6, shape)
    for norm in contract.NORMS:
        assert step(*call, 0.1, 0.2, norm).shape == shape
        assert step(*call, 0.1, 0.2, norm, in_place=True).shape == shape


def test_bad_arguments_are_named():
    x, grad, origin = (t.to(DEVICE) for t in random_call(7))
    for function in (kernels.pgd_step, kernels.pgd_step_):
        with pytest.raises(RuntimeError, match="pgd_step: eps must be at least 0, got -1"):
            function(x, grad, origin, 0.1, -1.0, "l2")
    with pytest.raises(RuntimeError, match="share no memory with grad"):
        kernels.pgd_step_(x, x, origin, 0.1, 0.2, "l2")


COMPILE = """
import re, sys
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from unlearnable_kernels.triton_kernels import pgd_step as kernels

def ptx(kernel, element, warps=4, **constants):
    names = kernel.arg_names
    types = {"total": "i64", "size": "i32"} | {n: "i64" for n in names if n.endswith("_bits")}
    types |= {n: "*fp64" if "sums" in n else "*" + element for n in names if n.endswith("_at")}
    signature = {n: "constexpr" if n in constants else types[n] for n in names}
    aligned = [n for n in names if n.endswith("_at") or n in ("total", "size")]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"enable_fp_fusion": False, "num_warps": warps}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]

for element in ("fp32", "bf16", "fp64"):
    S = tl.float64 if element == "fp64" else tl.float32
    for text in (
        ptx(kernels._linf_kernel, element, S=S, BLOCK=1024),
        ptx(kernels._l2_sample_kernel, element, 8, S=S, BLOCK=4096),
        ptx(kernels._l2_phase_kernel, element, S=S, BLOCK=1024, PHASE=2, PART_SIZE=8192, PARTS=32),
    ):
        print(*sorted(set(re.findall(r"(?:ld|st)\\.global\\S*|fma\\S*", text))))
"""


def test_compiled_for_a_gpu_accesses_are_16_bytes_wide_and_nothing_is_fused():
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    lines = fresh_process.run(COMPILE, env=env).stdout.splitlines()
    floats = "ld.global.v4.b32 st.global.v4.b32"
    doubles = "ld.global.v2.b64 st.global.v2.b64"
    sums = "ld.global.b64"  # of the launches before
    assert lines[:6] == [floats, floats, f"{sums} {floats}"] * 2
    assert lines[6:] == [doubles, doubles, f"{sums} {doubles}"]
