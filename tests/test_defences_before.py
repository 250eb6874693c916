"""Defences once before training: each beside the published formula, its statistics, and in a run."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image, ImageOps
from sample_images import photo
from sklearn.linear_model import LogisticRegression
from small_runs import config_for, data, one_thread, tensors_of, untimed_metrics
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES, Batch, Defence
from unlearnable_kernels.defences.dct import dct2, inverse_dct2
from unlearnable_kernels.defences.dct_bands import bands
from unlearnable_kernels.defences.orthogonal_projection import OrthogonalProjection
from unlearnable_kernels.defences.spectrum_norm import SpectrumNorm
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.training import evaluate, train

__all__ = ["data", "one_thread"]  # fixtures

IN_TESTS = ("grayscale", "channel-norm", "histeq", "whiten", "spectrum-norm", "ff:when=before,test=true")
NOT_IN_TESTS = ("jpeg", "bit-depth", "op")


def photos(count: int = 12, side: int = 32, divisor: int = 1) -> Tensor:
    """Different photographs, around a middle grey if their contrast is divided by something."""
    stack = np.stack([photo(side, side, seed).astype(int) for seed in range(count)])
    return torch.from_numpy((128 + (stack - 128) // divisor).astype(np.uint8))


def labels_of(images: Tensor) -> Tensor:
    return torch.arange(len(images)) % 3


def prepared(defence: str | Defence, images: Tensor) -> Tensor:
    made: Defence = DEFENCES.create(defence) if isinstance(defence, str) else defence
    before = images.clone()
    changed, labels = made.prepare(images, labels_of(images), torch.Generator().manual_seed(0))
    assert torch.equal(images, before)
    assert torch.equal(labels, labels_of(images))
    assert (changed.dtype, changed.shape) == (torch.uint8, images.shape)
    return changed


def by_pillow(images: Tensor, change: Any) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(change(Image.fromarray(each.numpy()))) for each in images]))


def test_grayscale_is_the_luma_in_three_channels() -> None:
    images = photos()
    luma = (images.double() @ torch.tensor([0.2989, 0.587, 0.114]).double()).floor().byte()
    assert torch.equal(prepared("grayscale", images), luma[..., None].expand(images.shape))


def test_jpeg_is_that_of_pillow() -> None:
    """But for coefficients that the encoders round otherwise; another quality or chroma is farther off."""
    images = photos(side=40)
    got = prepared("jpeg", images).float()

    def distance(quality: int, subsampling: int) -> float:
        def compressed(image: Image.Image) -> Image.Image:
            stream = io.BytesIO()
            image.save(stream, "jpeg", quality=quality, subsampling=subsampling)
            return Image.open(stream)

        return float((got - by_pillow(images, compressed)).abs().mean())

    assert distance(10, 2) < 0.5 * min(distance(9, 2), distance(11, 2), distance(10, 0))


def test_bit_depth_rounds_to_evenly_spaced_levels() -> None:
    images = photos()
    values = images.numpy() / 255
    expected = np.round(np.round(values * 3) / 3 * 255).astype(np.uint8)
    np.testing.assert_array_equal(prepared("bit-depth", images), expected)
    assert prepared("bit-depth:bits=1", images).unique().tolist() == [0, 255]
    assert torch.equal(prepared("bit-depth:bits=8", images), images)


def test_the_histograms_are_equalised_as_pillow_does() -> None:
    images = photos(divisor=3)
    images[0] = 77  # no histogram to equalise
    assert torch.equal(prepared("histeq", images), by_pillow(images, ImageOps.equalize))


def low_frequencies(images: np.ndarray, kept: int) -> np.ndarray:
    """The oracle of the frequency filter, for images [N, H, W, 3]."""
    coefficients = scipy.fft.dctn(images, axes=(1, 2), norm="ortho")
    coefficients[:, kept:] = 0
    coefficients[:, :, kept:] = 0
    return scipy.fft.idctn(coefficients, axes=(1, 2), norm="ortho")


def test_the_frequency_filter_keeps_the_lowest_rows_and_columns() -> None:
    images = photos(3)
    expected = np.clip(low_frequencies(images.numpy().astype(float), 9), 0, 255)
    got = prepared("ff:when=before", images)
    assert np.abs(got.numpy() - expected).max() <= 0.5 + 1e-3
    assert torch.equal(DEFENCES.create("ff:test=true").at_test(images), got)
    assert torch.equal(DEFENCES.create("ff").at_test(images), images)
    assert torch.equal(prepared("ff:when=before,keep=1", images), images)


def test_the_frequency_filter_follows_what_comes_before_it_in_a_batch() -> None:
    images = photos(4)
    floats = (images.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    batch = Batch(floats, labels_of(images), 4, slice(0, 4), generator, "fp32", 3)
    both = DEFENCES.create("ff")
    assert torch.equal(prepared(both, images), images)
    got = both.augment(batch).images
    assert got.is_contiguous(memory_format=torch.channels_last)
    expected = np.clip(low_frequencies(images.numpy() / 255, 9), 0, 1)
    np.testing.assert_allclose(got.permute(0, 2, 3, 1), expected, atol=1e-5)
    assert DEFENCES.create("ff:when=before").augment(batch) is batch


@pytest.mark.parametrize("size", [(8, 8), (9, 12)])
def test_the_transform_is_scipys(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    coefficients = dct2(images)
    np.testing.assert_allclose(
        coefficients, scipy.fft.dctn(images.numpy(), axes=(2, 3), norm="ortho"), atol=1e-5
    )
    torch.testing.assert_close(inverse_dct2(coefficients), images)


def test_projected_images_do_not_differ_along_the_weights() -> None:
    images, defence = photos(30, side=8, divisor=4), OrthogonalProjection(epochs=5, batch_size=7)
    labels, generator = labels_of(images), torch.Generator()
    weights = defence.regression(images, labels, generator.manual_seed(0))
    weights = weights / weights.norm(dim=1, keepdim=True)

    def spread(some: Tensor) -> Tensor:
        return (some.flatten(1).float() @ weights.T).std(0)

    # What is left is rounding, whose deviation is 12^-1/2 along any direction, and some clipping.
    assert spread(images).min() > 10
    assert spread(prepared(defence, images)).max() < 0.6
    basis = defence.basis(images, labels, generator.manual_seed(0))
    assert len(basis) == 2
    torch.testing.assert_close(basis @ basis.T, torch.eye(2), atol=1e-5, rtol=0)


def test_the_regression_is_that_of_another_library() -> None:
    images = torch.randint(256, (40, 1, 1, 3), generator=torch.Generator().manual_seed(0)).byte()
    pixels, labels = images.flatten(1).numpy() / 255, labels_of(images)
    whole = OrthogonalProjection(epochs=3000, lr=3.0, batch_size=40)
    weights = whole.regression(images, labels, torch.Generator())
    other = LogisticRegression(C=1e8, tol=1e-8, max_iter=5000, fit_intercept=False).fit(pixels, labels)
    np.testing.assert_allclose(weights, other.coef_, atol=0.02)


def test_channels_get_one_mean_and_contrast() -> None:
    images = photos(divisor=3)
    images[0, ..., 0] = 90  # flat
    planes = images.double().flatten(1, 2)
    mean, deviation = planes.mean(1), planes.std(1, correction=0)
    new = prepared("channel-norm", images)
    expected = (images.double() - mean[:, None, None]) / deviation.clamp(min=1)[:, None, None]
    expected = expected * deviation.mean(0) + mean.mean(0)
    assert (new - expected.clamp(0, 255)).abs().max() <= 0.5 + 1e-3
    after = new[1:].double().flatten(1, 2)
    # Rounding, and a few values that are clipped.
    torch.testing.assert_close(after.mean(1), mean.mean(0).expand(11, 3), atol=0.5, rtol=0)
    torch.testing.assert_close(
        after.std(1, correction=0), deviation.mean(0).expand(11, 3), atol=0.5, rtol=0.02
    )


@pytest.mark.parametrize("space", ["yuv", "lab"])
def test_whitened_images_have_one_mean_colour_and_covariance(space: str) -> None:
    images = photos(divisor=3)
    code = {"yuv": cv2.COLOR_RGB2YUV, "lab": cv2.COLOR_RGB2LAB}[space]

    def moments(some: Tensor) -> tuple[np.ndarray, np.ndarray]:
        colours = [cv2.cvtColor(each.numpy().astype(np.float32) / 255, code).reshape(-1, 3) for each in some]
        return (
            np.stack([each.mean(0) for each in colours]),
            np.stack([np.cov(each.T, bias=True) for each in colours]),
        )

    (mean, covariance), (new_mean, new_covariance) = (
        moments(images),
        moments(prepared(f"whiten:space={space}", images)),
    )
    unit = {"yuv": 1 / 255, "lab": 100 / 255}[space]
    np.testing.assert_allclose(new_mean, np.broadcast_to(mean.mean(0), mean.shape), atol=0.3 * unit)
    wanted = covariance.mean(0)
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    # The floor of one grey level, rounding, and for lab some colours that cannot be shown.
    assert np.abs(new_covariance - wanted).max(0).max() < 0.05 * scale.max()
    assert (np.abs(new_covariance - wanted) / scale).max() < 0.2
    assert (np.abs(covariance - wanted) / scale).max() > 0.4


def test_yuv_is_that_of_bt_601() -> None:
    """Whitening by hand, with the matrix of the standard."""
    images = photos(divisor=3)
    to_yuv = np.array([[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]])
    colours = images.numpy().reshape(len(images), -1, 3) / 255 @ to_yuv.T
    means = colours.mean(1)
    covariances = np.stack([np.cov(each.T, bias=True) for each in colours])

    def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(values**exponent) @ vectors.T

    target = power(covariances.mean(0), 0.5)
    expected = [
        (each - mean) @ (target @ power(covariance + np.eye(3) / 255**2, -0.5)).T + means.mean(0)
        for each, mean, covariance in zip(colours, means, covariances, strict=True)
    ]
    rgb = np.clip(np.stack(expected) @ np.linalg.inv(to_yuv).T, 0, 1) * 255
    # OpenCV rounds the matrix's entries otherwise.
    assert np.abs(prepared("whiten", images).numpy() - rgb.reshape(images.shape)).max() < 1.5


@pytest.mark.parametrize(("mode", "side"), [("ring", 32), ("cell", 32), ("ring", 24), ("cell", 64)])
def test_spectra_get_the_mean_energies(mode: str, side: int) -> None:
    images = photos(6, side, divisor=3)
    new = prepared(f"spectrum-norm:mode={mode}", images)
    rows, columns = np.mgrid[:side, :side] * 32 / side
    if mode == "ring":
        band = np.digitize(np.hypot(rows, columns), [3, 7, 13])
    else:
        band = (rows // 3).astype(int) * 11 + (columns // 3).astype(int)

    def spectrum(some: Tensor) -> np.ndarray:
        return scipy.fft.dctn(some.numpy().astype(float), axes=(1, 2), norm="ortho")

    before, after = spectrum(images), spectrum(new)
    np.testing.assert_allclose(after[:, 0, 0], before[:, 0, 0], atol=0.3 * side)
    for spectra in (before, after):
        spectra[:, 0, 0] = 0
    for number in np.unique(band):
        inside = band == number
        energy, now = ((each[:, inside] ** 2).sum(1) for each in (before, after))
        # Rounding adds energy 1/12 to each coefficient, and twice its product with it: five deviations.
        noise = inside.sum() / 12
        wanted = energy.mean(0)
        assert (np.abs(now - wanted) < 3 * noise + 10 * np.sqrt(wanted / 12)).all()


def test_all_but_the_mean_is_in_a_band_and_flat_images_stay() -> None:
    band, members = bands(32, 32, "ring", 3, SpectrumNorm.rings)
    assert members.sum(1).tolist() == [0.0] + [1.0] * 1023
    assert band[0, 0] == 4
    assert torch.equal(members.reshape(32, 32, 4).argmax(2).flatten()[1:], band.flatten()[1:])
    assert [int(band[0, column]) for column in (1, 2, 3, 6, 7, 12, 13, 31)] == [0, 0, 1, 1, 2, 2, 3, 3]
    images = photos(4)
    images[2] = 50
    for mode in ("ring", "cell"):
        assert torch.equal(prepared(f"spectrum-norm:mode={mode}", images)[2], images[2])
    assert bands(8, 8, "cell", 3, ())[1].shape == (64, 63)


@pytest.mark.parametrize("name", [*IN_TESTS, *NOT_IN_TESTS])
def test_repeats_in_parts_as_in_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again with the same seed, and whatever number of images is held at a time."""
    images = photos(7, side=16)
    first, again = DEFENCES.create(name), DEFENCES.create(name)
    whole = prepared(first, images)
    monkeypatch.setattr("unlearnable_kernels.defences.image_changes._CHUNK", 2 * 16 * 16 * 3)
    # Sums in another order.
    assert (prepared(again, images).int() - whole.int()).abs().max() <= 1
    tested = images if name in NOT_IN_TESTS else whole
    assert (again.at_test(images).int() - tested.int()).abs().max() <= 1


