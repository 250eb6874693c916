"""The protection methods by name, and their options as a caller gives them."""

from dataclasses import fields
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.methods.method import METHODS, Method


def make_method(name: str, options: dict[str, Any]) -> Method:
    """The method ``name`` with ``options``; one that is None is not given.

    Raises:
        UserError: There is no such method, or it has no such option.
    """
    method = METHODS[name]
    given = {option: value for option, value in options.items() if value is not None}
    own = option_names(method)
    for option in given:
        if option not in own:
            others = [entry.name for entry in METHODS.entries() if option in option_names(entry.item)]
            whose = f"it belongs to {' and '.join(others)}" if others else "no method has it"
            raise UserError(f"{option} is not an option of {name}: {whose}; {name} takes {', '.join(own)}")
    return method(**given)


def option_names(method: type[Method]) -> list[str]:
    return [field.name for field in fields(method)]
