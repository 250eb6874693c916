"""Operators under autograd in both modes, torch.func and autocast: right, or refused in one line."""

import pytest
import torch
from torch.autograd import forward_ad

from unlearnable_kernels import (
    bayes_ascent_step,
    bayes_error,
    classwise_conv,
    classwise_spectrum,
    pgd_step,
    pgd_step_,
)
from unlearnable_kernels.ops import ALL_OPS

WITH_FLOATS = [op for op in ALL_OPS if op.name != "crop_flip"]
DIFFERENTIABLE = [op for op in ALL_OPS if op.reference_backward is not None]
FORWARD = ("classwise_conv", "classwise_spectrum", "pgd_step")
WITHOUT_FORWARD = [op for op in WITH_FLOATS if op.name not in FORWARD]
BY_NAME = {"ids": lambda op: op.name}
NOT_FORWARD = "forward-mode derivatives are not implemented; use reverse mode"
NOT_REVERSE = r"torch.func's reverse mode is not implemented; detach\(\) the inputs first"


def float_call(op):
    """A sample input of floats: the tensor that is differentiated, and what the operator's sum is of it."""
    arguments = next(call for call in op.sample_inputs() if call[0].dtype == torch.float32)

    def total(first):
        result = getattr(torch.ops.unlearn, op.name)(first, *arguments[1:])
        return (result[0] if isinstance(result, tuple) else result).pow(2).sum()

    return arguments[0].contiguous(), total


@pytest.mark.parametrize("op", WITHOUT_FORWARD, **BY_NAME)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_tangent_is_refused(op, requires_grad):
    x, total = float_call(op)
    x = x.clone().requires_grad_(requires_grad)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match=f"^{op.name}: {NOT_FORWARD}$"):
            total(dual)
        total(x)  # without a tangent of its own it is as ever


@pytest.mark.parametrize("op", WITHOUT_FORWARD, **BY_NAME)
def test_torch_func_refuses_forward_mode(op):
    x, total = float_call(op)
    for call in (
        lambda: torch.func.jvp(total, (x,), (x,)),
        lambda: torch.func.hessian(total)(x),
        lambda: torch.func.grad(lambda x: torch.func.jvp(total, (x,), (x,))[1])(x),
    ):
        with pytest.raises(RuntimeError, match=f"^{op.name}: ({NOT_FORWARD}|{NOT_REVERSE})$"):
            call()


