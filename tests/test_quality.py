"""How much protected images look like their originals: PSNR and SSIM, and of which images they are taken."""

import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import write_tree

from unlearnable_kernels.data import quality
from unlearnable_kernels.data.manifest import read_manifest
from unlearnable_kernels.data.quality import central, picture_quality, psnr, quality_text, ssim
from unlearnable_kernels.data.source import load_image
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect import sample_quality
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.pipeline import plan
from unlearnable_kernels.protect.run import protect_dataset

KEY = Key(bytes(range(32)))


def two_images() -> tuple[np.ndarray, np.ndarray]:
    """A picture of slopes, and the same darkened and tinted but for a strip."""
    y, x = np.mgrid[:24, :32]
    before = np.stack([8 * x, 10 * y, 5 * (x + y) % 256], -1).astype(np.uint8)
    after = (before // 2 + np.array([0, 20, 40])).astype(np.uint8)
    after[5:9] = before[5:9]
    return before, after


def test_known_images_have_scikit_images_values() -> None:
    """The figures are those of scikit-image 0.26, settings as ``ssim`` says."""
    before, after = two_images()
    assert ssim(before, after) == pytest.approx(0.6446872156290563, rel=1e-9)
    assert psnr(before, after) == pytest.approx(13.695153416564086, rel=1e-12)
    assert ssim(before, before) == pytest.approx(1)
    assert psnr(before, before) == math.inf


def test_images_smaller_than_the_window_have_no_ssim() -> None:
    before, after = two_images()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a mean over nothing
        assert math.isnan(ssim(before[:10], after[:10]))
    assert ssim(before[:11], after[:11]) < 1


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve images, and their copy of which half is protected, resized."""
    root = tmp_path_factory.mktemp("quality")
    write_tree(root / "clean" / "train", ["cat", "dog"], 6, seed=0)
    protect_dataset(root / "clean", root / "copy", secret=KEY, workers=0, fraction=0.5, resize=12)
    return root / "clean", root / "copy"


def test_protected_images_are_compared_with_their_originals(sets: tuple[Path, Path]) -> None:
    clean, copy = sets
    found = picture_quality(str(clean), copy)
    assert (found["images"], found["unchanged"]) == (6, 0)
    assert 0 < found["psnr"] < 30
    assert 0 < found["ssim"] < 1


def test_a_sample_is_taken_at_even_distances(
    sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, copy = sets
    seen = []
    monkeypatch.setattr(quality, "SAMPLE", 3)
    monkeypatch.setattr(quality, "SAMPLE_PIXELS", 0)
    monkeypatch.setattr(quality, "load_image", lambda _, sample, size: seen.append(sample.name) or ones())
    found = picture_quality(str(clean), copy)
    assert found == {"images": 3, "unchanged": 3, "psnr": None, "ssim": pytest.approx(1)}
    measured = seen[-6:]  # behind those whose size was looked at
    assert [name.partition("/")[0] for name in measured] == ["cat"] * 4 + ["dog"] * 2
    assert len(set(measured)) == 3  # the original's name is its copy's


def test_of_small_images_more_are_measured(sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "SAMPLE", 1)
    for pixels, images in ((12 * 12 * 4, 4), (12 * 12 * 100, 6), (1, 1)):
        monkeypatch.setattr(quality, "SAMPLE_PIXELS", pixels)
        assert picture_quality(str(sets[0]), sets[1])["images"] == images


def test_what_protect_measured_is_in_the_manifest(sets: tuple[Path, Path]) -> None:
    """The mean over the same six images, before they were written."""
    found, written = picture_quality(str(sets[0]), sets[1]), read_manifest(sets[1])["picture_quality"]
    assert written == {"images": 6, "psnr": round(found["psnr"], 2), "ssim": round(found["ssim"], 4)}
    told = quality_text(written)
    assert told == f"PSNR {found['psnr']:.1f} dB, SSIM {found['ssim']:.2f} (mean of 6 pictures)"


def test_what_a_lossy_format_loses_counts(sets: tuple[Path, Path], tmp_path: Path) -> None:
    protect_dataset(sets[0], tmp_path / "out", secret=KEY, workers=0, resize=12, format="jpeg:quality=20")
    found = picture_quality(str(sets[0]), tmp_path / "out")
    assert read_manifest(tmp_path / "out")["picture_quality"]["psnr"] == round(found["psnr"], 2)


def test_of_a_large_set_a_few_are_measured_and_none_that_was_skipped(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sets[0], tmp_path / "src")
    (tmp_path / "src" / "train" / "cat" / "bad.png").write_bytes(b"no image")
    monkeypatch.setattr(sample_quality, "FEW", 5)
    monkeypatch.setattr(sample_quality, "load_image", lambda *of: names.append(of[1].name) or load_image(*of))
    names: list[str] = []
    for dst, chunk in (("a", 256), ("b", 3)):
        monkeypatch.setattr(plan, "CHUNK_IMAGES", chunk)
        protect_dataset(tmp_path / "src", tmp_path / dst, secret=KEY, workers=0, on_error="skip")
    assert len(set(names[:5])) == 5
    assert names[5:] == names[:5]
    assert "cat/bad.png" not in names


def test_of_large_images_the_middle_is_compared() -> None:
    image = np.arange(700 * 600 * 3).reshape(700, 600, 3)
    assert central(image).shape == (512, 512, 3)
    assert central(image)[0, 0, 0] == image[94, 44, 0]
    assert central(image[:11, :9]).shape == (11, 9, 3)


@pytest.mark.parametrize("forged", [None, 3, {}, {"psnr": "x\n", "ssim": []}])
def test_a_forged_figure_is_not_told(forged: object) -> None:
    assert quality_text(forged) == ""


def ones() -> np.ndarray:
    return np.ones((12, 12, 3), np.uint8)


def test_of_another_set_there_is_nothing_to_compare(sets: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other" / "train" / "bird").mkdir(parents=True)
    Image.new("RGB", (12, 12)).save(tmp_path / "other" / "train" / "bird" / "x.png")
    with pytest.raises(UserError, match="none of its protected images has its original in"):
        picture_quality(str(tmp_path / "other"), sets[1])
