"""Loads the compiled kernels, whose import registers them; Triton kernels serve where one is missing."""

import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.library import LIBRARY

# Operator: the module of unlearnable_kernels.triton_kernels that has a function of its name.
TRITON_OPERATORS = {
    "bayes_ascent_step": "bayes_ascent_step",
    "bayes_error": "bayes_error",
    "bayes_error_backward": "bayes_error",
    "classwise_conv": "classwise_conv",
    "classwise_conv_into": "classwise_conv",
    "classwise_conv_backward": "classwise_conv",
    "classwise_spectrum": "classwise_spectrum",
    "crop_flip": "crop_flip",
    "crop_flip_into": "crop_flip",
    "pgd_step": "pgd_step",
    "pgd_step_": "pgd_step",
}

ELEMENT_TYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""As csrc/element_type.h numbers them."""

_PACKAGE = Path(__file__).parents[1]


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _failure(module: str) -> str:
    """The first error of a module's build where the package was installed without it, or nothing."""
    record = _PACKAGE / f"{module}.failed"
    return f"its build failed: {record.read_text().strip()}" if record.is_file() else ""


def _load() -> tuple[ModuleType | None, str]:
    """The CPU module, or None and why, with a warning."""
    try:
        import unlearnable_kernels._C as module
    except ImportError as error:
        why = _failure("_C") or str(error)
        _warn(f"the compiled kernels are missing, so the much slower PyTorch reference serves: {why}")
        return None, why
    return module, ""


def _load_cuda() -> tuple[ModuleType | None, str]:
    """The CUDA module, or None and why; its import touches no driver."""
    try:
        import unlearnable_kernels._C_cuda as module
    except ImportError as error:
        return None, _failure("_C_cuda") or str(error)
    return module, ""


def triton_function(operator: str) -> Callable[..., Any]:
    """The Triton implementation of ``operator``; imports Triton."""
    module = import_module(f"unlearnable_kernels.triton_kernels.{TRITON_OPERATORS[operator]}")
    function: Callable[..., Any] = getattr(module, operator)
    return function


class _Lazy:
    """What serves an operator on a GPU: its Triton kernels, imported when the first tensor comes.

    Without Triton it is the reference; a warning says so, and why CUDA C++ kernels do not serve.
    """

    def __init__(self, operator: str) -> None:
        self.operator = operator
        self.function: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.function is None:
            self.function = self._choose()
        return self.function(*arguments, **named)

    def _choose(self) -> Callable[..., Any]:
        try:
            function = triton_function(self.operator)
        except ImportError as error:
            _warn(f"Triton is missing, so the much slower PyTorch reference serves on the GPU: {error}")
            reference = torch._C.DispatchKey.CompositeExplicitAutograd
            return partial(getattr(torch.ops.unlearn, self.operator).default._op_dk, reference)
        if cuda_module is None:
            _warn(f"the compiled CUDA kernels are missing, so Triton serves on the GPU: {_cuda_problem}")
        return function


def _register_triton() -> tuple[str, ...]:
    """Registers what serves the operators without CUDA C++ kernels, and names these operators."""
    for module in set(TRITON_OPERATORS.values()):  # where the operators are defined
        import_module(f"unlearnable_kernels.ops.{module}")
    without = tuple(
        operator
        for operator in TRITON_OPERATORS
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"unlearn::{operator}", "CUDA")
    )
    for operator in without:
        LIBRARY.impl(operator, _Lazy(operator), "CUDA")
    return without


cpu_module, _cpu_problem = _load()
cuda_module, _cuda_problem = _load_cuda()
_by_triton = _register_triton()


def cpu_capability() -> str:
    """Instruction set of the CPU kernels: ``avx512``, ``avx2``, ``default``, or ``reference`` without them.

    The best one that the processor has is taken; the environment variable ``UNLEARNABLE_CPU_CAPABILITY``
    (one of the first three) lowers it, read once, when it is first needed.

    Raises:
        UserError: The variable is anything else; operators then raise RuntimeError with the same message.
    """
    if cpu_module is None:
        return "reference"
    try:
        return str(cpu_module.cpu_capability())
    except RuntimeError as error:
        raise UserError(str(error)) from None


def cpu_backend() -> str:
    """One line: ``cpu_capability()``, and why it is ``reference`` where it is."""
    return (
        cpu_capability()
        if cpu_module
        else f"reference, since the compiled kernels are missing: {_cpu_problem}"
    )


def cuda_backend() -> str:
    """One line: which CUDA kernels are built, for which architectures, and whether a GPU runs them."""
    failure = _failure("_C_cuda")
    missing = f"no CUDA C++ ({failure})" if failure else "no CUDA C++"
    built = f"CUDA C++ for {cuda_module.architectures()}" if cuda_module else missing
    if not torch.cuda.is_available():
        return f"{built}; not in use, no GPU"
    return f"{built}; Triton for {', '.join(_by_triton) or 'no operator'}"