def convolution(padding="reflect", rescale="max", dtype=torch.float64):
    """A function of images and filters without ties, and both; the image labelled -1 stays as it is."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 2, 4, 5, generator=generator, dtype=torch.float64).to(dtype)
    filters = torch.rand(4, 3, 3, generator=generator, dtype=torch.float64)
    filters = filters if dtype == torch.float64 else filters.float()
    labels = torch.tensor([1, -1, 3, 1])
    return lambda x, s: classwise_conv(x, labels, s, padding, rescale), (images, filters)


def spectrum(dtype=torch.float64):
    """A function of images, weights and curves, and these; the image labelled -1 stays as it is."""
    generator = torch.Generator().manual_seed(2)
    shapes = (4, 2, 4, 5), (3, 4, 5, 2, 2), (3, 2, 2, 2)
    inputs = tuple(torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    labels = torch.tensor([1, -1, 2, 1])
    return lambda x, w, c: classwise_spectrum(x, labels, w, c), inputs


def steps(norm, eps=0.3, dtype=torch.float64):
    """A function of x, gradient and origin; elements within and outside of ball and bounds, no edge near."""
    generator = torch.Generator().manual_seed(3)
    x, origin = torch.rand(2, 5, 2, 3, 4, generator=generator, dtype=torch.float64)
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    inputs = tuple(t.to(dtype) for t in (x, grad, origin))
    return lambda x, g, o: pgd_step(x, g, o, 0.1, eps, norm, 0.2, 0.9), inputs


FORMULAS = {
    "zeros": convolution("zeros"),
    "reflect": convolution(),
    "circular, none": convolution("circular", "none"),
    "spectrum": spectrum(),
    "linf": steps("linf"),
    "l2 within the ball": steps("l2", 9.0),
    "l2": steps("l2", 1.0),
}


def directions(inputs):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in inputs)


def central_difference(function, inputs, tangents, step=1e-6):
    ahead, behind = ([x + sign * step * t for x, t in zip(inputs, tangents, strict=True)] for sign in (1, -1))
    return (function(*ahead) - function(*behind)) / (2 * step)


@pytest.mark.parametrize(("function", "inputs"), FORMULAS.values(), ids=FORMULAS)
def test_tangents_are_finite_differences(function, inputs):
    tangents = directions(inputs)
    result, along = torch.func.jvp(function, inputs, tangents)
    assert torch.equal(result, function(*inputs))
    torch.testing.assert_close(along, central_difference(function, inputs, tangents), rtol=1e-6, atol=1e-7)
    for at, (x, t) in enumerate(zip(inputs, tangents, strict=True)):
        others = [torch.zeros_like(each) for each in inputs]
        alone = torch.func.jvp(lambda x, at=at: function(*inputs[:at], x, *inputs[at + 1 :]), (x,), (t,))[1]
        expected = central_difference(function, inputs, [*others[:at], t, *others[at + 1 :]])
        torch.testing.assert_close(alone, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rescale", ["max", "none"])
def test_gradcheck_in_both_modes(rescale):
    function, inputs = convolution("zeros", rescale)
    leaves = [each.clone().requires_grad_() for each in inputs]
    torch.autograd.gradcheck(function, leaves, check_forward_ad=True)


@pytest.mark.parametrize(("function", "inputs"), FORMULAS.values(), ids=FORMULAS)
def test_derivatives_of_tangents(function, inputs):
    """Of second order in forward mode, and in reverse mode over it."""
    tangents = directions(inputs)

    def along(*inputs):
        return torch.func.jvp(lambda *a: function(*a).pow(2).sum(), inputs, tangents)[1]

    second = torch.func.jvp(along, inputs, tangents)[1]
    torch.testing.assert_close(second, central_difference(along, inputs, tangents), rtol=1e-5, atol=1e-5)
    if function is FORMULAS["zeros"][0]:
        grads = torch.func.grad(along, argnums=(0, 1))(*inputs)
        total = sum((g * t).sum() for g, t in zip(grads, tangents, strict=True))
        torch.testing.assert_close(total, second)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("function", "inputs"), [convolution(), spectrum(), steps("l2")], ids=FORWARD)
def test_jacobians_agree(function, inputs):
    (x, *others), tangents = inputs, directions(inputs)
    jacobian = torch.func.jacfwd(lambda x: function(x, *others))(x)
    expected = torch.func.jvp(lambda x: function(x, *others), (x,), tangents[:1])[1]
    torch.testing.assert_close(torch.tensordot(jacobian, tangents[0], x.dim()), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "make", [convolution, lambda **d: steps("linf", **d), lambda **d: steps("l2", 1.0, **d)]
)
def test_tangents_have_the_results_dtype(make, dtype):
    function, inputs = make(dtype=dtype)
    tangents = directions(inputs)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(function(*map(forward_ad.make_dual, inputs, tangents)))
    result = function(*inputs)
    assert torch.equal(dual.primal, result)
    assert dual.tangent.dtype == result.dtype
    exact, exact_tangents = ([t.double() for t in given] for given in (inputs, tangents))
    expected = central_difference(function, exact, exact_tangents)
    error = (dual.tangent.double() - expected).abs() / (1 + expected.abs())
    # Rounding moves an element or two across an edge of ball or bounds.
    assert error.flatten().sort().values[:-3].max() < 4 * torch.finfo(dtype).eps


def test_samples_without_a_direction_move_with_x():
    _, (x, grad, origin) = steps("l2", 9.0)
    grad = torch.zeros_like(grad)
    along = torch.func.jvp(lambda x: pgd_step(x, grad, origin, 0.1, 9.0, "l2"), (x,), (torch.ones_like(x),))[
        1
    ]
    assert torch.equal(along, torch.ones_like(x))
    empty = torch.func.jvp(lambda x: pgd_step(x, x, x, 0.1, 9.0, "l2"), (x[:0],), (x[:0],))[1]
    assert empty.shape == x[:0].shape


def test_in_place_and_out_refuse_a_tangent():
    x = torch.rand(2, 3, 4, 4)
    labels, filters = torch.tensor([0, 0]), torch.rand(1, 3, 3)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match=f"^pgd_step: {NOT_FORWARD}$"):
            pgd_step_(dual, x.clone(), x.clone(), 0.1, 0.1, "linf")
        with pytest.raises(RuntimeError, match=f"^classwise_conv: {NOT_FORWARD}$"):
            torch.ops.unlearn.classwise_conv_into(torch.empty_like(x), dual, labels, filters)


def test_bytes_have_no_tangent():
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 0])
    filters = torch.rand(1, 3, 3)
    refused = r"^classwise_conv: a result of torch.uint8 has no forward-mode derivative$"
    with pytest.raises(RuntimeError, match=refused):
        torch.func.jvp(lambda s: classwise_conv(images, labels, s), (filters,), (filters,))


def ascent_step(x, grad, origin):
    labels = torch.arange(len(x)) % 2
    return bayes_ascent_step(x, labels, origin, 2, 0.7, 0.1, 0.1, "linf")[0]


STEPS = {
    "pgd_step": lambda *tensors: pgd_step(*tensors, 0.1, 0.1, "linf"),
    "pgd_step_": lambda x, *others: pgd_step_(x.clone(), *others, 0.1, 0.1, "linf"),
    "bayes_ascent_step": ascent_step,
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.hessian])
def test_torch_func_refuses_reverse_mode_through_a_step(step, transform):
    x, grad, origin = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    refused = f"{NOT_REVERSE}$|x is written in place, but requires grad"
    with pytest.raises(RuntimeError, match=f"^(pgd_step|bayes_ascent_step): ({refused})"):
        transform(lambda x: step(x, grad, origin).pow(2).sum())(x)


@pytest.mark.parametrize("step", [STEPS["pgd_step"], STEPS["pgd_step_"]])
def test_torch_func_refuses_reverse_mode_along_a_steps_gradient(step):
    x, grad, origin = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match=f"^pgd_step: {NOT_REVERSE}$"):
        torch.func.grad(lambda g: step(x, g, origin).sum())(grad)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_torch_func_takes_a_step_of_what_is_detached(step):
    x, grad, origin = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    leaf = x.clone().requires_grad_(step is not STEPS["pgd_step_"])
    expected = step(x, grad, origin)
    assert torch.equal(step(leaf, grad, origin), expected)
    gradient = torch.func.grad(lambda x: (x * step(x.detach(), grad, origin)).sum())(x)
    assert torch.equal(gradient, expected)


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
    with pytest.raises(RuntimeError, match=f"^{op.name}(_backward)?: {NOT_FORWARD}$"):
        torch.func.hessian(total)(x)


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("run", [lambda function: function, compiled], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["bayes_error", "bayes_ascent_step"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_autocast_takes_halves_as_float32_and_changes_nothing_else(name, dtype, run):
    (op,) = (op for op in ALL_OPS if op.name == name)
    function = getattr(torch.ops.unlearn, name)
    wide = torch.promote_types(dtype, torch.float32)
    exact = next(call for call in op.sample_inputs() if call[0].dtype == wide)
    arguments = [a.to(dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in exact]
    expected = function(*(a.to(wide) if a is not b else a for a, b in zip(arguments, exact, strict=True)))
    with torch.autocast("cpu", torch.bfloat16):
        result = run(lambda *a: function(*a))(*arguments)
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
        (torch._C, "_DisableAutocast"),
        (torch._C, "_any_requires_grad"),
        (torch._C, "_are_functorch_transforms_active"),
        (forward_ad, "_current_level"),
        (forward_ad, "_set_fwd_grad_enabled"),
        (torch.autograd.function, "_SingleLevelFunction"),
        (torch._functorch.utils, "enable_single_level_autograd_function"),
    ):
        assert hasattr(owner, name), name
