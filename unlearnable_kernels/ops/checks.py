"""The checks that operators share; each error names operator, argument, value and what is allowed.

``csrc/arguments.h`` holds their counterparts for the compiled kernels, in the same words.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def listed(names: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    *before, end = names
    return f"{', '.join(before)} {last} {end}" if before else end


class Checks:
    """Raises in the name of one operator.

    Args:
        operator: the name that every message begins with.
    """

    def __init__(self, operator: str) -> None:
        self.operator = operator

    def __call__(self, condition: bool, message: str) -> None:
        """Raise RuntimeError with ``message`` unless ``condition`` holds."""
        if not condition:
            raise RuntimeError(f"{self.operator}: {message}")

    def dtype(self, name: str, dtype: torch.dtype, allowed: Sequence[torch.dtype]) -> None:
        """``name`` has one of the allowed dtypes."""
        names = [str(each).removeprefix("torch.") for each in allowed]
        self(dtype in allowed, f"{name} must be {listed(names, 'or')}, got {dtype}")

    def layout(self, name: str, tensor: Tensor, wanted: str) -> None:
        """``wanted`` names every dimension: ``[N, C, H, W]``, or ``[N, ...]`` for one or more."""
        count = wanted.count(",") + 1
        fits = tensor.dim() >= 1 if "..." in wanted else tensor.dim() == count
        self(fits, f"{name} must be {wanted}, got {tensor.dim()} dimensions")

    def typed(self, name: str, tensor: Tensor, dtype: torch.dtype, wanted: str) -> None:
        """Dtype and dimensions together, for tensors that allow one dtype."""
        self(
            tensor.dim() == wanted.count(",") + 1 and tensor.dtype == dtype,
            f"{name} must be {str(dtype).removeprefix('torch.')} {wanted}, got {tensor.dtype} with"
            f" {tensor.dim()} dimensions",
        )

    def labels(self, labels: Tensor, count: int, of: str, dimension: str = "N") -> None:
        """One int64 label for each of the ``count`` things called ``of``."""
        self.typed("labels", labels, torch.int64, f"[{dimension}]")
        got = labels.shape[0]
        self(got == count, f"labels must hold one label for each of the {count} {of}, got {got}")

    def like(self, name: str, tensor: Tensor, model_name: str, model: Tensor) -> None:
        """Shape, dtype and device of another tensor."""
        wanted = {
            "shape": (list(tensor.shape), list(model.shape)),
            "dtype": (tensor.dtype, model.dtype),
        }
        for what, (got, of_model) in wanted.items():
            self(got == of_model, f"{name} must have {model_name}'s {what} {of_model}, got {got}")
        self(
            tensor.device == model.device,
            f"{name} must be on {model_name}'s device {model.device}, got {tensor.device}",
        )

    def one_device(self, **tensors: Tensor | None) -> None:
        """All tensors that are there lie on one device."""
        devices = {name: t.device for name, t in tensors.items() if t is not None}
        self(
            len(set(devices.values())) == 1,
            f"{listed(list(devices))} must be on one device, got {', '.join(map(str, devices.values()))}",
        )

    def one_of(self, name: str, value: str, allowed: Sequence[str]) -> None:
        """``value`` is one of the allowed words."""
        self(value in allowed, f"{name} must be one of {', '.join(allowed)}, got '{value}'")

    def within(self, name: str, value: int, low: int, high: int, why: str = "") -> None:
        """``value`` lies in [low, high], both included."""
        self(low <= value <= high, f"{name} must lie in [{low}, {high}]{why}, got {value}")

    def finite(self, name: str, value: float) -> None:
        """``value`` is neither infinite nor NaN."""
        self(math.isfinite(value), f"{name} must be finite, got {value:g}")

    def positive(self, name: str, value: float) -> None:
        """``value`` is finite and greater than 0."""
        self(math.isfinite(value) and value > 0, f"{name} must be finite and greater than 0, got {value:g}")

    def values(self, tensor: Tensor, good: Tensor, what: str, message: str) -> None:
        """Raise unless all of ``good`` holds; on a GPU the device does, and the host does not wait for it.

        Args:
            tensor: the values that were looked at.
            good: bool, shape of ``tensor``.
            what: the name of ``tensor``.
            message: what is allowed: ``must be finite``.
        """
        if tensor.is_cuda:
            torch._assert_async(good.all(), f"{self.operator}: {what} {message}")
        elif not good.all():
            at = (~good).nonzero()[0].tolist()
            value: Any = tensor[tuple(at)].item()
            raise RuntimeError(f"{self.operator}: {what}{at or ''} is {value}, but {message}")

    def values_within(self, name: str, tensor: Tensor, low: int, end: int, *, closed: bool = False) -> None:
        """Every value in ``[low, end)``, or in ``[low, end]`` where ``closed``."""
        good = (tensor >= low) & ((tensor <= end) if closed else (tensor < end))
        self.values(tensor, good, name, f"must lie in [{low}, {end}{']' if closed else ')'}")

    def values_finite(self, name: str, tensor: Tensor) -> None:
        """No value is infinite or NaN."""
        self.values(tensor, tensor.isfinite(), name, "must be finite")

    def separate(self, name: str, written: Tensor, **inputs: Tensor | None) -> None:
        """``written`` shares no memory with an input."""
        if written.numel() == 0:
            return
        mine = memory(written)
        for other, tensor in inputs.items():
            if tensor is None or tensor.device != written.device:
                continue
            theirs = memory(tensor)
            apart = max(mine.start, theirs.start) >= min(mine.stop, theirs.stop)
            self(apart, f"{name} is written in place, so it must share no memory with {other}")

    def own_elements(self, name: str, written: Tensor) -> None:
        """No two elements of ``written`` are one, told from its strides alone."""
        self(
            not overlaps_itself(written),
            f"{name} is written in place, so no two of its elements may share memory; clone it first",
        )


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two elements of a tensor have one address."""
    if tensor.numel() == 0:
        return False
    dims = sorted((step, size) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)
    reach, nested = 0, True
    for step, size in dims:
        nested = nested and step > reach  # each dimension steps over all inner ones
        reach += (size - 1) * step
    if nested:
        return False
    if tensor.numel() > reach + 1:
        return True
    offsets = {0}
    for step, size in dims:
        offsets = {offset + i * step for offset in offsets for i in range(size)}
    return len(offsets) < tensor.numel()


def memory(tensor: Tensor) -> range:
    """The addresses, in bytes, from a tensor's first to its last element."""
    if tensor.numel() == 0:
        return range(0)
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return range(tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size())
