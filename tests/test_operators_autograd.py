"""Operators under autograd in both modes, torch.func and autocast: right, or refused in one line."""

import pytest
import torch
from torch.autograd import forward_ad

from unlearnable_kernels import bayes_error, pgd_step_
from unlearnable_kernels.ops import ALL_OPS

WITH_FLOATS = [op for op in ALL_OPS if op.name != "crop_flip"]
DIFFERENTIABLE = [op for op in ALL_OPS if op.reference_backward is not None]
BY_NAME = {"ids": lambda op: op.name}
NOT_FORWARD = "forward-mode derivatives are not implemented; use reverse mode"


def float_call(op):
    """A sample input of floats: the tensor that is differentiated, and what the operator's sum is of it."""
    arguments = next(call for call in op.sample_inputs() if call[0].dtype == torch.float32)

    def total(first):
        result = getattr(torch.ops.unlearn, op.name)(first, *arguments[1:])
        return (result[0] if isinstance(result, tuple) else result).pow(2).sum()

    return arguments[0].contiguous(), total


@pytest.mark.parametrize("op", WITH_FLOATS, **BY_NAME)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_tangent_is_refused(op, requires_grad):
    x, total = float_call(op)
    x = x.clone().requires_grad_(requires_grad)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match=f"^{op.name}: {NOT_FORWARD}$"):
            total(dual)
        total(x)  # without a tangent of its own it is as ever


@pytest.mark.parametrize("op", WITH_FLOATS, **BY_NAME)
def test_torch_func_refuses_forward_mode(op):
    x, total = float_call(op)
    for call in (
        lambda: torch.func.jvp(total, (x,), (x,)),
        lambda: torch.func.hessian(total)(x),
        lambda: torch.func.grad(lambda x: torch.func.jvp(total, (x,), (x,))[1])(x),
    ):
        with pytest.raises(RuntimeError, match=f"^{op.name}: {NOT_FORWARD}$"):
            call()


def test_in_place_and_out_refuse_a_tangent():
    x = torch.rand(2, 3, 4, 4)
    labels, filters = torch.tensor([0, 0]), torch.rand(1, 3, 3)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match=f"^pgd_step: {NOT_FORWARD}$"):
            pgd_step_(dual, x.clone(), x.clone(), 0.1, 0.1, "linf")
        with pytest.raises(RuntimeError, match=f"^classwise_conv: {NOT_FORWARD}$"):
            torch.ops.unlearn.classwise_conv_into(torch.empty_like(x), dual, labels, filters)


@pytest.mark.parametrize("op", DIFFERENTIABLE, **BY_NAME)
def test_torch_func_in_reverse_mode_equals_autograd(op):
    x, total = float_call(op)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(leaf), leaf)
    assert expected.any()
    assert torch.equal(torch.func.grad(total)(x), expected)
    assert torch.equal(torch.func.vjp(total, x)[1](torch.tensor(1.0))[0], expected)
    with torch.no_grad():
        assert torch.equal(torch.func.grad(total)(x), expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("op", DIFFERENTIABLE, **BY_NAME)
def test_a_batch_of_gradients(op):
    x, total = float_call(op)
    grads = torch.func.vmap(torch.func.grad(total))(torch.stack([x, x / 2]))
    assert torch.equal(grads, torch.stack([torch.func.grad(total)(each) for each in (x, x / 2)]))


@pytest.mark.parametrize("op", DIFFERENTIABLE, **BY_NAME)
def test_torch_func_refuses_second_derivatives(op):
    x, total = float_call(op)
    with pytest.raises(RuntimeError, match=f"{op.name}: second derivatives are not implemented"):
        torch.func.grad(lambda x: torch.func.grad(total)(x).sum())(x)


@pytest.mark.parametrize("name", ["bayes_error", "bayes_ascent_step"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_changes_nothing(name, dtype):
    (op,) = (op for op in ALL_OPS if op.name == name)
    function = getattr(torch.ops.unlearn, name)
    arguments = next(call for call in op.sample_inputs() if call[0].dtype == dtype)
    expected = function(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        result = function(*arguments)
    for a, b in zip(result, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_autocast_takes_features_of_half_precision():
    features, labels = torch.randn(20, 8).bfloat16(), torch.arange(20) % 3
    with torch.autocast("cpu", torch.bfloat16):
        leaf = features.clone().requires_grad_()
        error = bayes_error(leaf, labels, 3, 0.7)
        error.sum().backward()
    assert torch.equal(error, bayes_error(features.float(), labels, 3, 0.7))
    assert leaf.grad.dtype == torch.bfloat16


def test_the_private_names_that_this_rests_on_exist():
    for owner, name in (
        (torch._C, "_AutoDispatchBelowAutograd"),
        (torch._C, "_any_requires_grad"),
        (torch._C, "_are_functorch_transforms_active"),
        (forward_ad, "_current_level"),
        (forward_ad, "_set_fwd_grad_enabled"),
        (torch.autograd.function, "_SingleLevelFunction"),
        (torch._functorch.utils, "enable_single_level_autograd_function"),
    ):
        assert hasattr(owner, name), name
