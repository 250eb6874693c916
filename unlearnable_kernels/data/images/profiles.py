"""Embedded colour profiles: taken out of one file and put into another, and never applied.

Filters change the stored values, and programs train on these; a profile says how they look.
"""

import struct

from unlearnable_kernels.data.images.decoding import opened
from unlearnable_kernels.data.images.headers import JPEG_SIGNATURE, PNG_SIGNATURE
from unlearnable_kernels.data.images.quiet import quiet

LONGEST = 2**20
"""Bytes of a profile that is kept: what Pillow reads of one in a PNG."""

_MARKS = {JPEG_SIGNATURE: b"ICC_PROFILE\0", PNG_SIGNATURE: b"iCCP"}
_HEADER = 128
_SEGMENT = 65_519  # bytes of a profile in one segment of a JPEG


def profile_of(data: bytes) -> bytes:
    """The ICC profile of an image file that can be decoded.

    Args:
        data: The content of the file.

    Returns:
        The profile's own bytes; empty where there is none, or none that says how RGB looks: one for grey or
        CMYK, a damaged one, one over ``LONGEST``.
    """
    if any(data.startswith(signature) and mark not in data for signature, mark in _MARKS.items()):
        return b""
    try:
        with quiet(), opened(data) as image:
            profile = image.info.get("icc_profile") or b""
    except Exception:  # The pixels were read by other means.
        return b""
    stated = int.from_bytes(profile[:4], "big")
    sound = _HEADER < stated <= len(profile) and profile[36:40] == b"acsp" and profile[16:20] == b"RGB "
    return profile[:stated] if sound and stated <= LONGEST else b""


def jpeg_with_profile(data: bytes, profile: bytes) -> bytes:
    """Put a profile into a JPEG.

    Args:
        data: A JPEG that begins with a JFIF segment and has no profile.
        profile: The profile; where it is empty, ``data`` stays as it is.

    Returns:
        The JPEG with the profile in as many segments as it takes.
    """
    if not profile:
        return data
    parts = [profile[start : start + _SEGMENT] for start in range(0, len(profile), _SEGMENT)]
    segments = [
        struct.pack(">2sH12sBB", b"\xff\xe2", len(part) + 16, b"ICC_PROFILE", number, len(parts)) + part
        for number, part in enumerate(parts, start=1)
    ]
    first = 4 + int.from_bytes(data[4:6], "big")  # behind the JFIF segment
    return b"".join((data[:first], *segments, data[first:]))
