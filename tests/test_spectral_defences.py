"""What somebody builds who knows the family of ``spectral``: beside formulas of its own, and in a run."""

from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from sample_images import photo
from small_runs import config_for, data, one_thread, tensors_of, untimed_metrics
from torch import Tensor

from unlearnable_kernels.data.local_contrast import with_contrast
from unlearnable_kernels.data.spectra import rings_of_cells
from unlearnable_kernels.defences import DEFENCES, Batch
from unlearnable_kernels.defences.contrast_norm import NODES, matched
from unlearnable_kernels.defences.local_means import around
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.class_spectra import as_bytes, class_spectra
from unlearnable_kernels.protect.methods.spectral import SpectralMarks
from unlearnable_kernels.recipes.papers import ROWS
from unlearnable_kernels.training import evaluate, train

__all__ = ["data", "one_thread"]  # fixtures


def photos(count: int, height: int, width: int, divisor: int = 3) -> np.ndarray:
    """Around a middle grey, so that nothing is clipped."""
    stack = np.stack([photo(height, width, seed).astype(int) for seed in range(count)])
    return (128 + (stack - 128) // divisor).astype(np.uint8)


def prepared(text: str, images: np.ndarray) -> np.ndarray:
    stored = torch.from_numpy(images)
    new, _ = DEFENCES.create(text).prepare(stored, torch.zeros(len(images)).long(), torch.Generator())
    return new.numpy()


def covariances(images: np.ndarray, band: np.ndarray) -> np.ndarray:
    """[bands, N, 3, 3] over each band's coefficients but the mean; band is [H, W]."""
    spectra = scipy.fft.dctn(images.astype(float), axes=(1, 2), norm="ortho")
    spectra[:, 0, 0] = 0
    parts = [spectra[:, band == number] for number in np.unique(band)]
    return np.stack([np.einsum("npi,npj->nij", part, part) for part in parts])


@pytest.mark.parametrize(("mode", "size"), [("ring", (32, 32)), ("cell", (24, 40))])
def test_every_band_gets_the_mean_covariance_of_colours(mode: str, size: tuple[int, int]) -> None:
    images = photos(6, *size)
    rows, columns = (np.arange(length) * 32 / length for length in size)
    if mode == "ring":
        band = np.digitize(np.hypot(rows[:, None], columns), [2, 4, 7, 10, 13, 18])
    else:
        band = (rows[:, None] // 3) * 11 + columns // 3
    new = prepared(f"band-whiten:mode={mode}", images)
    before, after = covariances(images, band), covariances(new, band)
    coefficients = np.array([(band == number).sum() for number in np.unique(band)])
    wanted = before.mean(1)
    for found, aim, count in zip(after, wanted, coefficients, strict=True):
        # Rounding adds 1/12 to a square and, times the coefficients, about √(aim / 12) to a sum.
        assert np.abs(found - aim).max() < 3 * count / 12 + 10 * np.sqrt(
            np.trace(aim) / 12
        ) + 0.02 * np.trace(aim)
    apart = np.abs(before - wanted[:, None]).sum()
    assert np.abs(after - wanted[:, None]).sum() < 0.2 * apart
    np.testing.assert_allclose(new.mean((1, 2)), images.mean((1, 2)), atol=0.3)


def test_colours_that_a_class_mixed_in_the_rings_alike_come_out_alike() -> None:
    """Two classes' mixings of one picture differ; after whitening by ring they hardly do."""
    one = photos(8, 32, 32)
    mixed = []
    for key in (1, 2):
        strengths = {"cells": None, "colour": 0.6, "tone": None}
        marks = SpectralMarks(class_spectra(Key(bytes([key]) * 32), "zoo", ["cat"], strengths))
        mixed.append(np.empty_like(one))
        marks.apply(one, [0] * len(one), mixed[-1])

    def apart(first: np.ndarray, second: np.ndarray) -> float:
        def mean(some: np.ndarray) -> np.ndarray:
            rings = np.digitize(np.hypot(*np.mgrid[:32, :32]), [3, 7, 13])
            found = covariances(some, rings).mean(1)
            return found / np.trace(found, axis1=1, axis2=2)[:, None, None]

        return float(np.abs(mean(first) - mean(second)).max())

    assert apart(*mixed) > 0.1
    both = prepared("band-whiten", np.concatenate(mixed))
    assert apart(both[:8], both[8:]) < 0.3 * apart(*mixed)


@pytest.mark.parametrize("name", ["band-whiten", "contrast-norm"])
def test_what_was_measured_in_training_comes_back(name: str) -> None:
    images, other = photos(6, 16, 16), torch.from_numpy(photos(3, 16, 16, divisor=2))
    trained, tested = DEFENCES.create(name), DEFENCES.create(name)
    trained.prepare(torch.from_numpy(images), torch.zeros(6).long(), torch.Generator())
    tested.restore(dict(trained.state()))
    assert torch.equal(tested.at_test(other), trained.at_test(other))
    assert not torch.equal(tested.at_test(other), other)
    dot = torch.full((2, 1, 1, 3), 9, dtype=torch.uint8)
    assert torch.equal(tested.at_test(dot), dot)


def batch(images: Tensor, count: int | None = None, part: slice | None = None) -> Batch:
    labels = torch.zeros(len(images)).long()
    whole = slice(0, len(images))
    generator = torch.Generator().manual_seed(3)
    return Batch(images, labels, count or len(images), part or whole, generator, "fp32", 2)


def floats(count: int, side: int) -> Tensor:
    stored = torch.from_numpy(photos(count, side, side))
    return (stored.permute(0, 3, 1, 2) / 255).contiguous(memory_format=torch.channels_last)


def test_every_image_gets_its_own_member_whatever_processes_share_the_batch() -> None:
    images = floats(1, 16).expand(6, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    defence = DEFENCES.create("random-spectral")
    whole = defence.augment(batch(images)).images
    assert whole.is_contiguous(memory_format=torch.channels_last)
    assert (whole.dtype, whole.shape) == (torch.float32, images.shape)
    assert 0 <= whole.min() <= whole.max() <= 1
    assert min((whole[a] - whole[b]).abs().mean() for a in range(6) for b in range(a)) > 0.01
    part = defence.augment(batch(images[2:4], 6, slice(2, 4))).images
    torch.testing.assert_close(part, whole[2:4])


def test_random_gains_leave_the_mean_and_the_rings_energy_on_average() -> None:
    images = floats(1, 32).expand(60, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    new = DEFENCES.create("random-spectral:colour=0,tone=0").augment(batch(images)).images.numpy()
    np.testing.assert_allclose(new.mean((2, 3)), images.mean((2, 3)), atol=1e-4)
    before, after = (scipy.fft.dctn(each, axes=(2, 3), norm="ortho") for each in (images.numpy(), new))
    gains = after / np.where(np.abs(before) > 0.01, before, np.nan)
    cells = rings_of_cells().numpy().repeat(3, 0).repeat(3, 1)[:32, :32]
    for ring in (1, 2, 3):
        some = gains[:, 0, cells == ring]
        assert abs(np.nanmean(some) - 1) < 0.05
        # 0.6 / √3, a little less where there are few cells.
        assert 0.26 < np.nanstd(some) < 0.37
    np.testing.assert_allclose(gains[:, :, 1, 1], 1, atol=1e-2)


def test_random_mixings_and_curves_are_as_strong_as_their_settings() -> None:
    flat = torch.full((50, 3, 8, 8), 0.5).contiguous(memory_format=torch.channels_last)
    toned = DEFENCES.create("random-spectral:cells=0,colour=0,tone=0.1").augment(batch(flat)).images
    white = DEFENCES.create("random-spectral").augment(batch(torch.ones_like(flat))).images
    assert white.min() < 0.99
    assert white.max() == 1
    moved = (toned - 0.5).amax((2, 3))
    assert 0.03 < moved.abs().max() <= 0.1 + 1e-6
    assert moved.std() > 0.02
    grey = floats(1, 32).mean(1, keepdim=True).expand(50, 3, -1, -1)
    grey = grey.contiguous(memory_format=torch.channels_last)
    mixed = DEFENCES.create("random-spectral:cells=0,tone=0").augment(batch(grey)).images
    torch.testing.assert_close(mixed.mean((2, 3)), grey.mean((2, 3)), atol=1e-4, rtol=0)
    assert (mixed - mixed.mean(1, keepdim=True)).std() > 0.01


def test_differences_get_the_wanted_distribution_in_their_order_and_equal_ones_stay_equal() -> None:
    differences = torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    differences[0, 0, :12] = 0  # 360 of 600, about as many below as above
    wanted = torch.linspace(-2, 3, NODES).pow(3).expand(3, -1)
    found = matched(differences, wanted)
    drawn = found.flatten(2)
    for row in [(0, 1), (0, 2), (1, 0)]:
        assert torch.equal(drawn[row].argsort(), differences.flatten(2)[row].argsort())
        torch.testing.assert_close(
            drawn[row].quantile(torch.linspace(0, 1, NODES)), wanted[0], atol=0.15, rtol=0
        )
    [equal] = found[0, 0, :12].unique().tolist()
    below = (differences[0, 0] < 0).sum().item()
    assert equal == pytest.approx((-2 + 5 * (below + 180) / 600) ** 3, abs=0.02)


def test_flat_areas_stay_flat() -> None:
    images = photos(8, 32, 32, 1)
    images[0] = 128
    images[1, :, :16], images[1, :, 16:] = 60, 200
    new = prepared("contrast-norm", images)
    assert np.ptp(new[0], axis=(0, 1)).max() == 0
    for part in (new[1, :, :10], new[1, :, 22:]):
        assert np.ptp(part, axis=(0, 1)).max() == 0


def test_surroundings_are_those_of_local_contrast_as_far_as_they_lie_in_the_image() -> None:
    planes = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    for scale, reach in enumerate((1, 3)):
        means = around(planes, scale)
        inner = planes[0, 2, 9 - reach : 10 + reach, 20 - reach : 21 + reach].mean()
        corner = planes[0, 1, : reach + 1, -reach - 1 :].mean()
        torch.testing.assert_close(means[0, [2, 1], [9, 0], [20, 47]], torch.stack([inner, corner]))


def test_contrast_that_classes_bent_their_own_way_comes_out_nearly_alike() -> None:
    one, bent = photos(8, 32, 32, 2), []
    for factors in ([[0.2, 0.1], [0.2, 0.1]], [[-0.2, 0.1], [-0.2, 0.1]]):
        given = np.broadcast_to(np.float32(factors), (8, 2, 2))
        bent.append(as_bytes(with_contrast(one, given)))

    def apart(first: np.ndarray, second: np.ndarray) -> float:
        return float(np.abs(first.astype(float) - second).mean())

    both = prepared("contrast-norm", np.concatenate(bent))
    assert apart(both[:8], both[8:]) < 0.5 * apart(*bent)


def test_random_contrast_is_that_of_spectral_with_factors_of_each_images_own() -> None:
    images = floats(1, 32).expand(50, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    text = "random-spectral:cells=0,colour=0,tone=0,contrast=0.4"
    new = DEFENCES.create(text).augment(batch(images)).images.permute(0, 2, 3, 1).numpy()
    stored = (images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    units = np.eye(4, dtype=np.float32).reshape(4, 1, 2, 2)
    plain = stored[:1] / 255
    terms = np.stack([(with_contrast(stored[:1], unit) - plain)[0].ravel() for unit in units], 1)
    inside = ((new > 0) & (new < 1)).all(0).ravel()
    added = (new - plain).reshape(50, -1)
    factors, left, *_ = np.linalg.lstsq(terms[inside], added[:, inside].T, rcond=None)
    np.testing.assert_allclose(np.abs(factors).sum(0), 0.4, rtol=1e-3)
    assert np.sqrt(left.max() / inside.sum()) < 1e-5
    assert (factors.std(1) > 0.05).all()


def test_so_many_random_cells_are_erased_but_not_the_first() -> None:
    images = floats(1, 32).expand(60, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    new = DEFENCES.create("random-spectral:cells=0,colour=0,tone=0,erased=0.3").augment(batch(images)).images
    spectra = scipy.fft.dctn(new.numpy(), axes=(2, 3), norm="ortho")[:, 0]
    before = scipy.fft.dctn(images[0, 0].numpy(), norm="ortho")
    corners = np.abs(before[::3, ::3]) > 0.05
    gone = np.abs(spectra[:, ::3, ::3] / before[::3, ::3]) < 0.5
    assert 0.25 < gone[:, corners].mean() < 0.35
    np.testing.assert_allclose(spectra[:, :3, :3], np.broadcast_to(before[:3, :3], (60, 3, 3)), atol=1e-3)


REFUSED = {
    "band-whiten:mode=disc": "defence band-whiten: mode must be one of ring, cell, not 'disc'",
    "band-whiten:cell=33": "defence band-whiten: cell must be 1 to 32, not 33",
    "random-spectral:tone=2": "defence random-spectral: tone must be at least 0 and at most 1, not 2.0",
    "random-spectral:cells=0,colour=0,tone=0": (
        "defence random-spectral: one of cells, colour, tone, contrast, erased must be above 0, "
        "not all of them 0"
    ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_settings_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        DEFENCES.create(text)
    assert str(error.value) == REFUSED[text]


def test_the_composed_rows_defences_train_and_are_tested_alike(data: Path, tmp_path: Path) -> None:
    composed = ROWS["worst-defence/colour-cells-histeq/strong"].defences
    assert composed == ("band-whiten", "spectrum-norm:mode=cell", "histeq")
    changes = {"epochs": 1, "batch_size": 24, "defences": [*composed, "random-spectral"]}
    train(config_for(data / "train", test=str(data / "test"), **changes), tmp_path / "run")
    loss = untimed_metrics(tmp_path / "run")[-1]["test_loss"]
    assert evaluate(tmp_path / "run", data / "test")["loss"] == loss
    assert {"defences.0.covariance", "defences.1.energy"} <= tensors_of(tmp_path / "run").keys()


def test_rows_share_the_trainings_of_the_small_grid() -> None:
    for defence in ("plain", "coin", "at-linf"):
        mine, other = (ROWS[f"{paper}/{defence}/none"] for paper in ("worst-defence", "small-grid"))
        for name in ("dataset", "protection", "network", "defences", "training"):
            assert getattr(mine, name) == getattr(other, name)


def test_whitening_keeps_images_of_nearly_one_colour() -> None:
    random = np.random.default_rng(0)
    bright = random.integers(0, 2, (16, 4, 4, 1)).repeat(16, 1).repeat(16, 2) * 255
    images = (bright * [1.0, 0.98, 0.3]).astype(np.uint8)
    for image in prepared("band-whiten", images):
        assert image.any()
