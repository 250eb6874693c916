"""bayes_error's Triton kernels on tensor cores that cut off what they add, emulated in the interpreter."""

import numpy as np
import pytest
import torch
import triton.language as tl
from test_bayes_error_triton import clusters
from triton.runtime import interpreter
from triton_interpreter import _from_bfloat16, interpreter_in_use, repaired_interpreter  # noqa: F401

from unlearnable_kernels.ops import bayes_error as contract
from unlearnable_kernels.triton_kernels import bayes_error as kernels

INSTRUCTION_DEPTH = 16  # products that one instruction adds to the accumulator


def cut_off(values, unit):
    return np.trunc(values / unit) * unit


def truncating_dot(self, a, b, d, *options):
    """a·b + d: exact products, aligned with the largest addend, cut off a bit below float32, and added."""
    x, y = (_from_bfloat16(t.data) if t.dtype.scalar == tl.bfloat16 else t.data for t in (a, b))
    total = d.data.astype(np.float64)
    for k in range(0, x.shape[1], INSTRUCTION_DEPTH):
        few = slice(k, k + INSTRUCTION_DEPTH)
        terms = x[:, few, None].astype(np.float64) * y[None, few].astype(np.float64)
        exponent = np.frexp(np.maximum(np.abs(terms).max(1), np.abs(total)))[1]
        unit = np.exp2(exponent - 25.0)
        total = cut_off(total, unit) + cut_off(terms, unit[:, None]).sum(1)
        total = cut_off(total, np.exp2(np.frexp(total)[1] - 24.0))
    return interpreter.TensorHandle(total.astype(np.float32), d.dtype.scalar)


@pytest.fixture
def tensor_cores(repaired_interpreter, monkeypatch):  # noqa: F811
    if not interpreter_in_use():
        pytest.skip("a GPU runs tests/gpu instead")
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", truncating_dot)
    for name, value in (("TILE", 16), ("SMALL", 0), ("PANEL", 128), ("LONGEST", float("inf"))):
        monkeypatch.setattr(kernels, name, value)


@pytest.mark.usefixtures("tensor_cores")
@pytest.mark.parametrize(
    ("depth", "bandwidth", "tolerance"), [(512, 0.3, 1.2e-6), (512, 0.16, 8e-6), (4096, 0.3, 1.8e-6)]
)
def test_ieee_keeps_its_accuracy(depth, bandwidth, tolerance):
    """Twice what rounding to nearest gives; one chain for all of D gives 4e-5, 1.3e-4 and 4e-4."""
    x, labels = clusters(64 if depth == 512 else 32, depth)
    x = x / (depth / 19) ** 0.5
    options = (labels, 4, bandwidth)
    results = kernels.bayes_error(x, *options)
    truths = contract.reference(x.double(), *options)
    grad = torch.ones(len(x))
    gradient, _ = kernels.bayes_error_backward(grad, *results[1:], x, *options)
    exact, _ = contract.reference_backward(grad.double(), *truths[1:], x.double(), *options)
    for result, truth in ((results[0], truths[0]), (gradient, exact)):
        assert float((result.double() - truth).norm() / truth.norm()) < tolerance