def test_tests_can_be_compressed_too() -> None:
    images = photos(3)
    for name in ("jpeg", "bit-depth"):
        assert torch.equal(DEFENCES.create(f"{name}:test=true").at_test(images), prepared(name, images))


@pytest.mark.parametrize("name", ["channel-norm", "whiten", "spectrum-norm"])
def test_what_was_found_in_the_training_set_comes_back(name: str) -> None:
    images, other = photos(6), photos(3, divisor=2)
    trained, tested = DEFENCES.create(name), DEFENCES.create(name)
    prepared(trained, images)
    tested.restore(dict(trained.state()))
    assert torch.equal(tested.at_test(other), trained.at_test(other))
    with pytest.raises(KeyError):
        tested.restore({})


def test_a_run_is_tested_as_it_was_trained(data: Path, tmp_path: Path) -> None:
    """Several together, in the order given, two of them with what they found in the training set."""
    run = tmp_path / "run"
    names = ["grayscale", "channel-norm", "spectrum-norm:mode=cell", "ff", "jpeg"]
    config = config_for(data / "train", test=str(data / "test"), epochs=1, batch_size=24, defences=names)
    train(config, run)
    assert evaluate(run, data / "test")["loss"] == untimed_metrics(run)[-1]["test_loss"]
    assert {"defences.1.mean", "defences.1.deviation", "defences.2.energy"} <= tensors_of(run).keys()


