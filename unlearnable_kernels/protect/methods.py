"""The protection methods by name, and their options as a caller gives them."""

from dataclasses import fields
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.bayes_error import BayesError, BeoAaai2026
from unlearnable_kernels.protect.classwise_conv import ClasswiseConv
from unlearnable_kernels.protect.method import Method

METHODS: dict[str, type[Method]] = {each.name: each for each in (ClasswiseConv, BayesError, BeoAaai2026)}


def make_method(name: str, options: dict[str, Any]) -> Method:
    """The method ``name`` with ``options``; one that is None is not given. Raises UserError."""
    if name not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, not {name!r}")
    method = METHODS[name]
    given = {option: value for option, value in options.items() if value is not None}
    own = option_names(method)
    for option in given:
        if option not in own:
            others = [other for other, kind in METHODS.items() if option in option_names(kind)]
            whose = f"it is one of {' and '.join(others)}" if others else "no method has it"
            raise UserError(f"{option} is no option of {name}: {whose}; {name} takes {', '.join(own)}")
    return method(**given)


def option_names(method: type[Method]) -> list[str]:
    return [field.name for field in fields(method)]
