"""One ascent step on the Bayes error of a batch in pixel space: error, gradient, step and projection in one.

    error_i = E_i / Z_i        of the batch's own rows, leave-one-out, rbf    (B1) to (B3)
    g = L x / σ²               the gradient of the sum of the errors          (A1)
    next x = pgd_step(x, g)    step, ε-ball, bounds                           (P1) to (P5)

Source: Zhang, Sun, Lim, Zhang, AAAI 2026, arXiv 2511.08191; Madry et al., ICLR 2018, arXiv 1706.06083.
docs/maths.md numbers the equations. The feature-space method chains bayes_error, a network's backward and
pgd_step instead.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unlearnable_kernels.ops import bayes_error, pgd_step
from unlearnable_kernels.ops.checks import Checks
from unlearnable_kernels.ops.library import define, detached

DTYPES = bayes_error.DTYPES

check = Checks("bayes_ascent_step")


class Arguments(NamedTuple):
    """What ``bayes_ascent_step`` describes."""

    x: Tensor
    labels: Tensor
    origin: Tensor
    num_classes: int
    bandwidth: float
    step_size: float
    eps: float
    norm: str
    lower: float = 0.0
    upper: float = 1.0

    @property
    def rows(self) -> Tensor:
        """``[N, D]``: every sample as one row."""
        return self.x.reshape(self.x.shape[0], self.x[:1].numel())

    def step_along(self, grad: Tensor) -> pgd_step.Arguments:
        """The arguments of the step that follows ``grad``, rows as of ``rows``, by bandwidths."""
        power = math.ldexp(1, math.frexp(self.bandwidth)[1] - 1)
        return pgd_step.Arguments(self.x, grad.view(self.x.shape) * power, self.origin, *self[5:])


def bayes_ascent_step(
    x: Tensor,
    labels: Tensor,
    origin: Tensor,
    num_classes: int,
    bandwidth: float,
    step_size: float,
    eps: float,
    norm: str,
    lower: float = 0.0,
    upper: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Step up the gradient of the batch's Bayes error, project onto the ε-ball, clamp to ``[lower, upper]``.

    Args:
        x: ``[N, ...]``, float32 or float64, finite, in any layout. Each sample, as it is, is one row of
            ``bayes_error``'s features.
        labels: int64 ``[N]``, each in ``[0, num_classes)``.
        origin: centre of the ball, shape and dtype of x.
        num_classes: at least 1.
        bandwidth: σ > 0 of the rbf kernel, in the units of ‖x_i − x_j‖₂ over all dimensions but the first, at
            least 1e-12 times the longest sample.
        step_size: finite; negative descends.
        eps: radius of the ball, at least 0.
        norm: ``linf`` or ``l2``, of step and ball, as in ``pgd_step``. Both are the same for the gradient of
            the errors' sum and of their mean.
        lower: least valid value of x, at most ``upper``.
        upper: largest valid value of x.

    Returns:
        The next x, of x's shape, dtype and dense layout, and the error ``[N]`` of x before the step: to
        rounding those of ``bayes_error``, its gradient and ``pgd_step``. An element (``l2``: a sample) whose
        gradient is 0, as all are where no kernel mass is left, takes no step. Never requires grad; torch.func
        is refused where it would differentiate this.

    Raises:
        RuntimeError: an argument is not as said here; the message names it, its value and what is allowed.
    """
    result: tuple[Tensor, Tensor] = torch.ops.unlearn.bayes_ascent_step(
        x, labels, origin, num_classes, bandwidth, step_size, eps, norm, lower, upper
    )
    return result


def check_arguments(call: Arguments) -> None:
    """Refuses what can be told without reading a value."""
    check.layout("x", call.x, "[N, ...]")
    check.dtype("x", call.x.dtype, DTYPES)
    check.like("origin", call.origin, "x", call.x)
    bayes_error.check_posterior(check, call, call.x.shape[0], "samples")
    pgd_step.check_step(check, call)
    check.one_device(x=call.x, labels=call.labels)


def check_values(call: Arguments) -> None:
    """Refuses labels out of range and samples that are not finite."""
    check.values_within("labels", call.labels, 0, call.num_classes)
    lengths = call.rows.double().square().sum(1)
    check.values(lengths, lengths.isfinite(), "the squared length of x", "must be finite")


def _reference(call: Arguments) -> tuple[Tensor, Tensor]:
    """The composition of the parts' references, in plain PyTorch."""
    check_values(call)
    of_rows = (call.rows, call.labels, call.num_classes, call.bandwidth)
    error, mass, winner = bayes_error.reference(*of_rows)
    ones = torch.ones_like(error)
    grad, _ = bayes_error.reference_backward(ones, mass, winner, *of_rows)
    return pgd_step.reference(*call.step_along(grad)), error


def _fake(call: Arguments) -> tuple[Tensor, Tensor]:
    return torch.empty_like(call.x), call.x.new_empty(call.x.shape[0])


def sample_inputs(device: str = "cpu") -> Iterator[tuple]:
    """Small inputs of every dtype, layout and norm, for the tests that walk ``ALL_OPS``."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(37) % 3
    centres = torch.rand(3, 3, 5, 4, generator=generator, dtype=torch.float64)
    origin = (centres[labels] + torch.rand(37, 3, 5, 4, generator=generator, dtype=torch.float64)) / 2
    x = (origin + 0.02 * torch.randn(origin.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    for number, dtype in enumerate(DTYPES):
        tensors = [t.to(device, dtype) for t in (x, origin)]
        if number % 2:
            tensors = [t.contiguous(memory_format=torch.channels_last) for t in tensors]
        for norm, step_size, eps in (("linf", 0.01, 0.03), ("l2", 0.2, 0.15), ("l2", -0.1, 5.0)):
            yield tensors[0], labels.to(device), tensors[1], 3, 0.8, step_size, eps, norm


OPERATOR = define(
    bayes_ascent_step,
    Arguments,
    "(Tensor, Tensor)",
    check=check_arguments,
    reference=_reference,
    fake=_fake,
    sample_inputs=sample_inputs,
    autograd=detached("bayes_ascent_step"),
    autocast=torch.float32,
    tolerance=1e-5,
)
reference = OPERATOR.reference
