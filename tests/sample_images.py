"""Pictures and files of pictures for the tests of images."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from unlearnable_kernels.data.images.headers import PNG_SIGNATURE

SHAPES = [(1, 1), (1, 7), (8, 8), (17, 16), (33, 47), (64, 64)]


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, with some noise: what a photograph's neighbouring pixels are like."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def saved(image: np.ndarray | Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, format, **options)
    return stream.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(header: tuple[int, ...], rows: bytes, extra: bytes = b"") -> bytes:
    chunks = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + extra
    return PNG_SIGNATURE + chunks + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def wide_profile() -> bytes:
    """littlecms's profile of sRGB with the primaries of Display P3."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {  # XYZ, adapted to D50
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
    for entry in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12):
        kind, start = struct.unpack_from(">4sI", profile, entry)
        if kind in primaries:
            struct.pack_into(">3i", profile, start + 8, *(round(value * 65536) for value in primaries[kind]))
    return bytes(profile)
