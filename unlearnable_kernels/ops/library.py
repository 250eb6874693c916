"""The dispatcher's library, and how an operator enters it: by one declaration.

An operator's arguments are typed twice: in a ``NamedTuple``, which gives the schema and is what check, fake
and reference take, and in the public function with its docstring. The operators that belong to it
(``<name>_backward``, ``<name>_into``) derive their schemas from the same tuple.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor
from torch.autograd import forward_ad

from unlearnable_kernels.ops.checks import Checks
from unlearnable_kernels.ops.forward_mode import refuse_tangents, refuse_transforms, with_tangents

LIBRARY = torch.library.Library("unlearn", "DEF")

TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "int",
    float: "float",
    str: "str",
    torch.dtype: "ScalarType",
}

Function = Callable[..., Any]


@dataclass(frozen=True)
class Backward:
    """How an operator is differentiated: once, in reverse mode, by ``<name>_backward``.

    Attributes:
        reference: from ``grad``, the gradient of the operator's first result, its further results and the
            call, ``(grad, *statistics, call)``, to one gradient for each name of ``of``.
        fake: from the same to empty gradients.
        of: the arguments that have a gradient, in the order of the results.
        statistics: the names of the operator's results but the first; they are saved and not differentiable.
    """

    reference: Function
    fake: Function
    of: tuple[str, ...]
    statistics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operator:
    """One operator as it was declared.

    Attributes:
        name: of ``torch.ops.unlearn``.
        function: the public function.
        reference: the operator in plain PyTorch, checks included, called with the operator's own arguments.
        fake: its result's shape, dtype and layout, checks included.
        sample_inputs: small inputs of every kind, for tests that walk ``ALL_OPS``.
        tolerance: relative, between kernel and reference; 0 asks for equal bits.
        reference_backward: of a differentiable operator, called with the arguments of ``<name>_backward``.
        reference_into: of an operator with ``out=``, called with the arguments of ``<name>_into``.
    """

    name: str
    function: Function
    reference: Function
    fake: Function
    sample_inputs: Callable[..., Iterator[tuple]]
    tolerance: float
    reference_backward: Any = None
    reference_into: Any = None


def _default(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).removeprefix("torch.")


def schema(
    name: str,
    arguments: type[NamedTuple],
    returns: str,
    first: tuple[str, ...] = (),
    mutates: str = "",
    defaults: bool = True,
) -> str:
    """The schema of an operator.

    Args:
        name: of the operator.
        arguments: its arguments' names, types and defaults.
        returns: the schema's part after the arrow.
        first: written arguments that precede the others.
        mutates: the argument that is written in place.
        defaults: whether arguments keep their defaults.
    """
    hints = get_type_hints(arguments)
    written = list(first)
    for field in arguments._fields:
        kind = TYPES[hints[field]] + "(a!)" * (field == mutates)
        has_default = defaults and field in arguments._field_defaults
        written.append(f"{kind} {field}" + f"={_default(arguments._field_defaults.get(field))}" * has_default)
    return f"{name}({', '.join(written)}) -> {returns}"


def _enter(written: str, reference: Function, fake: Function) -> None:
    """The reference serves on every device for which no kernel is registered."""
    name = written.partition("(")[0]
    LIBRARY.define(written)
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"unlearn::{name}", fake, lib=LIBRARY)


def below_autograd(name: str, *arguments: Any, **named: Any) -> Any:
    """Call an operator from its own Autograd kernel, so that nothing is recorded: results are detached."""
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(torch.ops.unlearn, name)(*arguments, **named)


def detached(name: str) -> Function:
    """The Autograd kernel of an operator whose results never require grad, whatever its inputs do."""

    def kernel(*given: Any, **named: Any) -> Any:
        refuse_tangents(name, given)
        refuse_transforms(name, (*given, *named.values()))
        return below_autograd(name, *given, **named)

    return kernel


def _casting(name: str, dtype: torch.dtype) -> Function:
    """The Autocast kernel of an operator that takes floating-point inputs, float64 excepted, as ``dtype``.

    Not ``torch.library.register_autocast``: under torch.compile its rule for the device that was registered
    last serves all, and casts nothing on the others.
    """

    def cast(value: Any) -> Any:
        casts = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if casts else value

    def kernel(*given: Any, **named: Any) -> Any:
        with torch._C._DisableAutocast():
            operator = getattr(torch.ops.unlearn, name)
            return operator(*map(cast, given), **{field: cast(value) for field, value in named.items()})

    return kernel


def _within_transforms() -> AbstractContextManager[Any]:
    """Lets an autograd function serve the one level of torch.func that has called an Autograd kernel."""
    if not torch._C._are_functorch_transforms_active():
        return nullcontext()
    from torch._functorch.utils import enable_single_level_autograd_function

    return enable_single_level_autograd_function()


def _differentiable(
    name: str, bind: Function, save_for_backward: Callable[..., None], run_backward: Function
) -> Function:
    """The Autograd kernel of an operator that is differentiable once, in reverse mode.

    Not ``torch.library.register_autograd``, whose functions torch.func refuses and forward mode passes by.
    """

    class Differentiable(torch.autograd.function._SingleLevelFunction):
        @staticmethod
        def forward(*inputs: Any) -> Any:
            if not torch._C._are_functorch_transforms_active():
                return below_autograd(name, *inputs)
            # For the transforms outside this one, which would find both modes off in here.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                return below_autograd(name, *inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
            save_for_backward(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return run_backward(ctx, *grads)

    Differentiable.__name__ = Differentiable.__qualname__ = f"unlearn_{name}"

    def kernel(*given: Any, **named: Any) -> Any:
        refuse_tangents(name, given)
        if not torch.is_grad_enabled() or not torch._C._any_requires_grad(*given):
            return below_autograd(name, *given, **named)
        with _within_transforms():
            return Differentiable.apply(*bind(*given, **named))  # type: ignore[attr-defined]

    return kernel


def _refuse_second(name: str) -> Function:
    """The Autograd kernel of ``<name>_backward``."""

    def save_nothing(ctx: Any, inputs: tuple, output: Any) -> None:
        pass

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"{name}: second derivatives are not implemented")

    return _differentiable(f"{name}_backward", lambda *given: given, save_nothing, refuse)


def _enter_backward(
    name: str, arguments: type[NamedTuple], check: Function, backward: Backward, tangent: Function | None
) -> Function:
    saved = len(backward.statistics)
    hints = get_type_hints(arguments)
    is_tensor = [TYPES[hints[field]].startswith("Tensor") for field in arguments._fields]

    def save_for_backward(ctx: Any, inputs: tuple, output: Any) -> None:
        statistics = output[1:] if saved else ()
        ctx.mark_non_differentiable(*statistics)
        ctx.save_for_backward(*statistics, *itertools.compress(inputs, is_tensor))
        ctx.others = [v for v, tensor in zip(inputs, is_tensor, strict=True) if not tensor]

    def run_backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple:
        tensors, others = iter(ctx.saved_tensors[saved:]), iter(ctx.others)
        inputs = [next(tensors if tensor else others) for tensor in is_tensor]
        operator = getattr(torch.ops.unlearn, f"{name}_backward")
        grads = dict(zip(backward.of, operator(grad, *ctx.saved_tensors[:saved], *inputs), strict=True))
        by_field = zip(arguments._fields, inputs, strict=True)
        return tuple(None if value is None else grads.get(field) for field, value in by_field)

    def reference(*given: Any) -> Any:
        call = arguments(*given[1 + saved :])
        check(call)
        return backward.reference(*given[: 1 + saved], call)

    def fake(*given: Any) -> Any:
        return backward.fake(*given[: 1 + saved], arguments(*given[1 + saved :]))

    first = tuple(f"Tensor {each}" for each in ("grad", *backward.statistics))
    returns = f"({', '.join(f'Tensor grad_{each}' for each in backward.of)})"
    written = schema(f"{name}_backward", arguments, returns, first, defaults=False)
    _enter(written, reference, fake)
    kernel = _differentiable(name, arguments, save_for_backward, run_backward)
    LIBRARY.impl(name, with_tangents(name, arguments, tangent, kernel) if tangent else kernel, "Autograd")
    LIBRARY.impl(f"{name}_backward", _refuse_second(name), "Autograd")
    return reference


def _enter_into(
    name: str,
    arguments: type[NamedTuple],
    check: Callable[[Any], None],
    reference: Function,
    check_out: Function,
) -> Function:
    """Enters ``<name>_into``; torch.compile refuses an ``.out`` overload whose result is channels-last."""

    def reference_into(out: Tensor, *given: Any) -> None:
        call = arguments(*given)
        check(call)
        check_out(call, out)
        inputs = {field: v for field, v in call._asdict().items() if isinstance(v, Tensor)}
        Checks(name).separate("out", out, **inputs)
        out.copy_(reference(call))

    def fake_into(out: Tensor, *given: Any) -> None:
        call = arguments(*given)
        check(call)
        check_out(call, out)

    def without_grad(*given: Any) -> None:
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in given):
            raise RuntimeError(f"{name}: out= is not differentiable, but out or an input requires grad")
        refuse_tangents(name, given)
        below_autograd(f"{name}_into", *given)
        torch.autograd.graph.increment_version(given[0])

    _enter(schema(f"{name}_into", arguments, "()", ("Tensor(a!) out",)), reference_into, fake_into)
    LIBRARY.impl(f"{name}_into", without_grad, "Autograd")
    return reference_into


def define(
    function: Function,
    arguments: type[NamedTuple],
    returns: str,
    *,
    check: Callable[[Any], None],
    reference: Callable[[Any], Any],
    fake: Callable[[Any], Any],
    sample_inputs: Callable[..., Iterator[tuple]],
    mutates: str = "",
    autograd: Backward | Function | None = None,
    tangent: Callable[[Any, dict[str, Tensor]], Tensor] | None = None,
    check_out: Callable[[Any, Tensor], None] | None = None,
    autocast: torch.dtype | None = None,
    tolerance: float = 0,
) -> Operator:
    """Enter an operator and those that belong to it.

    Args:
        function: the public function, whose name the operator takes.
        arguments: the operator's arguments. What is called ``call`` here is one of these tuples.
        returns: the schema's part after the arrow.
        check: raises for what can be refused without reading a value; the kernels refuse the same.
        reference: the operator in plain PyTorch, called after ``check``.
        fake: empty results, called after ``check``.
        sample_inputs: see ``Operator``.
        mutates: the argument that is written in place.
        autograd: the backward, or a kernel for the key Autograd; None where no argument can require grad.
        tangent: of an operator with ``autograd`` and one result, from the call and the tangents of some
            arguments to the result's tangent, by differentiable functions; None refuses tangents.
        check_out: raises where ``out`` does not fit ``call``; given, ``<name>_into`` is entered too.
        autocast: what an enclosing autocast casts floating-point inputs to, float64 excepted.
        tolerance: see ``Operator``.
    """
    name = function.__name__

    def checked_reference(*given: Any, **named: Any) -> Any:
        call = arguments(*given, **named)
        check(call)
        return reference(call)

    def checked_fake(*given: Any, **named: Any) -> Any:
        call = arguments(*given, **named)
        check(call)
        return fake(call)

    _enter(schema(name, arguments, returns, mutates=mutates), checked_reference, checked_fake)
    declared = functools.partial(
        Operator, name, function, checked_reference, checked_fake, sample_inputs, tolerance
    )
    if autocast is not None:
        for device in ("CPU", "CUDA"):
            LIBRARY.impl(name, _casting(name, autocast), f"Autocast{device}")
    reference_into = None
    if check_out is not None:
        reference_into = _enter_into(name, arguments, check, reference, check_out)
    if isinstance(autograd, Backward):
        return declared(_enter_backward(name, arguments, check, autograd, tangent), reference_into)
    if autograd is not None:
        kernel = with_tangents(name, arguments, tangent, autograd) if tangent else autograd
        LIBRARY.impl(name, kernel, "Autograd")
    return declared(None, reference_into)
