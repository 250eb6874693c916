"""Loads the compiled kernels, whose import registers them with PyTorch's dispatcher."""

import warnings
from types import ModuleType


def _load() -> ModuleType | None:
    try:
        import unlearnable_kernels._C as module
    except ImportError as error:
        warnings.warn(
            f"the compiled kernels are missing, so the much slower PyTorch reference serves: {error}",
            RuntimeWarning,
            stacklevel=4,
        )
        return None
    module.cpu_capability()  # refuses a bad UNLEARNABLE_CPU_CAPABILITY
    return module


cpu_module = _load()


def cpu_capability() -> str:
    """Instruction set of the CPU kernels: ``avx512``, ``avx2``, ``default``, or ``reference`` without them.

    The best one that the processor has is taken; the environment variable ``UNLEARNABLE_CPU_CAPABILITY``
    (one of the first three) lowers it, read once at import.
    """
    return "reference" if cpu_module is None else str(cpu_module.cpu_capability())
