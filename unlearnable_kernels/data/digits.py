"""scikit-learn's handwritten digits as a tree of class folders: real images that need no download."""

import tempfile
from pathlib import Path

import numpy as np

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module

_REPEAT = 4  # 8x8 to 32x32; a smooth enlargement would leave small filters nothing to act on
_TEST_EVERY = 5


def write_digits(dst: Path) -> Path:
    """Write the digits as DST/{train,test}/<digit>/<index>.png, 32x32 RGB.

    The 1,797 8x8 images come with scikit-learn (values 0 to 16, here scaled to 0 to 255). Every fifth image
    of each class, in scikit-learn's order, is for testing: 1,442 remain to train on. ``<index>`` is the
    image's place in scikit-learn's array. The tree appears only when whole; one that is there already is
    left as it is.

    Args:
        dst: The folder to write.

    Returns:
        ``dst``.

    Raises:
        UserError: scikit-learn is missing, or ``dst`` holds something else.
    """
    if dst.exists() and any(dst.iterdir()):
        if {child.name for child in dst.iterdir()} != {"train", "test"}:
            raise UserError(f"{dst} holds something else: give an empty or a new folder for the digits")
        return dst
    pillow = extra_module("PIL.Image")
    images, labels = _load()
    dst.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dst.name}-", dir=dst.parent) as scratch:
        tree = Path(scratch) / "tree"
        for label in range(10):
            members = np.flatnonzero(labels == label)
            for position, index in enumerate(members):
                split = "test" if position % _TEST_EVERY == _TEST_EVERY - 1 else "train"
                path = tree / split / str(label) / f"{index:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pillow.fromarray(images[index]).save(path)
        tree.rename(dst)
    return dst


def _load() -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 [1797, 32, 32, 3], and their labels, int64 [1797], in [0, 9]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("the digits need scikit-learn: pip install 'unlearnable_kernels[demo]'") from error
    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    enlarged = grey.repeat(_REPEAT, axis=1).repeat(_REPEAT, axis=2)
    return np.ascontiguousarray(np.broadcast_to(enlarged[..., None], (*enlarged.shape, 3))), digits.target
