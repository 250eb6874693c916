"""bayes_ascent_step for CUDA tensors: rows sorted, split and packed once for both sweeps, then the step."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from unlearnable_kernels.ops import bayes_ascent_step as contract
from unlearnable_kernels.triton_kernels import bayes_error, pgd_step


def bayes_ascent_step(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """``torch.ops.unlearn.bayes_ascent_step`` for CUDA tensors; float64 and no elements: the reference."""
    call = contract.Arguments(*arguments, **named)
    contract.check_arguments(call)
    if call.x.dtype == torch.float64 or call.x.numel() == 0:
        results: tuple[Tensor, Tensor] = contract.reference(*call)
        return results
    contract.check_values(call)
    with torch.cuda.device(call.x.device) if call.x.is_cuda else nullcontext():
        posterior = call.rows, call.labels, call.num_classes, call.bandwidth
        error, grad = bayes_error.error_and_gradient(*posterior, contract.check)
        return pgd_step.pgd_step(*call.step_along(grad)), error
