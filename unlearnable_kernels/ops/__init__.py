"""``torch.ops.unlearn.*``. ``ALL_OPS`` is the one table that tests and benchmarks walk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from unlearnable_kernels.ops import bayes_error, classwise_conv, native, pgd_step


@dataclass(frozen=True)
class Operator:
    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    sample_inputs: Callable[..., Iterator[tuple]]
    tolerance: float = 0  # relative, between kernel and reference; 0 asks for equal bits


ALL_OPS = (
    Operator(
        name="classwise_conv",
        function=classwise_conv.classwise_conv,
        reference=classwise_conv.reference,
        sample_inputs=classwise_conv.sample_inputs,
    ),
    Operator(
        name="bayes_error",
        function=bayes_error.bayes_error,
        reference=bayes_error.reference,
        sample_inputs=bayes_error.sample_inputs,
        tolerance=1e-5,
    ),
    Operator(
        name="pgd_step",
        function=pgd_step.pgd_step,
        reference=pgd_step.reference,
        sample_inputs=pgd_step.sample_inputs,
    ),
)

cpu_capability = native.cpu_capability
cuda_backend = native.cuda_backend
