"""The defences by name: what a trainer of a stolen dataset may do about its protection.

Plain training (ERM) is the empty list of defences.
"""

from collections.abc import Mapping
from typing import Any

from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.registry import Registry

__all__ = ["DEFENCES", "Batch", "Defence", "make_defence"]

DEFENCES: Registry[type[Defence]] = Registry("defence", __name__)
"""Subclasses of ``Defence`` by name."""


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
    defence: Defence = DEFENCES.make(settings["name"], given)
    return defence
