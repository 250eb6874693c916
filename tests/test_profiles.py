"""Colour profiles: kept byte for byte where they say how RGB looks, dropped where not, and never applied."""

import io
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from sample_images import by_pillow, photo, png, png_chunk, saved, wide_profile
from test_fuzz import damaged

from unlearnable_kernels.data.images import SUFFIX, decode, encode, profile_of, profiles
from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.restore import restore_dataset
from unlearnable_kernels.protect.run import protect_dataset

KEY = Key(bytes(range(32)))
WIDE = wide_profile()
KEEPING = ("jpeg", "png", "webp", "tiff")
PLACELESS = ("bmp", "ppm")
pillow_heif.register_heif_opener()


def red_in_srgb(profile: bytes) -> tuple[int, ...]:
    srgb = ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(Image.new("RGB", (1, 1), (200, 60, 60)), io.BytesIO(profile), srgb)
    assert image is not None
    return image.getpixel((0, 0))


def test_a_kept_profile_is_a_wide_one_that_others_read():
    assert red_in_srgb(WIDE)[0] > 210
    for format in KEEPING:
        with Image.open(io.BytesIO(encode(photo(9, 7), format, profile=WIDE))) as image:
            assert image.info["icc_profile"] == WIDE, format


@pytest.mark.parametrize("format", [*KEEPING, "avif", "heif"])
def test_profiles_are_found_and_pixels_are_the_stored_ones(format):
    options = {"lossless": True} if format == "webp" else {}
    image = photo(24, 32)
    data = saved(image, format, icc_profile=WIDE, **options)
    assert profile_of(data) == WIDE
    assert profile_of(saved(image, format, **options)) == b""
    np.testing.assert_array_equal(decode(data, "x"), decode(saved(image, format, **options), "x"))


@pytest.mark.parametrize("format", SUFFIX)
@pytest.mark.parametrize("size", [len(WIDE), 65_519, 65_520, profiles.LONGEST])
def test_what_is_written_has_the_profile_and_the_same_pixels(format, size):
    profile = size.to_bytes(4, "big") + WIDE[4:] + bytes(size - len(WIDE))
    image = photo(16, 16)
    data = encode(image, format, profile=profile)
    assert profile_of(data) == (b"" if format in PLACELESS else profile)
    np.testing.assert_array_equal(by_pillow(data), by_pillow(encode(image, format)))
    np.testing.assert_array_equal(decode(data, "x"), by_pillow(data))


def of_grey() -> bytes:
    return WIDE[:16] + b"GRAY" + WIDE[20:]


@pytest.mark.parametrize(
    "profile",
    [
        of_grey(),
        WIDE[:16] + b"CMYK" + WIDE[20:],
        WIDE[:36] + b"abcd" + WIDE[40:],
        WIDE[:-1],
        WIDE[:128],
        (128).to_bytes(4, "big") + WIDE[4:],
        (profiles.LONGEST + 1).to_bytes(4, "big") + WIDE[4:] + bytes(profiles.LONGEST + 1 - len(WIDE)),
        b"x",
    ],
)
@pytest.mark.parametrize("format", KEEPING)
def test_profiles_that_do_not_say_how_rgb_looks_are_dropped(profile, format):
    data = encode(photo(8, 8), format, profile=profile)
    assert profile_of(data) == b""
    np.testing.assert_array_equal(decode(data, "x"), decode(encode(photo(8, 8), format), "x"))


def test_bytes_behind_a_profile_are_dropped():
    assert profile_of(encode(photo(8, 8), "jpeg", profile=WIDE + b"\0\0")) == WIDE


def test_profiles_of_grey_and_cmyk_pictures():
    grey = Image.fromarray(photo(8, 8)).convert("L")
    assert profile_of(saved(grey, "jpeg", icc_profile=of_grey())) == b""
    assert profile_of(saved(grey.convert("CMYK"), "jpeg", icc_profile=WIDE[:16] + b"CMYK" + WIDE[20:])) == b""


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"name\0\0", b"name\0\0not deflated", b"name\0\1" + zlib.compress(WIDE), b"name\0\0\x78\x9c"],
)
def test_a_damaged_chunk_of_a_png_is_dropped(body):
    data = png((1, 1, 8, 2, 0, 0, 0), bytes([0, 10, 20, 30]), png_chunk(b"iCCP", body))
    np.testing.assert_array_equal(decode(data, "x"), [[[10, 20, 30]]])
    assert profile_of(data) in (b"", WIDE)


def test_a_profile_that_would_fill_memory_is_dropped(capfd):
    chunk = png_chunk(b"iCCP", b"name\0\0" + zlib.compress(WIDE + bytes(50_000_000), 1))
    data = png((1, 1, 8, 2, 0, 0, 0), bytes([0, 10, 20, 30]), chunk)
    np.testing.assert_array_equal(decode(data, "x"), [[[10, 20, 30]]])
    assert profile_of(data) == b""
    assert capfd.readouterr().err == ""


@given(st.data())
def test_damaged_profiles_have_a_decided_outcome(data):
    format, image = data.draw(st.sampled_from(KEEPING)), photo(8, 8)
    profile = data.draw(damaged(WIDE))
    written = encode(image, format, profile=profile)
    kept = profile_of(written)
    assert kept in (b"", profile[: len(kept)])
    assert kept == b"" or kept[16:20] == b"RGB "
    np.testing.assert_array_equal(decode(written, "x"), decode(encode(image, format), "x"))


def test_protected_and_restored_pictures_have_their_own_profile(tmp_path: Path):
    src = tmp_path / "src" / "k"
    src.mkdir(parents=True)
    for format in KEEPING:
        (src / f"{format}{SUFFIX[format]}").write_bytes(encode(photo(16, 16), format, profile=WIDE))
    (src / "none.jpg").write_bytes(encode(photo(16, 16), "jpeg"))
    protect_dataset(tmp_path / "src", tmp_path / "out", secret=KEY, workers=0)
    restore_dataset(tmp_path / "out", tmp_path / "back", secret=KEY, workers=0)
    protect_dataset(tmp_path / "src", tmp_path / "shards", secret=KEY, workers=0, format="webdataset")
    for place in ("src", "out", "back", "shards"):
        source = open_source(tmp_path / place)
        found = {
            sample.name: profile_of(data)
            for sample in source.samples
            if isinstance(data := source.read(sample), bytes)
        }
        assert {name: profile == WIDE for name, profile in found.items()} == {
            name: "none" not in name for name in found
        }, place
        assert len(found) == 5
