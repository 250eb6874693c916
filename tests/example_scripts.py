"""The scripts in examples/, as modules, and pictures for them."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_class(root: Path, images: Iterable[np.ndarray]) -> Path:
    """A data set of uint8 images [H, W, 3] in one class."""
    (root / "cat").mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(root / "cat" / f"{number:02}.png")
    return root
