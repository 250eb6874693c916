"""Numbers and settings as people write them in options: 8/255, name=value, NAME:key=value."""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from unlearnable_kernels.errors import UserError

SETTING_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "none",
}
"""The types that a setting may have, and what messages call them."""


def parse_number(name: str, text: str) -> float:
    """Parse "0.5", "4/255" and the like.

    Args:
        name: What messages call the value.
        text: What was written.

    Returns:
        The value, which is finite.

    Raises:
        UserError: The text is anything else.
    """
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} must be a number or a fraction such as 8/255, not {text!r}")
    return value


def parse_value(name: str, text: str, kind: Any) -> Any:
    """Parse a value of a given type.

    Args:
        name: What messages call the value.
        text: What was written; "none" stands for None where ``kind`` allows that.
        kind: ``bool``, ``int``, ``float``, ``str``, or a union of these and None. Where a union has both
            float and str, a text that is not a number is taken as it is.

    Returns:
        A value of type ``kind``.

    Raises:
        UserError: The text does not fit.
    """
    kinds = kinds_of(kind)
    if NoneType in kinds and text == "none":
        return None
    if bool in kinds:
        if text not in ("true", "false"):
            raise UserError(f"{name} must be true or false, not {text!r}")
        return text == "true"
    if int in kinds and re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    if int in kinds and not {float, str} & set(kinds):
        raise UserError(f"{name} must be a whole number, not {text!r}")
    if float in kinds:
        try:
            return parse_number(name, text)
        except UserError:
            if str not in kinds:
                raise
    return text


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def check_value(name: str, value: Any, kind: Any) -> None:
    """Check a value that was not written as text; whole numbers serve as floats, numpy's as Python's.

    Args:
        name: What messages call the value.
        value: Any object.
        kind: As ``parse_value`` takes it.

    Raises:
        UserError: The value is of another type.
    """
    kinds = kinds_of(kind)
    if value is None or isinstance(value, bool | str):
        fits = type(value) in kinds
    elif isinstance(value, Integral):
        fits = int in kinds or float in kinds
    else:
        fits = isinstance(value, Real) and float in kinds
    if not fits:
        raise UserError(f"{name} must be {' or '.join(SETTING_KINDS[each] for each in kinds)}, not {value!r}")


def check_setting(name: str, kinds: Mapping[str, Any], owner: str) -> None:
    """Check that a setting exists.

    Raises:
        UserError: ``name`` is not in ``kinds``; the message lists what is.
    """
    if name not in kinds:
        allowed = f"choose from {', '.join(kinds)}" if kinds else "it has none"
        raise UserError(f"{name!r} is not a setting of {owner}: {allowed}")


def parse_settings(texts: Sequence[str], kinds: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Parse texts of the form "name=value".

    Args:
        texts: What was written.
        kinds: The type of each setting, as ``parse_value`` takes it.
        owner: What messages say has these settings, such as "network resnet18".

    Returns:
        The values by name, those that were given alone.

    Raises:
        UserError: A text has another form or names an unknown setting, a setting is given twice, or a
            value does not fit.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        check_setting(name, kinds, owner)
        if not equals:
            raise UserError(f"{owner}: give {name} a value, as in {name}=VALUE")
        if name in settings:
            raise UserError(f"{owner}: {name} is given twice, as {settings[name]} and as {value}")
        settings[name] = parse_value(name, value, kinds[name])
    return settings


def split_settings(text: str) -> tuple[str, list[str]]:
    """Split "NAME:key=value,…"; the part after the name may be missing.

    Args:
        text: What was written.

    Returns:
        The name, and each "key=value" for ``parse_settings``.
    """
    name, colon, settings = text.partition(":")
    return name, settings.split(",") if colon else []
