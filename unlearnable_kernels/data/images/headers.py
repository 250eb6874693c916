"""What the first bytes of an image say, read without a decoder: its size, and whether it is plain.

Opening a small file with Pillow only to look at its header costs more than decoding it; these functions
take a few microseconds and decide whether the fast decoders may have it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from unlearnable_kernels.extras import extra_module

JPEG_SIGNATURE = b"\xff\xd8\xff"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PLAIN_FRAMES = (0xC0, 0xC1, 0xC2)
_APP1, _START_OF_SCAN = 0xE1, 0xDA

_META_BYTES = 65536  # of a file, in which AVIF and HEIC describe their pictures

_PLAIN_CHUNKS = frozenset(b"IHDR IDAT IEND gAMA cHRM sRGB iCCP pHYs tIME bKGD".split())


class Header(NamedTuple):
    """What a file says about its picture.

    Attributes:
        width: In pixels, as stored.
        height: In pixels, as stored.
        bits: Per channel.
        channels: As stored: 1 for grey or a palette, 4 for CMYK or RGBA.
        plain: The fast decoders give the right pixels.
        tagged: EXIF or XMP is present and may say that the picture lies on its side.
    """

    width: int
    height: int
    bits: int
    channels: int
    plain: bool
    tagged: bool


def jpeg_header(data: bytes) -> Header | None:
    """Read the markers of a JPEG up to its first scan.

    Not plain: other than 8 bits, other than 1 or 3 channels, a process other than baseline, extended or
    progressive.

    Args:
        data: The content of the file.

    Returns:
        The header, or None where the markers make no sense.
    """
    position, end = 2, len(data)
    frame: tuple[int, int, int, int] | None = None
    plain, tagged = True, False
    while position + 10 <= end:
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == _START_OF_SCAN:
            break
        if marker in _FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            if frame or bits != 8 or not height or channels not in (1, 3) or marker not in _PLAIN_FRAMES:
                plain = False
            frame = width, height, bits, channels
        elif marker == _APP1:
            tagged = True
        position += 2 + (data[position + 2] << 8 | data[position + 3])
    return Header(*frame, plain, tagged) if frame else None


def png_header(data: bytes) -> Header:
    """Read the header of a PNG, and check that every chunk is there and has the right checksum.

    Not plain: a palette, transparency, animation, interlacing, other than 8 bits, and any chunk that is not
    known to leave the pixels alone, text and EXIF included.

    Args:
        data: The content of the file.

    Returns:
        The header.

    Raises:
        ValueError: The file is truncated or corrupt; the message says where.
    """
    position, end = len(PNG_SIGNATURE), len(data)
    if end < 33 or data[12:16] != b"IHDR":
        raise ValueError("truncated PNG" if end < 33 else "corrupt PNG: it does not begin with an IHDR chunk")
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 0)
    plain = bits == 8 and colour in (0, 2) and not interlaced
    crc32 = extra_module("isal.isal_zlib").crc32
    view = memoryview(data)
    kind = b""
    while kind != b"IEND":
        if position + 12 > end:
            raise ValueError("truncated PNG")
        kind = data[position + 4 : position + 8]
        checksum_at = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if checksum_at + 4 > end:
            raise ValueError("truncated PNG")
        if crc32(view[position + 4 : checksum_at]) != int.from_bytes(
            data[checksum_at : checksum_at + 4], "big"
        ):
            raise ValueError(f"corrupt PNG: the checksum of its {kind.decode('latin-1')!r} chunk is wrong")
        plain = plain and kind in _PLAIN_CHUNKS
        position = checksum_at + 4
    return Header(width, height, bits, channels, plain, tagged=False)


def most_bits(data: bytes) -> int:
    """The most bits a channel has in an AVIF or HEIC file, by its first pixi box; 8 without one."""
    start = data.find(b"pixi", 0, _META_BYTES) + 8  # behind the box's name, version and flags
    if start < 8 or len(data) <= start:
        return 8
    return max(data[start + 1 : start + 1 + data[start]], default=8)
