"""The dispatcher's library, and how an operator enters it: schema, reference and fake together."""

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("unlearn", "DEF")


def define(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Enter an operator. ``reference`` serves on every device for which no kernel is registered."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"unlearn::{name}", fake, lib=LIBRARY)


def call_below_autograd(name: str, *arguments: Any) -> Any:
    """Call an operator from its own Autograd kernel, so that nothing is recorded."""
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(torch.ops.unlearn, name)(*arguments)


def never_requires_grad(name: str) -> None:
    """The results of the operator are detached, whatever its inputs require."""
    LIBRARY.impl(name, lambda *arguments: call_below_autograd(name, *arguments), "Autograd")


def differentiable_once(
    name: str, backward: Callable[..., Any], save_for_backward: Callable[..., None]
) -> None:
    """Give ``name`` its backward, which calls the operator ``name``_backward, itself not differentiable."""

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"{name}: second derivatives are not implemented")

    operator = f"unlearn::{name}"
    torch.library.register_autograd(operator, backward, setup_context=save_for_backward, lib=LIBRARY)
    torch.library.register_autograd(f"{operator}_backward", refuse, lib=LIBRARY)
