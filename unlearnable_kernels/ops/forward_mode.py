"""Derivatives but for eager reverse mode: by a formula in forward mode, or refused where there is none."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

Function = Callable[..., Any]


def _tangents(named: dict[Any, Any]) -> dict[Any, Tensor]:
    """The forward-mode tangents of those values that carry one."""
    if forward_ad._current_level < 0:
        return {}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    found = {name: forward_ad.unpack_dual(tensor).tangent for name, tensor in tensors.items()}
    return {name: tangent for name, tangent in found.items() if tangent is not None}


def refuse_tangents(name: str, given: tuple) -> None:
    """Raise where an input carries a forward-mode tangent, which would be dropped without a word."""
    if _tangents(dict(enumerate(given))):
        raise RuntimeError(f"{name}: forward-mode derivatives are not implemented; use reverse mode")


def refuse_transforms(name: str, given: tuple) -> None:
    """Raise where torch.func differentiates in reverse mode: it would take what is detached for constant."""
    recorded = torch.is_grad_enabled() and torch._C._any_requires_grad(*given)
    if recorded and torch._C._are_functorch_transforms_active():
        raise RuntimeError(f"{name}: torch.func's reverse mode is not implemented; detach() the inputs first")


def with_tangents(name: str, arguments: type[NamedTuple], tangent: Function, kernel: Function) -> Function:
    """An Autograd kernel around the one that serves an operator whose inputs carry no tangent."""

    def forward(*given: Any, **named: Any) -> Any:
        call = arguments(*given, **named)
        tangents = _tangents(call._asdict())
        if not tangents:
            return kernel(*given, **named)
        primals = call._replace(
            **{name: forward_ad.unpack_dual(getattr(call, name)).primal for name in tangents}
        )
        result = kernel(*primals)
        if not result.is_floating_point():
            raise RuntimeError(f"{name}: a result of {result.dtype} has no forward-mode derivative")
        return forward_ad.make_dual(result, tangent(primals, tangents))

    return forward
