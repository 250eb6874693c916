"""Loads the compiled kernels, whose import registers them; Triton kernels serve where one is missing."""

import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from unlearnable_kernels.ops.library import LIBRARY

# Operator: the module of unlearnable_kernels.triton_kernels that has a function of its name.
TRITON_OPERATORS = {
    "bayes_ascent_step": "bayes_ascent_step",
    "bayes_error": "bayes_error",
    "bayes_error_backward": "bayes_error",
    "classwise_conv": "classwise_conv",
    "classwise_conv_into": "classwise_conv",
    "classwise_conv_backward": "classwise_conv",
    "crop_flip": "crop_flip",
    "pgd_step": "pgd_step",
    "pgd_step_": "pgd_step",
}


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


def _load() -> ModuleType | None:
    """The CPU module, or None with a warning."""
    try:
        import unlearnable_kernels._C as module
    except ImportError as error:
        _warn(f"the compiled kernels are missing, so the much slower PyTorch reference serves: {error}")
        return None
    module.cpu_capability()  # refuses a bad UNLEARNABLE_CPU_CAPABILITY
    return module


def _load_cuda(gpu: bool) -> ModuleType | None:
    """The CUDA module, or None; with a warning where a GPU would have used it."""
    try:
        import unlearnable_kernels._C_cuda as module
    except ImportError as error:
        if gpu:
            _warn(f"the compiled CUDA kernels are missing, so Triton serves on the GPU: {error}")
        return None
    return module


def triton_function(operator: str) -> Callable[..., Any]:
    """The Triton implementation of ``operator``; imports Triton."""
    module = import_module(f"unlearnable_kernels.triton_kernels.{TRITON_OPERATORS[operator]}")
    function: Callable[..., Any] = getattr(module, operator)
    return function


def _register_triton() -> tuple[str, ...]:
    """Registers the Triton kernels of the operators without CUDA C++ ones, and names these operators."""
    try:  # the import of a Triton module imports its operator's contract, which defines the operator
        functions = {operator: triton_function(operator) for operator in TRITON_OPERATORS}
    except ImportError as error:
        _warn(f"Triton is missing, so the much slower PyTorch reference serves on the GPU: {error}")
        return ()
    without = tuple(
        operator
        for operator in functions
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"unlearn::{operator}", "CUDA")
    )
    for operator in without:
        LIBRARY.impl(operator, functions[operator], "CUDA")
    return without


_has_gpu = torch.cuda.is_available()
cpu_module = _load()
cuda_module = _load_cuda(_has_gpu)
_by_triton = _register_triton() if _has_gpu else ()


def cpu_capability() -> str:
    """Instruction set of the CPU kernels: ``avx512``, ``avx2``, ``default``, or ``reference`` without them.

    The best one that the processor has is taken; the environment variable ``UNLEARNABLE_CPU_CAPABILITY``
    (one of the first three) lowers it, read once at import.
    """
    return "reference" if cpu_module is None else str(cpu_module.cpu_capability())


def cuda_backend() -> str:
    """One line: which CUDA kernels are built, for which architectures, and whether a GPU runs them."""
    built = f"CUDA C++ for {cuda_module.architectures()}" if cuda_module else "no CUDA C++"
    if not _has_gpu:
        return f"{built}; not in use, no GPU"
    return f"{built}; Triton for {', '.join(_by_triton) or 'no operator'}"