REFUSED = {
    "jpeg:quality=0": "defence jpeg: quality must be 1 to 100, not 0",
    "bit-depth:bits=9": "defence bit-depth: bits must be 1 to 8, not 9",
    "ff:keep=0": "defence ff: keep must be above 0 and at most 1, not 0.0",
    "ff:when=after": "defence ff: when must be one of batch, before, not 'after'",
    "op:epochs=0": "defence op: epochs must be at least 1, not 0",
    "op:batch_size=0": "defence op: batch_size must be at least 1, not 0",
    "op:lr=0": "defence op: lr must be a finite number above 0, not 0.0",
    "whiten:space=hsv": "defence whiten: space must be one of yuv, lab, not 'hsv'",
    "spectrum-norm:mode=disc": "defence spectrum-norm: mode must be one of ring, cell, not 'disc'",
    "spectrum-norm:cell=0": "defence spectrum-norm: cell must be 1 to 32, not 0",
}


@pytest.mark.parametrize("text", REFUSED)
def test_settings_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        DEFENCES.create(text)
    assert str(error.value) == REFUSED[text]


def test_a_pixel_alone_has_no_spectrum() -> None:
    images = torch.randint(256, (3, 1, 1, 3), generator=torch.Generator().manual_seed(0)).byte()
    assert torch.equal(prepared("spectrum-norm", images), images)
