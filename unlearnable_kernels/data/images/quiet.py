"""What C libraries print about a damaged picture, without its name: kept from the terminal."""

import os
import re
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# libpng, libjpeg and libtiff, which calls the file tempfile.tif, and otherwise names one of its functions.
_UNNAMED = re.compile(
    rb"libpng (warning|error): |Corrupt JPEG data|Premature end of JPEG|(tempfile\.tif|_?TIFF\w+|O?JPEG\w*"
    rb"|Fax\w+|LogL\w+|PackBits\w*|\w+(Decode|Setup|Cleanup)\w*|MissingRequired|Invalid (TIFF|YCbCr)\w*): "
)

_HOLD = 0.2  # seconds, after which what is held back comes out, however many threads decode

_changing = threading.Condition()
_inside, _since = 0, 0.0
_terminal = _sink = -1


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, drop those lines on the standard error stream; whatever else comes follows behind it.

    Descriptor 2 is one for all threads: the first that enters puts a file in its place, the last that leaves
    puts it back.
    """
    global _inside, _since, _terminal
    with _changing:
        while _inside and time.monotonic() - _since > _HOLD:
            _changing.wait()
        if _inside == 0:
            _terminal, _since = _replaced(), time.monotonic()
        _inside += 1
    try:
        yield
    finally:
        with _changing:
            _inside -= 1
            if _inside == 0:
                if _terminal >= 0:
                    _put_back()
                _changing.notify_all()


def _replaced() -> int:
    """A duplicate of descriptor 2, which from now on is ``_sink``; -1 where there is none to replace."""
    global _sink
    try:
        before = os.dup(2)
    except OSError:
        return -1
    if _sink < 0:
        with tempfile.TemporaryFile() as file:
            _sink = os.memfd_create("stderr") if hasattr(os, "memfd_create") else os.dup(file.fileno())
    os.dup2(_sink, 2)
    return before


def _put_back() -> None:
    os.dup2(_terminal, 2)
    os.close(_terminal)
    if size := os.fstat(_sink).st_size:
        text = os.pread(_sink, size, 0)
        os.ftruncate(_sink, 0)
        os.lseek(_sink, 0, os.SEEK_SET)
        os.write(2, b"".join(line for line in text.splitlines(keepends=True) if not _UNNAMED.match(line)))


def _in_child() -> None:
    """A process forked meanwhile gets the stream back, and a file of its own."""
    global _changing, _inside, _sink
    if _inside and _terminal >= 0:
        os.dup2(_terminal, 2)
    _changing, _inside, _sink = threading.Condition(), 0, -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

# Damage that matters is an error; what Pillow only mentions, such as odd metadata, has no name either.
warnings.filterwarnings("ignore", module=r"PIL\.")
