"""One ascent step on the Bayes error of a batch in pixel space: error, gradient, step and projection in one.

    error_i = E_i / Z_i        of the batch's own rows, leave-one-out, rbf    (B1) to (B3)
    g = L x / σ²               the gradient of the sum of the errors          (A1)
    next x = pgd_step(x, g)    step, ε-ball, bounds                           (P1) to (P5)

Source: Zhang, Sun, Lim, Zhang, AAAI 2026, arXiv 2511.08191; Madry et al., ICLR 2018, arXiv 1706.06083.
docs/maths.md numbers the equations. The feature-space method chains bayes_error, a network's backward and
pgd_step instead.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from unlearnable_kernels.ops import bayes_error, pgd_step
from unlearnable_kernels.ops.labels import check_labels
from unlearnable_kernels.ops.library import define, never_requires_grad

DTYPES = (torch.float32, torch.float64)

SCHEMA = (
    "bayes_ascent_step(Tensor x, Tensor labels, Tensor origin, int num_classes, float bandwidth,"
    " float step_size, float eps, str norm, float lower=0.0, float upper=1.0) -> (Tensor, Tensor)"
)


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
        bandwidth: σ > 0 of the rbf kernel, in the units of ‖x_i − x_j‖₂ over all dimensions but the first.
        step_size: finite; negative descends.
        eps: radius of the ball, at least 0.
        norm: ``linf`` or ``l2``, of step and ball, as in ``pgd_step``. Both are the same for the gradient of
            the errors' sum and of their mean.
        lower, upper: bounds of a valid x, lower <= upper.

    Returns:
        The next x, of x's shape, dtype and dense layout, and the error ``[N]`` of x before the step: to
        rounding those of ``bayes_error``, its gradient and ``pgd_step``. An element (``l2``: a sample) whose
        gradient is 0, as all are where no kernel mass is left, takes no step. Never requires grad.

    Raises:
        RuntimeError: an argument is not as said here; the message names it, its value and what is allowed.
    """
    result: tuple[Tensor, Tensor] = torch.ops.unlearn.bayes_ascent_step(
        x, labels, origin, num_classes, bandwidth, step_size, eps, norm, lower, upper
    )
    return result


def check_arguments(
    x: Tensor,
    labels: Tensor,
    origin: Tensor,
    num_classes: int,
    bandwidth: float,
    step_size: float,
    eps: float,
    norm: str,
    lower: float,
    upper: float,
) -> None:
    """What can be told without reading a value; ``csrc/cpu/bayes_ascent_step.cpp`` refuses the same."""
    op = "bayes_ascent_step"
    if x.dim() == 0 or x.dtype not in DTYPES:
        raise RuntimeError(
            f"{op}: x must be float32 or float64 [N, ...], got {x.dtype}, {x.dim()} dimensions"
        )
    try:
        features = x.new_empty(x.shape[0], 0)
        bayes_error.check_arguments(features, labels, num_classes, bandwidth, "rbf", "ieee", None, -1)
        pgd_step.check_arguments(x, x, origin, step_size, eps, norm, lower, upper)
    except RuntimeError as error:
        message = str(error).partition(": ")[2].replace("features, labels and references", "x and labels")
        raise RuntimeError(f"{op}: {message.replace('features', 'samples')}") from None


def check_values(rows: Tensor, labels: Tensor, num_classes: int) -> None:
    check_labels("bayes_ascent_step", labels, 0, num_classes)
    finite = rows.double().square().sum(1).isfinite()
    if labels.is_cuda:
        torch._assert_async(finite.all(), "bayes_ascent_step: x must be finite")
    elif not finite.all():
        at = int((~finite).nonzero()[0])
        raise RuntimeError(f"bayes_ascent_step: x[{at}] must be finite, and so must its squared length")


def reference(
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
    """The composition of the parts' references in plain PyTorch; serves where there is no kernel."""
    check_arguments(x, labels, origin, num_classes, bandwidth, step_size, eps, norm, lower, upper)
    rows = x.reshape(x.shape[0], x[:1].numel())
    check_values(rows, labels, num_classes)
    options = (num_classes, bandwidth, "rbf", "ieee", None, -1)
    error, mass, winner = bayes_error.reference(rows, labels, *options)
    ones = torch.ones_like(error)
    grad = bayes_error.reference_backward(ones, rows, labels, mass, winner, *options)[0].view(x.shape)
    return pgd_step.reference(x, grad, origin, step_size, eps, norm, lower, upper), error


def fake(
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
    check_arguments(x, labels, origin, num_classes, bandwidth, step_size, eps, norm, lower, upper)
    return torch.empty_like(x), x.new_empty(x.shape[0])


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


define(SCHEMA, reference, fake)
never_requires_grad("bayes_ascent_step")
