"""Arrays to image files: JPEG, and what keeps every bit."""

import io
from typing import Any

import numpy as np

from unlearnable_kernels.data.images.png import write_png
from unlearnable_kernels.data.images.profiles import jpeg_with_profile
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module

SUFFIX = {"png": ".png", "webp": ".webp", "jpeg": ".jpg", "tiff": ".tif", "bmp": ".bmp", "ppm": ".ppm"}
JPEG_QUALITY = 95
LARGEST_SIDE = {"jpeg": 65_500, "webp": 16_383}
"""Pixels that a format's encoder takes; those of the others hold whatever is decoded."""
# By themselves: where Pillow looks for a format it imports all of its plug-ins, for a third of a second.
_PLUGINS = {"webp": "PIL.WebPImagePlugin", "tiff": "PIL.TiffImagePlugin"}


def encode(image: np.ndarray, format: str, quality: int = JPEG_QUALITY, profile: bytes = b"") -> bytes:
    """Encode an image; all formats but JPEG keep every bit.

    Args:
        image: uint8 [H, W, 3], RGB, H and W at least 1, any strides.
        format: "png", "webp" (lossless), "jpeg" (baseline, 4:4:4), "tiff" (uncompressed), "bmp" or "ppm".
        quality: Of a JPEG, 1 to 100; the others ignore it.
        profile: The ICC profile to embed, from ``profile_of``; BMP and PPM have no place for it.

    Returns:
        The content of the file.

    Raises:
        UserError: One of the arguments is not as above.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(f"image must be uint8 [H, W, 3] and not empty, not {image.dtype} {list(image.shape)}")
    image = np.ascontiguousarray(image)
    if format == "png":
        return write_png(image, profile)
    if format == "jpeg":
        if not 1 <= quality <= 100:
            raise UserError(f"quality must be 1 to 100, not {quality}")
        encode_jpeg = extra_module("simplejpeg").encode_jpeg
        data = bytes(encode_jpeg(image, quality=quality, colorsubsampling="444", fastdct=False))
        return jpeg_with_profile(data, profile)
    if format not in SUFFIX:
        raise UserError(f"format must be one of {', '.join(SUFFIX)}, not {format!r}")
    # Effort 0 is a tenth of the time for an eighth more bytes at 64x64.
    options: dict[str, Any] = {"lossless": True, "quality": 0, "method": 0} if format == "webp" else {}
    if profile:
        options["icc_profile"] = profile
    if format in _PLUGINS:
        extra_module(_PLUGINS[format])
    stream = io.BytesIO()
    extra_module("PIL.Image").fromarray(image).save(stream, format, **options)
    return stream.getvalue()
