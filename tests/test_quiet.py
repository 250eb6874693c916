"""What C libraries print about a picture, without its name, does not reach the terminal; all else does."""

import os
import struct
import threading
import zlib

import pytest
from sample_images import photo, png, png_chunk, saved

from unlearnable_kernels.data.images import decode
from unlearnable_kernels.data.images.quiet import quiet
from unlearnable_kernels.errors import ImageError

HEADER = (7, 9, 8, 2, 0, 0, 0)
ROWS = b"".join(b"\0" + bytes(21) for _ in range(9))


def test_no_line_of_libpng_or_libtiff_is_without_a_name(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    profile = png_chunk(b"iCCP", b"name\0\0" + zlib.compress(b"garbage" * 30))
    gamma = png_chunk(b"gAMA", struct.pack(">I", 1)) * 2
    for extra in (profile, gamma):
        assert decode(png(HEADER, ROWS, extra), "name").shape == (9, 7, 3)
    for rows in (ROWS[:50], b"\x09" + ROWS[1:]):
        with pytest.raises(ImageError, match=r"^name: corrupt PNG"):
            decode(png(HEADER, rows), "name")
    for compression in ("tiff_lzw", "tiff_deflate"):
        tiff = bytearray(saved(photo(16, 16), "TIFF", compression=compression))
        tiff[20:28] = b"\xff" * 8
        with pytest.raises(ImageError, match=r"^name: truncated or corrupt"):
            decode(bytes(tiff), "name")
    assert capfd.readouterr().err == ""
    assert not recwarn.list


def test_what_others_say_meanwhile_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def decoding() -> None:
        with quiet():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=decoding, daemon=True)
    thread.start()
    inside.wait()
    with quiet():
        os.write(2, b"libpng warning: iCCP: too short\none\n")
    os.write(2, b"two\n")
    child = os.fork()
    if child == 0:
        os.write(2, b"child\n")
        with quiet():
            os.write(2, b"libpng error: bad\n")
        os._exit(0)
    os.waitpid(child, 0)
    assert capfd.readouterr().err == "child\n"
    leave.set()
    thread.join()
    os.write(2, b"three\n")
    assert capfd.readouterr().err == "one\ntwo\nthree\n"


def test_a_closed_error_stream_is_no_obstacle() -> None:
    kept = os.dup(2)
    os.close(2)
    try:
        assert decode(png(HEADER, ROWS), "name").shape == (9, 7, 3)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
