"""Image files to arrays and back."""

from unlearnable_kernels.data.images.decoding import IMAGE_SUFFIXES, MAX_PIXELS, decode
from unlearnable_kernels.data.images.encoding import JPEG_QUALITY, LARGEST_SIDE, SUFFIX, encode
from unlearnable_kernels.data.images.profiles import profile_of
from unlearnable_kernels.data.images.resizing import resize

__all__ = [
    "IMAGE_SUFFIXES",
    "JPEG_QUALITY",
    "LARGEST_SIDE",
    "MAX_PIXELS",
    "SUFFIX",
    "decode",
    "encode",
    "profile_of",
    "resize",
]
