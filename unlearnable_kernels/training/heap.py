"""What training on a CPU does with the memory that it frees between steps."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's mallopt
_DEFAULT_TRIM, _DEFAULT_MMAPS = 64 << 20, 65536  # the largest that glibc chooses itself, and how it begins


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Within the block, this process keeps what it frees for the next step; afterwards it gives it back.

    By itself glibc returns a step's activations to the system and has them back, zeroed page by page, in the
    next one. With another C library, or on a GPU, whose memory torch keeps itself, nothing is changed.

    Args:
        device: Where the block computes.
    """
    libc = ctypes.CDLL(None)
    if device.type != "cpu" or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_TRIM_THRESHOLD, -1)
    libc.mallopt(_MMAP_MAX, 0)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM)
        libc.mallopt(_MMAP_MAX, _DEFAULT_MMAPS)
        libc.malloc_trim(0)
