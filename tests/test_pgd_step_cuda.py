"""pgd_step's CUDA C++ kernel on this machine's CPU, thread by thread: tests/cuda_on_host."""

import ctypes
import math

import pytest
import torch
from cuda_on_this_host import A100, H100, SMALL, compiled_for_the_host, guarded, needs_compiler
from test_pgd_step import random_call

from unlearnable_kernels.ops import pgd_step as contract
from unlearnable_kernels.ops.native import ELEMENT_TYPES

pytestmark = [pytest.mark.unsanitized, needs_compiler]


class Call(ctypes.Structure):
    """PgdStepCuda of csrc/cuda/pgd_step.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "grad", "origin", "out")),
        ("type", ctypes.c_int),
        *((name, ctypes.c_int64) for name in ("count", "size")),
        *((name, ctypes.c_double) for name in ("step_size", "eps", "lower", "upper")),
        ("stream", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    loaded = compiled_for_the_host("pgd_step", tmp_path_factory.mktemp("cuda"), Call)
    loaded.step.restype = ctypes.c_char_p
    return loaded


def filled(x, grad, origin, step_size, eps, bounds=(0.0, 1.0), out=None):
    out = x if out is None else out
    return Call(
        *(t.data_ptr() for t in (x, grad, origin, out)),
        type=ELEMENT_TYPES.index(x.dtype),
        count=len(x),
        size=x[0].numel(),
        step_size=step_size,
        eps=eps,
        lower=bounds[0],
        upper=bounds[1],
    )


def step(cuda, x, *others):
    out, check = guarded(x)
    assert cuda.step(ctypes.byref(filled(x, *others, out=out))) is None
    check()
    return out


# One block; clusters of two and of eight blocks; odd sizes, which cannot be loaded 16 bytes at a time.
@pytest.mark.parametrize(
    ("shape", "device", "parts"),
    [
        ((3, 3, 32, 64), SMALL, 8),
        ((2, 8320), (9, 56_000), 2),
        ((2, 3, 64, 64), A100, 1),
        ((1, 3, 224, 224), H100, 8),
        ((2, 1), H100, 1),
        ((3, 9001), (9, 12_500), 8),
    ],
)
@pytest.mark.parametrize("dtype", contract.DTYPES)
def test_equals_the_reference(cuda, shape, device, parts, dtype):
    cuda.set_device(*device, len(shape) == 2)
    call = *random_call(2, shape, dtype), 0.3, 0.2
    call[1][-1] = 0
    if dtype != torch.float64:
        assert cuda.parts(ctypes.byref(filled(*call))) == parts
    result, expected = step(cuda, *call), contract.reference(*call, "l2")
    if dtype == torch.float64:  # the last bits of a norm depend on its order
        torch.testing.assert_close(result, expected, rtol=1e-14, atol=1e-14)
    else:
        assert torch.equal(result, expected)


@pytest.mark.parametrize("size", [4096, 4097])
def test_a_gradient_without_direction_takes_no_step(cuda, size):
    cuda.set_device(*SMALL, True)
    x, grad, origin = random_call(4, (4, size))
    grad[0], grad[1, 0], grad[2, 5] = 0, math.nan, math.inf
    grad[3] *= 1e-41
    result = step(cuda, x, grad, origin, 0.5, 10.0)
    assert torch.equal(result, contract.reference(x, grad, origin, 0.5, 10.0, "l2"))
    torch.testing.assert_close(result[:3], x[:3], rtol=0, atol=1e-7)
    assert (result[3] - x[3]).abs().max() > 1e-3


def test_nan_fills_its_sample_alone(cuda):
    cuda.set_device(*H100, False)
    x, grad, origin = random_call(5, (3, 10_000))
    x[1, 77] = math.nan
    bounds = -math.inf, math.inf
    result = step(cuda, x, grad, origin, -0.1, math.inf, bounds)
    expected = contract.reference(x, grad, origin, -0.1, math.inf, "l2", *bounds)
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


def test_in_place_and_off_16_bytes(cuda):
    cuda.set_device(*H100, False)
    x, grad, origin = random_call(6, (2, 8192))
    expected = contract.reference(x, grad, origin, 0.3, 0.2, "l2")
    shifted = torch.zeros(x.numel() + 1)[1:].view(x.shape)
    shifted.copy_(x)
    assert torch.equal(step(cuda, shifted, grad, origin, 0.3, 0.2), expected)
    assert cuda.step(ctypes.byref(filled(x, grad, origin, 0.3, 0.2))) is None
    assert torch.equal(x, expected)


def test_what_no_cluster_holds_is_left_to_the_phases(cuda):
    x, grad, origin = random_call(7, (1, 500_000))
    call = ctypes.byref(filled(x, grad, origin, 0.3, 0.2))
    cuda.set_device(*H100, False)
    assert cuda.parts(call) == 0
    x, grad, origin = random_call(7, (1, 3 * 224 * 224))
    cuda.set_device(*A100, False)
    assert cuda.parts(ctypes.byref(filled(x, grad, origin, 0.3, 0.2))) == 0
