"""Image files to arrays: Pillow's pixels, faster, and nothing damaged or ambiguous let through.

What happens to every unusual file is listed in ``docs/inputs.md``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from unlearnable_kernels.data.images import headers
from unlearnable_kernels.data.images.headers import JPEG_SIGNATURE, PNG_SIGNATURE
from unlearnable_kernels.data.images.quiet import quiet
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.extras import extra_module

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jfif .png .webp .bmp .gif .tif .tiff .ppm .avif .heic .heif".split()  # noqa: SIM905
)
MAX_PIXELS = 2**30 // 12
"""89,478,485 pixels, 256 MiB as RGB: where Pillow, too, begins to suspect a decompression bomb."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
_KNOWN = "JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF, HEIC"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
_LIBPNG_SIDE = 1_000_000
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS = 258
# EXIF orientation: the member of Pillow's Transpose that undoes it.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def decode(data: bytes, name: str) -> np.ndarray:
    """Decode an image file.

    Pixels are those of Pillow's ``convert("RGB")``. Plain 8-bit JPEG and PNG take a faster way to them.

    Args:
        data: The content of the file.
        name: What messages call the file.

    Returns:
        The picture, upright: uint8 [H, W, 3], RGB, contiguous, writable.

    Raises:
        ImageError: The file is truncated, corrupt or not an image, has more than 8 bits a channel, several
            frames or a transparent pixel, or declares more than ``MAX_PIXELS`` (which is checked before
            anything is decoded).
    """
    try:
        pixels = None
        if data.startswith(JPEG_SIGNATURE):
            pixels = _decode_jpeg(data)
        elif data.startswith(PNG_SIGNATURE):
            pixels = _decode_png(data)
        return _decode_with_pillow(data) if pixels is None else pixels
    except _Refused as refusal:
        raise ImageError(f"{name}: {refusal}") from None


class _Refused(Exception):
    """Why a file is not decoded; ``decode`` adds its name."""


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """The pixels of a plain JPEG, or None where Pillow must decide.

    Every JPEG goes through the strict decoder, even one that Pillow will convert afterwards: Pillow keeps
    silent about damage between the markers.
    """
    header = headers.jpeg_header(data)
    if header is None:
        return None
    _check_size(header.width, header.height)
    if header.bits != 8:
        raise _Refused(f"{header.bits} bits a channel; only 8-bit images can be protected")
    simplejpeg = extra_module("simplejpeg")
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, colorspace="CMYK" if header.channels == 4 else "RGB"
        )
    except ValueError as error:
        message = str(error)
        if message.startswith("Corrupt JPEG data: "):
            raise _Refused(f"corrupt JPEG ({message.removeprefix('Corrupt JPEG data: ')})") from None
        if message.startswith("Premature end"):
            raise _Refused("truncated JPEG") from None
        return None
    if not header.plain:
        return None
    if not header.tagged:
        return pixels
    return _turned(extra_module("PIL.Image").fromarray(pixels), _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    pillow = extra_module("PIL.Image")
    with _refusing_what_pillow_raises(), pillow.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return _orientation(image)


def _decode_png(data: bytes) -> np.ndarray | None:
    """The pixels of a plain PNG, or None where Pillow must decide.

    Every PNG goes through libpng, which unlike Pillow insists on all rows.
    """
    try:
        header = headers.png_header(data)
    except UserError:  # A missing package says nothing about the file.
        raise
    except ValueError as error:
        raise _Refused(str(error)) from None
    _check_size(header.width, header.height)
    if header.bits > 8:
        raise _Refused(f"{header.bits} bits a channel; only 8-bit images can be protected")
    if max(header.width, header.height) > _LIBPNG_SIDE:
        return None
    cv2 = extra_module("cv2")
    with quiet():
        pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise _Refused("corrupt PNG: its rows cannot be read to the end")
    return pixels if header.plain else None


def opened(data: bytes) -> ImageFile:
    """The file as Pillow opens it, by the readers of known formats alone. Raises what they raise."""
    formats = list(_FORMATS)
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[12:64]:
        extra_module("pillow_heif").register_heif_opener()
        formats.append("HEIF")
    image: ImageFile = extra_module("PIL.Image").open(io.BytesIO(data), formats=formats)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _Refused(f"declares {width}x{height} pixels; at most {MAX_PIXELS:,} are decoded")


def _decode_with_pillow(data: bytes) -> np.ndarray:
    if data[4:8] == b"ftyp" and headers.most_bits(data) > 8:
        raise _Refused("more than 8 bits a channel; only 8-bit images can be protected")
    with quiet(), _refusing_what_pillow_raises(), opened(data) as image:
        _check_size(*image.size)
        frames = getattr(image, "n_frames", 1)
        # MPO: a photograph followed by its thumbnails, depth map or second view.
        if frames > 1 and image.format != "MPO":
            raise _Refused(f"{frames} frames; only still images can be protected")
        if _bits(image) > 8:
            raise _Refused("more than 8 bits a channel; only 8-bit images can be protected")
        image.load()
        return _turned(_opaque(image).convert("RGB"), _orientation(image))


@contextmanager
def _refusing_what_pillow_raises() -> Iterator[None]:
    pillow = extra_module("PIL.Image")
    try:
        yield
    except (_Refused, MemoryError):
        raise
    except pillow.UnidentifiedImageError:
        raise _Refused(f"not an image of a known format ({_KNOWN})") from None
    except pillow.DecompressionBombError as error:
        raise _Refused(str(error)) from None
    except Exception as error:  # Pillow's plugins meet damage with almost any exception.
        raise _Refused(f"truncated or corrupt ({str(error) or type(error).__name__})") from None


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() != (255, 255):
        raise _Refused("transparent in places; only opaque images can be protected")
    return rgba


def _bits(image: ImageFile) -> int:
    """The most bits a channel has in the file; Pillow narrows 16-bit RGB to 8 without a word."""
    if image.mode.startswith(("I", "F")):
        return 16
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_TIFF_BITS, (1,))))  # type: ignore[attr-defined]
    if image.format == "PPM":
        maximum = image.tile[0].args[-1]  # type: ignore[index]
        return 16 if isinstance(maximum, int) and maximum > 255 else 8
    return 8


def _turned(image: Image.Image, orientation: int) -> np.ndarray:
    turn = _UPRIGHT.get(orientation)
    return np.array(image if turn is None else image.transpose(extra_module("PIL.Image").Transpose[turn]))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # A damaged EXIF block says nothing about the pixels.
        return 1
