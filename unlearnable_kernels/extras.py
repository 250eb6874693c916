"""Packages that operators and arrays do without: imported when first used, and named where missing."""

from functools import cache
from importlib import import_module
from typing import Any

from unlearnable_kernels.errors import UserError

INSTALL = "pip install 'unlearnable_kernels[{}]'"

DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "isal": "isal",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "simplejpeg": "simplejpeg",
    "timm": "timm",
    "tomli": "tomli",
    "torchvision": "torchvision",
    "typer": "typer",
}
"""What the extra ``commands`` installs, by the name it is imported by."""

OTHERS = {
    "pillow_heif": ("pillow-heif", "heif"),
    "pyarrow": ("pyarrow", "parquet"),
    "ray": ("ray", "ray"),
    "fsspec": ("fsspec", "remote"),
    "skimage": ("scikit-image", "quality"),
    "stlpips_pytorch": ("stlpips-pytorch", "quality"),
}
"""What another extra installs: the package, and the extra."""


@cache
def extra_module(name: str) -> Any:
    """Import a module of a package that only an extra installs.

    Args:
        name: The module, such as "PIL.Image".

    Returns:
        The module.

    Raises:
        UserError: It cannot be imported; the line names the package and how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(missing(name, error)) from None


def missing(name: str, error: ImportError) -> str:
    """The line that says what to install: ``error`` was raised when ``name``, of the extra, was imported."""
    package = name.partition(".")[0]
    reason = str(error).partition("\n")[0]
    distribution, extra = OTHERS.get(package) or (DISTRIBUTIONS[package], "commands")
    return f"{distribution} cannot be imported ({reason}): {INSTALL.format(extra)}"
