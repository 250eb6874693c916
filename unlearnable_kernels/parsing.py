"""Numbers as one writes them in options and settings."""

import math

from unlearnable_kernels.errors import UserError


def parse_number(name: str, text: str) -> float:
    """The value of "0.5", "4/255" and the like, which is finite.

    Raises UserError, which names ``name``, for anything else.
    """
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} must be a number or a fraction such as 8/255, not {text!r}")
    return value
