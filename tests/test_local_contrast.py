"""Local contrast: native and NumPy alike to the bit, both the formula; and undone."""

from collections.abc import Callable

import numpy as np
import pytest
from sample_images import photo

from unlearnable_kernels.data import local_contrast
from unlearnable_kernels.data.local_contrast import with_contrast, without_contrast
from unlearnable_kernels.ops.native import cpu_module
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods import class_spectra
from unlearnable_kernels.protect.methods.class_spectra import as_bytes
from unlearnable_kernels.protect.methods.spectral import INTENSITIES, SpectralMarks
from unlearnable_kernels.protect.methods.spectral_inverse import SpectralInverse

needs_native = pytest.mark.skipif(cpu_module is None, reason="needs the native module")
SMALL = [(2, 1, 1, 3), (2, 1, 40, 3), (1, 50, 1, 1), (3, 7, 5, 1), (1, 2, 2, 4), (0, 5, 5, 3)]


@needs_native
@pytest.mark.parametrize("shape", [*SMALL, (3, 33, 47, 3), (24, 32, 32, 3), (1, 203, 171, 3)], ids=str)
def test_native_is_numpy_to_the_bit(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.choice([0, 255, *rng.integers(0, 256, 40)], shape).astype(np.uint8)
    contrasts = rng.normal(size=(shape[0], 2, 2)).astype(np.float32)
    native = with_contrast(images, contrasts)
    monkeypatch.setattr(local_contrast, "cpu_module", None)
    assert np.array_equal(native.view(np.uint32), with_contrast(images, contrasts).view(np.uint32))


@needs_native
def test_threads_that_begin_amid_an_image_change_no_bit(with_threads: Callable[..., np.ndarray]) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 301, 173, 3)).astype(np.uint8)
    contrasts = np.full((2, 2, 2), 0.3, np.float32)
    one, many = (with_threads(threads, lambda: with_contrast(images, contrasts)) for threads in (1, 4))
    assert np.array_equal(one.view(np.uint32), many.view(np.uint32))


@needs_native
def test_surroundings_too_wide_for_native_sums_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    images, contrasts = np.zeros((1, 40, 40, 1), np.uint8), np.zeros((1, 2, 2), np.float32)
    monkeypatch.setattr(local_contrast, "reaches_of", lambda height, width: [1, 1401])
    assert not with_contrast(images, contrasts).any()


@needs_native
def test_native_takes_views_and_refuses_what_it_would_misread() -> None:
    images = np.stack([photo(20, 30, 1), photo(20, 30, 2)])
    contrasts = np.full((2, 2, 2), 0.25, np.float32)
    whole = with_contrast(images[:, :, ::2].copy(), contrasts)
    assert np.array_equal(with_contrast(images[:, :, ::2], contrasts), whole)
    out = np.empty(images.shape, np.float32)
    assert cpu_module is not None
    native = cpu_module.local_contrast
    for call in (
        (images, contrasts[:1], 1, 3, out),
        (images, contrasts, 1, 3, out[:1]),
        (images.astype(np.int8), contrasts, 1, 3, out),
        (images, contrasts.view(np.int32), 1, 3, out),
    ):
        with pytest.raises(ValueError, match="of another shape or type"):
            native(*call)
    for reaches in ((1, 1401), (0, 1)):
        with pytest.raises(ValueError, match="reaches 1 to 1400"):
            native(images, contrasts, *reaches, out)


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_native), False])
@pytest.mark.parametrize(("side", "reaches"), [(9, (1, 1)), (32, (1, 3)), (64, (2, 6))])
def test_contrast_is_that_of_the_formula(
    side: int, reaches: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(local_contrast, "cpu_module", None)
    images = np.stack([photo(side, side + 5, 1), photo(side, side + 5, 2)])
    contrasts = np.array([[[0.5, -0.25], [0.125, 1]], [[0, 0], [0, 0]]], np.float32)
    result = with_contrast(images, contrasts)
    x = images[0] / 255
    for i, j in ((0, 0), (4, 5), (side - 1, side + 4), (side - 1, 3)):
        expected = x[i, j].copy()
        for reach, (a, b) in zip(reaches, contrasts[0].astype(float), strict=True):
            near = x[max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
            d = x[i, j] - near.mean((0, 1))
            expected += a * d * abs(d) / 0.15 + b * (abs(d) - 0.04)
        np.testing.assert_allclose(result[0, i, j], expected, atol=1e-6)
    assert np.array_equal(result[1], (images[1] / 255).astype(np.float32))


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_native), False])
def test_bytes_are_the_nearest_with_ties_to_even(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(class_spectra, "cpu_module", None)
    values = np.array([-1e6, -0.1, 0, 0.5 / 255, 1.5 / 255, 0.3, 1, 1.001, 1e6], np.float32)
    assert as_bytes(values).tolist() == [0, 0, 0, 0, 2, 76, 255, 255, 255]
    values = np.random.default_rng(0).uniform(-0.2, 1.2, 1001).astype(np.float32)
    assert np.array_equal(as_bytes(values), np.rint(np.clip(values, 0, 1) * np.float32(255)))
    assert as_bytes(as_bytes(values)).dtype == np.uint8


def test_contrast_is_undone_where_edges_do_not_bend_back() -> None:
    images = np.stack([photo(32, 40, seed) // 2 + 64 for seed in range(2)])
    contrasts = np.array([[[0.3, -0.1], [0.1, 0.1]], [[0.2, 0.2], [0.1, -0.1]]], np.float32)
    bent = with_contrast(images, contrasts).transpose(0, 3, 1, 2)
    x = without_contrast(bent, contrasts).transpose(0, 2, 3, 1)
    before, after = (np.abs(each - images / 255).mean() for each in (bent.transpose(0, 2, 3, 1), x))
    assert after < before / 20  # 170,000 times nearer; by 4 after three rounds


def test_images_that_the_marks_hardly_change_stay_as_they_are() -> None:
    """Black and white ones, which much of what was clipped would give, too."""
    names = [str(number) for number in range(10)]
    spectra = class_spectra.class_spectra(Key(b"k" * 32), "zoo", names, INTENSITIES["normal"])
    marks = SpectralMarks(spectra)
    stayed = 0
    for byte in (0, 255):
        images = np.full((10, 8, 8, 3), byte, np.uint8)
        published, again, restored = (np.empty_like(images) for _ in range(3))
        marks.apply(images, list(range(10)), published)
        marks.apply(published, list(range(10)), again)
        SpectralInverse(spectra, marks).apply(published, list(range(10)), restored)
        stays = np.square(again.astype(float) - published).mean((1, 2, 3)) < 4
        assert np.array_equal(restored[stays], published[stays])
        stayed += stays.sum()
    assert stayed >= 5
