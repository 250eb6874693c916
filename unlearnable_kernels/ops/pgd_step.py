"""One step of projected gradient ascent, as adversarial training and unlearnable noise take it.

    t = x + step·sign(g)  or  x + step·g/‖g‖₂      a step along the gradient          (P1, P2)
    d = t − origin, brought into the ε-ball        L∞: each element, L2: each sample  (P3, P4)
    result = clamp(origin + d, lower, upper)                                          (P5)

Source: Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial
Attacks", ICLR 2018, arXiv 1706.06083.
docs/maths.md numbers the equations and fixes their rounding.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unlearnable_kernels.ops.checks import Checks
from unlearnable_kernels.ops.forward_mode import refuse_tangents, refuse_transforms
from unlearnable_kernels.ops.library import below_autograd, define, detached

NORMS = ("linf", "l2")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LANES = 32  # a norm's sum of squares is taken in so many strands, whatever the backend

check = Checks("pgd_step")


class Arguments(NamedTuple):
    """What ``pgd_step`` describes; of ``pgd_step_`` too, which writes x."""

    x: Tensor
    grad: Tensor
    origin: Tensor
    step_size: float
    eps: float
    norm: str
    lower: float = 0.0
    upper: float = 1.0


class Step(Protocol):
    """The arguments that say how far a step goes and where it must end."""

    @property
    def step_size(self) -> float: ...
    @property
    def eps(self) -> float: ...
    @property
    def norm(self) -> str: ...
    @property
    def lower(self) -> float: ...
    @property
    def upper(self) -> float: ...


def pgd_step(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    eps: float,
    norm: str,
    lower: float = 0.0,
    upper: float = 1.0,
) -> Tensor:
    """Step along the gradient, project onto the ε-ball around ``origin``, clamp to ``[lower, upper]``.

    Args:
        x: ``[N, ...]``, float16, bfloat16, float32 or float64, in any dense layout (contiguous,
            channels-last, ...); other strides are copied first.
        grad: the loss's gradient at x: shape and dtype of x; copied first where its strides are others.
        origin: centre of the ball; as ``grad``.
        step_size: finite; negative descends.
        eps: radius, at least 0; infinite leaves out the projection.
        norm: ``linf`` steps along sign(grad), and projects each element; ``l2`` steps along grad/‖grad‖₂
            and projects x − origin, both of each sample over all dimensions but the first.
        lower: least valid value of x, at most ``upper``; -inf does not bind.
        upper: largest valid value of x; inf does not bind.

    Returns:
        Dtype, shape and dense layout of x; computed in float32 (float64 for float64) and rounded once. It is
        an attack's step, and the result never requires grad, whatever x does; torch.func's reverse mode,
        which would not tell that from a gradient of 0, is refused. Forward mode has its tangent.
        ``linf`` in float32 and float64 is bit-equal to the eager sequence
        ``(origin + (x + step_size * grad.sign() - origin).clamp(-eps, eps)).clamp(lower, upper)``.

        Where grad is zero or NaN, ``linf`` does not step. Under ``l2`` a sample whose grad is zero, or holds
        a NaN or an infinity, has no direction and does not step. Projection and bounds apply all the same.
        A NaN in x or origin stays in its element under ``linf``, and fills its sample under ``l2``.

    Raises:
        RuntimeError: an argument is not as said here; the message names it, its value and what is allowed.
    """
    result: Tensor = torch.ops.unlearn.pgd_step(x, grad, origin, step_size, eps, norm, lower, upper)
    return result


def pgd_step_(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    step_size: float,
    eps: float,
    norm: str,
    lower: float = 0.0,
    upper: float = 1.0,
) -> Tensor:
    """``pgd_step`` written over x, which is returned: the same values, without a new tensor.

    x may have any strides under which no two elements share memory. It must share none with ``grad`` and
    ``origin``, and must not require grad unless grad mode is off.
    """
    torch.ops.unlearn.pgd_step_(x, grad, origin, step_size, eps, norm, lower, upper)
    return x


def check_step(check: Checks, call: Step) -> None:
    """What every operator that ends in this step refuses."""
    check.one_of("norm", call.norm, NORMS)
    check.finite("step_size", call.step_size)
    check(call.eps >= 0, f"eps must be at least 0, got {call.eps:g}")
    check(call.lower <= call.upper, f"lower must be at most upper, got {call.lower:g} and {call.upper:g}")


def check_arguments(call: Arguments) -> None:
    """Refuses what can be told without reading an element."""
    check.layout("x", call.x, "[N, ...]")
    check.dtype("x", call.x.dtype, DTYPES)
    check.like("grad", call.grad, "x", call.x)
    check.like("origin", call.origin, "x", call.x)
    check_step(check, call)


def check_in_place(call: Arguments) -> None:
    """Refuses what ``pgd_step_`` cannot write over, as far as strides tell."""
    check_arguments(call)
    check.own_elements("x", call.x)


def samples_outermost(x: Tensor) -> bool:
    """Whether each sample of a dense tensor is one run of memory."""
    return x.shape[0] == 1 or x.numel() == 0 or x.stride(0) == x.numel() // x.shape[0]


def _samples(t: Tensor, layout: Tensor) -> Tensor:
    """``[N, elements]``, the elements in the order in which ``layout``, which is dense, holds them."""
    return t.permute(_order(layout)).reshape(t.shape[0], -1)


def _from_samples(samples: Tensor, result: Tensor) -> Tensor:
    """``result`` filled from ``_samples``."""
    ordered = result.permute(_order(result))
    ordered.copy_(samples.view(ordered.shape))
    return result


def _order(layout: Tensor) -> list[int]:
    """The dimensions, samples first, the others from the outermost in memory to the innermost."""
    inner = range(1, layout.dim())
    if not samples_outermost(layout):
        return [0, *inner]
    return [0, *sorted(inner, key=layout.stride().__getitem__, reverse=True)]


def _norms(samples: Tensor) -> Tensor:
    """‖·‖₂ of each row, ``[N, 1]`` float64: strand l sums elements l, l + 32, …; then strands in halves."""
    squares = F.pad(samples.double().square(), (0, (-samples.shape[1]) % LANES))
    strands = squares.view(samples.shape[0], -1, LANES).cumsum(1)[:, -1]
    while strands.shape[1] > 1:
        half = strands.shape[1] // 2
        strands = strands[:, :half] + strands[:, half:]
    if strands.is_cuda:
        return strands.sqrt()
    return torch.from_numpy(np.sqrt(strands.numpy()))  # torch's may be off by a last bit on the CPU


def _quotient(a: float, b: Tensor) -> Tensor:
    """a / b, rounded once."""
    return torch.full_like(b, a) / b  # a / b would be a times b's rounded reciprocal


def _along_gradient(g: Tensor, step_size: float) -> Tensor:
    """(P2) for samples ``[N, elements]``; the power of two keeps the smallest and largest norms in range."""
    norms = _norms(g)
    power = torch.where(norms < 2.0**-100, 2.0**100, torch.where(norms > 2.0**100, 2.0**-100, 1.0))
    scale = _quotient(step_size, norms * power)
    return torch.where(norms.isfinite() & (norms > 0), g * power.to(g.dtype) * scale.to(g.dtype), 0)


def _into_ball(d: Tensor, eps: float) -> Tensor:
    """(P4) for d ``[N, elements]``."""
    norms = _norms(d)
    return d * torch.where(norms <= eps, 1.0, _quotient(eps, norms)).to(d.dtype)


def _reference(call: Arguments) -> Tensor:
    """(P1) to (P5) in plain PyTorch, bit for bit what the kernels give."""
    result = torch.empty_like(call.x)
    if result.numel() == 0:
        return result
    dtype = torch.float64 if result.dtype == torch.float64 else torch.float32
    x, g, o = (t.to(dtype) for t in (call.x, call.grad, call.origin))
    if call.norm == "linf":
        d = (x + call.step_size * g.sign() - o).clamp(-call.eps, call.eps)
        return result.copy_((o + d).clamp(call.lower, call.upper))
    x, g, o = (_samples(t, result) for t in (x, g, o))
    d = _into_ball(x + _along_gradient(g, call.step_size) - o, call.eps)
    return _from_samples((o + d).clamp(call.lower, call.upper), result)


def _across(v: Tensor, along: Tensor) -> Tensor:
    """The part of ``along`` that is orthogonal to v, row by row, over ‖v‖: the derivative of v/‖v‖."""
    length = v.norm(dim=1, keepdim=True)
    unit = v / length
    across: Tensor = (along - unit * (unit * along).sum(1, keepdim=True)) / length
    return across


def _tangent(call: Arguments, tangents: dict[str, Tensor]) -> Tensor:
    """The derivative of (P1) to (P5) along tangents of x, grad and origin; at an edge that within."""
    if call.x.numel() == 0:
        return torch.zeros_like(call.x)
    rows = [t.double().reshape(call.x.shape[0], -1) for t in (call.x, call.grad, call.origin)]
    none = torch.zeros_like(call.x)
    along = [tangents.get(name, none).double().reshape_as(rows[0]) for name in ("x", "grad", "origin")]
    (x, g, o), (d_x, d_g, d_o) = rows, along
    if call.norm == "linf":
        t, d_t = x + call.step_size * g.sign() - o, d_x - d_o
        d_t = torch.where(t.abs() <= call.eps, d_t, 0)
        t = t.clamp(-call.eps, call.eps)
    else:
        norms = g.norm(dim=1, keepdim=True)
        steps = norms.isfinite() & (norms > 0)
        g = torch.where(steps, g, 1)
        t = x - o + torch.where(steps, call.step_size * g / g.norm(dim=1, keepdim=True), 0)
        d_t = d_x - d_o + torch.where(steps, call.step_size * _across(g, d_g), 0)
        outside = t.norm(dim=1, keepdim=True) > call.eps
        beyond = torch.where(outside, t, 1)
        d_t = torch.where(outside, call.eps * _across(beyond, d_t), d_t)
        t = torch.where(outside, call.eps * beyond / beyond.norm(dim=1, keepdim=True), t)
    result = o + t
    bound = (result >= call.lower) & (result <= call.upper)
    return torch.where(bound, d_o + d_t, 0).reshape(call.x.shape).to(call.x.dtype)


def _reference_in_place(call: Arguments) -> None:
    check.separate("x", call.x, grad=call.grad, origin=call.origin)
    call.x.copy_(_reference(call))


def sample_inputs(device: str = "cpu") -> Iterator[tuple]:
    """Small inputs of every dtype, layout and norm, for the tests that walk ``ALL_OPS``."""
    generator = torch.Generator().manual_seed(0)
    for number, dtype in enumerate(DTYPES):
        origin, noise = torch.rand(2, 5, 3, 9, 7, generator=generator)
        x = (origin + 0.1 * (noise - 0.5)).clamp(0, 1)
        grad = torch.randn(x.shape, generator=generator)
        grad[1] = 0
        grad[2, 0] = 0
        tensors = [t.to(device, dtype) for t in (x, grad, origin)]
        if number % 2:
            tensors = [t.contiguous(memory_format=torch.channels_last) for t in tensors]
        for norm, step_size, eps in (("linf", 0.02, 0.03), ("l2", 0.5, 0.4), ("l2", -0.1, 5.0)):
            yield *tensors, step_size, eps, norm


def _in_place_without_grad(x: Tensor, *others: Any) -> None:
    recorded = torch.is_grad_enabled() and x.requires_grad
    check(not recorded, "x is written in place, but requires grad; give x.detach(), or call under no_grad()")
    refuse_tangents("pgd_step", (x, *others))
    refuse_transforms("pgd_step", (x, *others))
    below_autograd("pgd_step_", x, *others)
    torch.autograd.graph.increment_version(x)


OPERATOR = define(
    pgd_step,
    Arguments,
    "Tensor",
    check=check_arguments,
    reference=_reference,
    fake=lambda call: torch.empty_like(call.x),
    sample_inputs=sample_inputs,
    autograd=detached("pgd_step"),
    tangent=_tangent,
)
IN_PLACE = define(
    pgd_step_,
    Arguments,
    "()",
    check=check_in_place,
    reference=_reference_in_place,
    fake=lambda call: None,
    sample_inputs=sample_inputs,
    mutates="x",
    autograd=_in_place_without_grad,
)
reference, fake = OPERATOR.reference, OPERATOR.fake
reference_in_place = IN_PLACE.reference
