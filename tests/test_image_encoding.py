"""Encoding and resizing single images: what is written comes back."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sample_images import SHAPES, by_pillow, photo, saved
from torchvision.transforms import v2

from unlearnable_kernels.data.images import SUFFIX, decode, encode, resize, resizing
from unlearnable_kernels.errors import ImageError, UserError


@pytest.mark.parametrize("format", SUFFIX)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 300), (300, 2)])
def test_encoded_images_come_back(format, shape):
    for image in (photo(*shape), np.zeros((*shape, 3), np.uint8), np.full((*shape, 3), 255, np.uint8)):
        data = encode(image, format)
        assert Image.open(io.BytesIO(data)).format == format.upper()
        back = by_pillow(data)
        assert np.abs(back.astype(int) - image).max() <= (40 if format == "jpeg" else 0)
        np.testing.assert_array_equal(decode(data, "x"), back)


def test_noise_and_views():
    noise = np.random.default_rng(0).integers(0, 256, (50, 41, 3), np.uint8)
    for image in (noise, noise[:, ::-1], noise.transpose(1, 0, 2), noise[::2, ::3]):
        np.testing.assert_array_equal(by_pillow(encode(image, "png")), image)
        whole = np.ascontiguousarray(image)
        for format in ("webp", "jpeg"):
            assert encode(image, format) == encode(whole, format)


def test_jpegs_are_written_444_at_the_quality_asked_for():
    image = photo(64, 64)
    files = {quality: encode(image, "jpeg", quality) for quality in (20, 95)}
    for quality, data in files.items():
        with (
            Image.open(io.BytesIO(data)) as read,
            Image.open(io.BytesIO(saved(image, "jpeg", quality=quality))) as like,
        ):
            assert [layer[1:3] for layer in read.layer] == [(1, 1)] * 3
            assert read.quantization == like.quantization
    assert len(files[20]) < len(files[95])


def test_encode_refuses_what_it_cannot_write():
    with pytest.raises(UserError, match="png, webp, jpeg, tiff, bmp, ppm, not 'gif'"):
        encode(photo(2, 2), "gif")
    with pytest.raises(UserError, match="quality must be 1 to 100, not 0"):
        encode(photo(2, 2), "jpeg", 0)
    for image in (np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3)), np.zeros((0, 2, 3), np.uint8)):
        with pytest.raises(UserError, match="uint8"):
            encode(image, "png")


@pytest.mark.parametrize("shape", [*SHAPES, (3, 500), (101, 60), (60, 101), (375, 500), (300, 90), (90, 44)])
@pytest.mark.parametrize("size", [1, 32, 33, 61])
@pytest.mark.parametrize("native", [True, False])
def test_resize_is_torchvisions(shape, size, native, monkeypatch):
    if not native:
        monkeypatch.setattr(resizing, "cpu_module", None)
    image = photo(*shape)
    transform = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])
    expected = np.array(transform(Image.fromarray(image)))
    resized = resize(image, size)
    np.testing.assert_array_equal(resized, expected)
    assert resized.flags.c_contiguous
    assert resized.flags.writeable


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_resize_is_pillows_at_any_size(data):
    height, width = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 400))
    size = data.draw(st.integers(1, 300 * min(height, width) // max(height, width) + 1))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    image = random.choice([0, 1, 128, 254, 255], (height, width, 3)).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        result = resize(image, size)
        patch.setattr(resizing, "cpu_module", None)
        np.testing.assert_array_equal(result, resize(image, size))


def test_resize_takes_views():
    image = photo(60, 90)
    for view in (image[::2], image[:, ::-1], image.transpose(1, 0, 2)):
        np.testing.assert_array_equal(resize(view, 20), resize(view.copy(), 20))


def test_resize_refuses_a_thread_that_would_fill_memory():
    with pytest.raises(ImageError, match="1000000x1 is too long"):
        resize(np.zeros((1, 1_000_000, 3), np.uint8), 224)
