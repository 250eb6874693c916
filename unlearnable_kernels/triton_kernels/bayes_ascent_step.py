"""bayes_ascent_step for CUDA tensors: rows sorted, split and packed once for both sweeps, then the step."""

from contextlib import nullcontext

import torch
from torch import Tensor

from unlearnable_kernels.ops import bayes_ascent_step as contract
from unlearnable_kernels.triton_kernels import bayes_error, pgd_step


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
    """As ``torch.ops.unlearn.bayes_ascent_step``; float64 and empty inputs go to the reference."""
    call = (x, labels, origin, num_classes, bandwidth, step_size, eps, norm, lower, upper)
    if x.dtype == torch.float64 or x.numel() == 0:
        return contract.reference(*call)
    contract.check_arguments(*call)
    rows = x.reshape(x.shape[0], x[:1].numel())
    contract.check_values(rows, labels, num_classes)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        error, grad = bayes_error.error_and_gradient(rows, labels, num_classes, bandwidth)
        step = pgd_step.pgd_step(x, grad.view(x.shape), origin, step_size, eps, norm, lower, upper)
    return step, error
