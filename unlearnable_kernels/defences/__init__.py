"""The defences by name: what a trainer of a stolen dataset may do about its protection.

Plain training (ERM) is the empty list of defences.
"""

from collections.abc import Mapping
from typing import Any

from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.registry import Registry

__all__ = ["DEFENCES", "Batch", "Defence", "make_defence", "parse_defence"]

DEFENCES: Registry[type[Defence]] = Registry("defence", __name__)
"""Subclasses of ``Defence`` by name."""


def parse_defence(text: str) -> Defence:
    """The defence that ``text`` describes.

    Args:
        text: "NAME" or "NAME:key=value,…", such as "at-linf:eps=4/255,steps=10".

    Raises:
        UserError: There is no such defence or setting, or a value does not fit.
    """
    name, settings = DEFENCES.parse(text)
    return make_defence({"name": name} | settings)


def make_defence(settings: Mapping[str, Any]) -> Defence:
    """The defence with these settings; one that is left out has its default.

    Args:
        settings: The name under "name", and values by setting, as ``Defence.settings`` returns them.

    Raises:
        UserError: There is no such defence or setting, or a value does not fit.
    """
    if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
        raise UserError(f"a defence must be an object with a name, not {settings!r}")
    given = {key: value for key, value in settings.items() if key != "name"}
    name = settings["name"]
    defence = DEFENCES[name]
    kinds = DEFENCES.settings(name)
    for key, value in given.items():
        if key not in kinds:
            allowed = f"choose from {', '.join(kinds)}" if kinds else "it has none"
            raise UserError(f"{key!r} is not a setting of defence {name}: {allowed}")
        # A whole number is a fraction, too.
        if not isinstance(value, kinds[key] | int if isinstance(0.0, kinds[key]) else kinds[key]):
            raise UserError(f"defence {name}: {key} is {value!r}, which is of the wrong type")
    try:
        return defence(**given)
    except UserError as error:
        raise UserError(f"defence {name}: {error}") from None
