"""The Triton kernels on CPU tensors, in Triton's interpreter; on a machine with a GPU, on the GPU."""

import math

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
