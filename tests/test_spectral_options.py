"""What spectral does when its options are set, and what restoring makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import photo
from test_protect_resume import KEY, contents, make_tree

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.manifest import read_manifest
from unlearnable_kernels.data.quality import psnr
from unlearnable_kernels.data.spectra import BANDS, Bands, spectral_weights
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.extend import extend_dataset
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.class_spectra import Variant, class_spectra
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.restore import restore_dataset
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.verify import verify_dataset
from unlearnable_kernels.report.contact_sheet import write_preview

STRONG = {"cells": 0.6, "colour": 0.6, "tone": 0.06}
AT_FIRST = {"parts": "cells+colour+tone", "cell": "3", "colours": "rgb", "erased": "0"}
OPTIONS = {
    "cell=2": {"cell": 2},
    "cell=1": {"cell": 1},
    "edges=keyed": {"edges": "keyed"},
    "edges=turned": {"edges": "turned"},
    "colours=opponent": {"colours": "opponent"},
    "secrets=3": {"secrets": 3},
    "parts=cells+contrast": {"contrast": 0.55, "large_contrast": 0.5},
    "parts=contrast,large_contrast=1": {"contrast": 0.55},
    "erased=0.1": {"erased": 0.1},
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "src", 8)


def protect(src: Path, dst: Path, settings: str) -> dict[str, bytes]:
    given = AT_FIRST | dict(each.split("=") for each in settings.split(",") if each)
    method = METHODS.create(f"spectral:{','.join(map('='.join, given.items()))}")
    protect_dataset(src, dst, secret=KEY, workers=0, method=method)
    return {name: data for name, data in contents(dst).items() if name != "manifest.json"}


@pytest.mark.parametrize("settings", OPTIONS)
def test_an_option_changes_the_pictures_and_stands_in_the_manifest(
    tree: Path, tmp_path: Path, settings: str
) -> None:
    usual, made = protect(tree, tmp_path / "usual", ""), protect(tree, tmp_path / "out", settings)
    assert made.keys() == usual.keys()
    assert made != usual
    parameters = read_manifest(tmp_path / "out")["parameters"]
    named = {"cell", "edges", "colours", "secrets", "contrast", "erased", "large_contrast"}
    assert {name: parameters[name] for name in named & parameters.keys()} == OPTIONS[settings]
    assert not named & read_manifest(tmp_path / "usual")["parameters"].keys()
    assert next(iter(OPTIONS[settings])) in METHODS["spectral"].heading(parameters)
    assert verify_dataset(tmp_path / "out", KEY).ok


def test_finer_cells_leave_the_mean_colour_and_the_mean_of_rings() -> None:
    for cell in (1, 2, 4):
        spectra = class_spectra(KEY, "zoo", ["cat", "dog"], STRONG, Variant(cell=cell))
        assert spectra.gains.shape == (2, *[-(-32 // cell)] * 2)
        assert (spectra.gains[:, 0, 0] == 1).all()
        rings = spectra.bands.rings_of_cells().numpy()
        for ring in range(4):
            np.testing.assert_allclose(spectra.gains[:, rings == ring].mean(1), 1, atol=1e-6)
    gains = torch.arange(256.0).view(1, 16, 16)
    bands = Bands.of_cells(2)
    weights = spectral_weights(gains, torch.zeros(1, 4, 1, 1), 64, 32, bands)[0, ..., 0, 0]
    # Down every cell has four rows, the last two of which pass into the next one; across two, hard edges.
    assert torch.equal(weights[::4], gains[0].repeat_interleave(2, 1))
    assert torch.equal(weights[3, ::2], (gains[0, 0] + gains[0, 1]) / 2)


def test_a_share_of_each_rings_cells_is_erased_and_the_others_keep_their_mean() -> None:
    spectra = class_spectra(KEY, "zoo", ["cat", "dog"], STRONG, Variant(cell=2, erased=0.1))
    rings = spectra.bands.rings_of_cells().numpy()
    rings[0, 0] = -1
    erased = spectra.gains == 0
    assert [erased[0][rings == ring].sum() for ring in range(4)] == [0, 1, 2, 22]
    assert (erased.sum((1, 2)) == 25).all()
    assert Variant(cell=2, erased=0.1).erased_cells == 25
    assert (erased[0] & erased[1]).sum() < 10
    for ring in range(1, 4):
        kept = spectra.gains[0][(rings == ring) & ~erased[0]]
        np.testing.assert_allclose(kept.mean(), 1, atol=1e-6)
    usual = class_spectra(KEY, "zoo", ["cat", "dog"], STRONG, Variant(cell=2))
    assert abs(np.corrcoef(spectra.gains[~erased], usual.gains[~erased])[0, 1]) < 0.2
    weights = spectra.weights(np.array([0]), 32, 32)[0]
    assert not weights[::2, ::2][erased[0]].any()


def test_cells_so_large_that_none_would_be_erased_are_not_said_to_be() -> None:
    assert METHODS.create("spectral:cell=16").variant.erased == 0
    assert METHODS.create("spectral:cell=4").variant.erased == 0.06


def test_keyed_edges_are_those_of_the_key_and_in_order() -> None:
    bands = [
        class_spectra(key, name, ["cat"], STRONG, Variant(edges="keyed")).bands
        for key, name in ((KEY, "zoo"), (KEY, "zoos"), (Key(bytes(32)), "zoo"))
    ]
    assert len({*bands, BANDS}) == 4
    for each in bands:
        assert each.rows[0] == each.columns[0] == 0
        assert each.rings[0] == 0.5
        for starts in (each.rows, each.columns):
            assert np.abs(np.array(starts) - BANDS.rows).max() <= 1
            assert np.diff(starts).min() >= 1
        assert np.abs(np.array(each.rings[1:]) / BANDS.rings[1:] - 1).max() <= 0.25
    assert bands[0] == class_spectra(KEY, "zoo", ["dog"], STRONG, Variant(edges="keyed")).bands


def test_turned_cells_are_turned_by_the_keys_angle_and_leave_the_mean_colour() -> None:
    spectra = [
        class_spectra(Key(bytes([number] * 32)), "zoo", ["cat"], STRONG, Variant(cell=2, edges="turned"))
        for number in range(20)
    ]
    angles = np.degrees([np.arctan2(each.bands.turn[1], each.bands.turn[0]) for each in spectra])
    assert 15 < angles.min() < 30
    assert 65 < angles.max() < 75
    for each in spectra:
        bands, weights = each.bands, each.weights(np.array([0]), 48, 32)[0]
        assert torch.equal(weights[0, 0], torch.eye(3))
        rings = bands.rings_of_cells().numpy()
        rings[bands.first] = -1
        assert rings.min() == -1
        for ring in np.unique(rings[rings >= 0]):
            np.testing.assert_allclose(each.gains[0][rings == ring].mean(), 1, atol=1e-6)


def test_gains_of_turned_cells_are_those_of_the_cells_that_coefficients_lie_in() -> None:
    bands = Bands.turned(4, 0.8, 0.6)
    assert bands.first == (0, 5)
    gains = torch.rand(1, len(bands.rows), len(bands.columns), generator=torch.Generator().manual_seed(0))
    weights = spectral_weights(gains, torch.zeros(1, 4, 1, 1), 32, 32, bands)[0, ..., 0, 0]
    hard = 0
    for p in range(32):
        for q in range(32):
            down, across = 0.8 * p + 0.6 * q, 0.8 * q - 0.6 * p + 20
            if max(down % 4, across % 4) < 2.9:
                hard += 1
                assert weights[p, q] == gains[0, int(down // 4), int(across // 4)]
    assert hard > 400
    i, j = 1, 6  # the passage from one cell to the next: half way in the middle of its last position
    down, across = 4 * i + 3.5, 4 * (j - 5) + 1
    p, q = (0.8 * down - 0.6 * across) * 8, (0.6 * down + 0.8 * across) * 8
    finer = spectral_weights(gains, torch.zeros(1, 4, 1, 1), 256, 256, bands)[0, ..., 0, 0]
    expected = (gains[0, i, j] + gains[0, i + 1, j]) / 2
    assert abs(finer[round(p), round(q)] - expected) < 0.15 * abs(gains[0, i, j] - gains[0, i + 1, j])


def test_opponent_mixings_leave_brightness_to_itself() -> None:
    names = [str(number) for number in range(100)]
    mixings = class_spectra(KEY, "zoo", names, STRONG, Variant(colours="opponent")).mixings
    np.testing.assert_allclose(np.linalg.norm(mixings, axis=(2, 3)), 0.6, rtol=1e-6)
    axes = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
    seen = axes @ mixings @ axes.T
    np.testing.assert_allclose(seen[..., 0, 0], 0, atol=1e-6)
    spread = np.sqrt((seen**2).mean((0, 1)))
    assert 0.4 < spread[1:, 0].mean() / spread[:, 1:].mean() < 0.6


def test_secrets_of_a_class_differ_and_the_key_chooses_among_them_by_name(tree: Path, tmp_path: Path) -> None:
    several = class_spectra(KEY, "zoo", ["cat", "dog"], STRONG, Variant(secrets=3))
    for each in (several.gains, several.mixings, several.curves):
        assert len(np.unique(each.reshape(6, -1), axis=0)) == 6
    alone = class_spectra(KEY, "zoo", ["dog"], STRONG, Variant(secrets=3))
    assert np.array_equal(several.mixings[3:], alone.mixings)
    picture = photo(12, 12, 0)
    for path in (tree / "train").rglob("*.png"):
        path.unlink()
    for number in range(12):
        Image.fromarray(picture).save(tree / "train" / "c0" / f"{number}.png")
    Image.fromarray(picture).save(tree / "train" / "c1" / "0.png")
    protect(tree, tmp_path / "out", "secrets=3")
    images = load_arrays(tmp_path / "out")
    assert len(images.images[images.labels == 0].unique(dim=0)) == 3
    with pytest.raises(UserError, match="cannot be extended"):
        extend_dataset(tree, tmp_path / "out", secret=KEY, workers=0)


def mean_psnr(before: Path, after: Path) -> float:
    pairs = zip(load_arrays(before).images.numpy(), load_arrays(after).images.numpy(), strict=True)
    return float(np.mean([psnr(one, other) for one, other in pairs]))


WITH_CONTRAST = "parts=cells+colour+tone+contrast,cell=2,colours=opponent,cells=0.6,contrast=0.6"
RESTORED = {"parts": "cell=2,edges=keyed,colours=opponent", "contrast": WITH_CONTRAST, "default": None}


@pytest.mark.parametrize("settings", RESTORED.values(), ids=RESTORED)
def test_restoring_undoes_most_of_it(tmp_path: Path, settings: str | None) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "src" / name).mkdir(parents=True)
        for number in range(3):
            picture = photo(32, 32, number) // 2 + 64
            Image.fromarray(picture).save(tmp_path / "src" / name / f"{number}.png")
    if settings is None:
        protect_dataset(tmp_path / "src", tmp_path / "out", secret=KEY, workers=0, method="spectral")
    else:
        protect(tmp_path / "src", tmp_path / "out", settings)
    restore_dataset(tmp_path / "out", tmp_path / "back", secret=KEY, workers=0)
    protected = mean_psnr(tmp_path / "src", tmp_path / "out")
    restored = mean_psnr(tmp_path / "src", tmp_path / "back")
    assert protected < 30
    assert restored > (protected + 3 if settings is None else 45)  # what is erased does not come back


def test_local_contrast_of_large_pictures_is_restored_as_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "src" / "cat").mkdir(parents=True)
    Image.fromarray(photo(224, 224, 1) // 2 + 64).save(tmp_path / "src" / "cat" / "0.png")
    method = METHODS.create("spectral:parts=contrast,contrast=0.6")
    protect_dataset(tmp_path / "src", tmp_path / "out", secret=KEY, workers=0, method=method)
    restore_dataset(tmp_path / "out", tmp_path / "back", secret=KEY, workers=0)
    assert mean_psnr(tmp_path / "src", tmp_path / "out") < 45
    assert mean_psnr(tmp_path / "src", tmp_path / "back") > 52


def test_several_secrets_cannot_be_restored(tree: Path, tmp_path: Path) -> None:
    protect(tree, tmp_path / "out", "secrets=2")
    with pytest.raises(UserError, match="several secrets a class cannot be undone yet"):
        restore_dataset(tmp_path / "out", tmp_path / "back", secret=KEY, workers=0)


def test_options_are_previewed(tree: Path, tmp_path: Path) -> None:
    method = METHODS.create("spectral:secrets=2,edges=keyed,parts=cells+contrast")
    write_preview(tree, tmp_path / "sheet.png", KEY, method=method)
    assert (tmp_path / "sheet.png").stat().st_size > 1000
