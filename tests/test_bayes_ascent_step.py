import re

import pytest
import torch
from triton_interpreter import interpreter_in_use, repaired_interpreter  # noqa: F401

from unlearnable_kernels import bayes_ascent_step, bayes_error, pgd_step
from unlearnable_kernels.ops import bayes_ascent_step as contract
from unlearnable_kernels.triton_kernels import bayes_ascent_step as on_gpu
from unlearnable_kernels.triton_kernels import bayes_error as gpu_parts

STEPS = [("linf", 0.01, 0.03), ("l2", 0.3, 0.2)]


def batch(count=60, shape=(3, 6, 5), classes=4, dtype=torch.float32, seed=0):
    """x within 0.02 of its origin, in [0, 1]; near enough to each other for σ = 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.rand(classes, *shape, generator=generator)
    origin = 0.7 * centres[labels] + 0.3 * torch.rand(count, *shape, generator=generator)
    x = (origin + 0.02 * torch.randn(origin.shape, generator=generator)).clamp(0, 1)
    return x.to(dtype), labels, origin.to(dtype)


def composed(x, labels, origin, classes, bandwidth, step_size, eps, norm, mean=False):
    """bayes_error, autograd, pgd_step."""
    leaf = x.detach().clone().requires_grad_()
    error = bayes_error(leaf.flatten(1), labels, classes, bandwidth)
    (grad,) = torch.autograd.grad(error.mean() if mean else error.sum(), leaf)
    return pgd_step(x, grad, origin, step_size, eps, norm), error.detach()


def in_float64(x, labels, origin, classes, bandwidth, step_size, eps, norm):
    """The definition by broadcast differences, autograd and plain arithmetic, in float64."""
    x, origin = x.double().requires_grad_(), origin.double()
    rows = x.flatten(1)
    kernel = torch.exp(-(rows[:, None] - rows).square().sum(2) / (2 * bandwidth**2))
    kernel = kernel * (1 - torch.eye(len(x), dtype=torch.float64))
    mass = torch.stack([kernel[:, labels == c].sum(1) for c in range(classes)], 1)
    error = 1 - mass.amax(1) / (mass.sum(1) + 1e-8)
    (grad,) = torch.autograd.grad(error.sum(), x)
    norms = [1] * (x.dim() - 1)
    if norm == "linf":
        moved = (x + step_size * grad.sign() - origin).clamp(-eps, eps)
    else:
        moved = x + step_size * grad / grad.flatten(1).norm(dim=1).view(-1, *norms) - origin
        moved = moved * (eps / moved.flatten(1).norm(dim=1).clamp(min=eps)).view(-1, *norms)
    return (origin + moved).clamp(0, 1).detach(), error.detach()


def assert_same_step(result, expected, tolerance):
    """Equal to rounding, but for elements whose gradient is so near 0 that rounding decides its sign."""
    off = ((result[0].double() - expected[0].double()).abs() > tolerance).double().mean()
    assert off <= 2e-3
    assert torch.allclose(result[1].double(), expected[1].double(), rtol=1e-5)


@pytest.mark.parametrize(("norm", "step_size", "eps"), STEPS)
@pytest.mark.parametrize("dtype", contract.DTYPES)
def test_equals_the_definition_in_float64(dtype, norm, step_size, eps):
    x, labels, origin = batch(dtype=dtype)
    call = (x, labels, origin, 4, 1.0, step_size, eps, norm)
    result = bayes_ascent_step(*call)
    assert not torch.equal(result[0], x)
    assert_same_step(result, in_float64(*call), 1e-6)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(("norm", "step_size", "eps"), STEPS)
def test_equals_its_parts_whether_errors_are_summed_or_averaged(norm, step_size, eps, mean):
    call = (*batch(), 4, 1.0, step_size, eps, norm)
    assert_same_step(bayes_ascent_step(*call), composed(*call, mean=mean), 1e-6)


@pytest.mark.parametrize("count", [1, 2, 9, 4099])
def test_any_number_of_samples(count):
    call = (*batch(count, shape=(5,)), 4, 0.3, 0.01, 0.03, "linf")
    assert_same_step(bayes_ascent_step(*call), composed(*call), 1e-6)


def test_the_error_rises_within_ball_and_bounds():
    x, labels, origin = batch()
    first = None
    for _ in range(20):
        x, error = bayes_ascent_step(x, labels, origin, 4, 1.0, 0.01, 0.05, "linf", 0.1, 0.9)
        first = error if first is None else first
        assert (x - origin.clamp(0.1, 0.9)).abs().max() <= 0.05 + 1e-6
        assert x.min() >= 0.1
        assert x.max() <= 0.9
    assert error.mean() > first.mean() + 0.1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_far_apart_samples_stay_where_they_are(norm):
    x, labels, _ = batch()
    step, error = bayes_ascent_step(x, labels, x, 4, 1e-3, 0.01, 0.03, norm)
    assert torch.equal(step, x)
    assert torch.equal(error, torch.ones(60))


def test_a_pixel_on_which_all_samples_agree_stays():
    x, labels, _ = batch(shape=(4,))
    x[:, 2] = 0.5
    step, _ = bayes_ascent_step(x, labels, x, 4, 0.3, 0.01, 0.03, "linf")
    assert torch.equal(step[:, 2], x[:, 2])
    assert (step[:, :2] != x[:, :2]).all()


def test_layouts():
    x, labels, origin = batch()
    expected = bayes_ascent_step(x, labels, origin, 4, 1.0, 0.01, 0.03, "linf")
    last = x.contiguous(memory_format=torch.channels_last)
    spread = torch.stack([x, x], 1)[:, 0]
    for given in (last, spread):
        result = bayes_ascent_step(given, labels, origin, 4, 1.0, 0.01, 0.03, "linf")
        assert torch.equal(result[0], expected[0])
        assert torch.equal(result[1], expected[1])
    assert bayes_ascent_step(last, labels, origin, 4, 1.0, 0.01, 0.03, "linf")[0].stride() == last.stride()


def test_nothing_at_all():
    for shape in ((0, 3), (4, 0)):
        call = (
            torch.rand(shape),
            torch.zeros(shape[0], dtype=torch.int64),
            torch.rand(shape),
            1,
            1.0,
            0.1,
            0.1,
        )
        step, error = bayes_ascent_step(*call, "linf")
        assert step.shape == shape
        assert torch.equal(error, contract.reference(*call, "linf")[1])


def test_needs_no_gradient_and_gives_none():
    x, labels, origin = batch()
    step, error = bayes_ascent_step(x.requires_grad_(), labels, origin, 4, 1.0, 0.01, 0.03, "linf")
    assert not step.requires_grad
    assert not error.requires_grad


def bad_calls():
    x, labels, origin = batch(6)
    good = (x, labels, origin, 4, 1.0, 0.01, 0.03, "linf", 0.0, 1.0)

    def but(**changed):
        names = ("x", "labels", "origin", "classes", "bandwidth", "step", "eps", "norm", "lower", "upper")
        return tuple(changed.get(name, value) for name, value in zip(names, good, strict=True))

    nan = x.clone()
    nan[2, 0, 1, 1] = torch.nan
    yield but(x=x.half()), "x must be float32 or float64"
    yield but(x=x[0, 0, 0, 0]), "x must be [N, ...], got"
    yield but(labels=labels[:5]), "labels must hold one label for each of the 6 samples, got 5"
    yield but(labels=labels.int()), "labels must be int64 [N], got"
    yield but(labels=torch.tensor([0, 1, 4, 0, 1, 2])), "labels[2] is 4, but must lie in [0, 4)"
    yield but(x=nan), "the squared length of x[2] is nan, but must be finite"
    yield but(origin=origin[:, :2]), "origin must have x's shape"
    yield but(classes=0), "num_classes must"
    yield but(bandwidth=float("nan")), "bandwidth must be finite and greater than 0, got nan"
    yield but(step=float("inf")), "step_size must be finite, got inf"
    yield but(eps=-1.0), "eps must be at least 0, got -1"
    yield but(norm="l1"), "norm must be one of linf, l2, got 'l1'"
    yield but(lower=2.0), "lower must be at most upper, got 2 and 1"


@pytest.mark.parametrize(("call", "message"), list(bad_calls()))
def test_refuses(call, message):
    for function in (torch.ops.unlearn.bayes_ascent_step, contract.reference):
        with pytest.raises(RuntimeError, match="^bayes_ascent_step: " + re.escape(message)):
            function(*call)


@pytest.mark.skipif(not interpreter_in_use(), reason="a GPU runs tests/gpu instead")
@pytest.mark.parametrize(("norm", "step_size", "eps"), STEPS)
def test_triton_composition(repaired_interpreter, monkeypatch, norm, step_size, eps):  # noqa: F811
    for name, value in (("TILE", 32), ("PANEL", 32), ("BLOCK_D", 32)):
        monkeypatch.setattr(gpu_parts, name, value)
    call = (*batch(40, shape=(3, 4, 3)), 4, 1.0, step_size, eps, norm)
    assert_same_step(on_gpu.bayes_ascent_step(*call), contract.reference(*call), 1e-6)
