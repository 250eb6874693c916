"""Bringing an image to a square of a given size."""

import numpy as np

from unlearnable_kernels.data.images.decoding import MAX_PIXELS
from unlearnable_kernels.errors import ImageError
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.ops.native import cpu_module


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Scale the shorter side to ``size``, then cut out the central square.

    Bilinear with antialiasing, Pillow's pixels, of which only the square is computed; sizes are rounded as
    torchvision's ``Resize`` and ``CenterCrop`` round them.

    Args:
        image: uint8 [H, W, 3].
        size: Pixels a side of the result.

    Returns:
        uint8 [size, size, 3]; ``image`` itself where it has that size already.

    Raises:
        ImageError: The image is so long and narrow that scaling it would take more than ``MAX_PIXELS``.
    """
    height, width, _ = image.shape
    if height == width == size:
        return image
    if height <= width:
        new_height, new_width = size, int(size * width / height)
    else:
        new_height, new_width = int(size * height / width), size
    if new_height * new_width > MAX_PIXELS:
        raise ImageError(f"an image of {width}x{height} is too long and narrow to be resized to {size}")
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    # Pillow 13 scales what shrinks much more in height than in width in height first, earlier ones do not.
    rows_first = new_height >= height or height - new_height <= 2 * (width - new_width)
    if cpu_module is not None and rows_first:
        window = np.empty((size, size, 3), np.uint8)
        cpu_module.resized_crop(np.ascontiguousarray(image), window, new_height, new_width, top, left)
        return window
    pillow = extra_module("PIL.Image")
    scaled = pillow.fromarray(image).resize((new_width, new_height), pillow.Resampling.BILINEAR)
    return np.array(scaled.crop((left, top, left + size, top + size)))
