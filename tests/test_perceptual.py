"""What scripts/ measure of pictures: what people see, on which pictures, and strengths at equal SSIM."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import write_tree

from unlearnable_kernels.data.quality import picture_quality
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.recipes.papers import ROWS

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from perceptual import colour_difference, distance, on_a_grid
from picture_quality import protected_on_trial
from results_details import equal_page, pictures_page
from spectral_options import SHAPES, nearest, strengths

KEY = Key(bytes(range(32)))


def test_black_and_white_differ_by_a_hundred() -> None:
    pytest.importorskip("skimage", reason="needs scikit-image")
    before = np.zeros((100, 3), np.uint8)
    after = before.copy()
    after[:10] = 255
    assert colour_difference(before, after) == pytest.approx((10, 100), abs=1e-3)
    assert colour_difference(before, before) == (0, 0)


def test_of_large_pictures_colours_are_compared_on_a_grid() -> None:
    y, x = np.mgrid[:65, :200]
    assert on_a_grid(np.stack([x, y, y], -1)[:64, :64]).shape == (4096, 3)
    assert on_a_grid(np.stack([x, y, y], -1))[:51].tolist() == [[4 * n, 0, 0] for n in range(50)] + [
        [0, 4, 4]
    ]


def test_the_network_sees_small_pictures_enlarged_and_each_in_the_range_it_knows() -> None:
    shapes = []

    def network(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(one.shape))
        return (other - one).mean()

    black, white = np.zeros((32, 40, 3), np.uint8), np.full((32, 40, 3), 255, np.uint8)
    assert distance(black, white, network) == pytest.approx(2)
    assert distance(white, white, network) == 0
    distance(np.zeros((70, 64, 3), np.uint8), np.zeros((70, 64, 3), np.uint8), network)
    assert shapes == [(1, 3, 64, 80), (1, 3, 64, 80), (1, 3, 70, 64)]


def test_a_trial_has_the_pictures_that_protect_writes(tmp_path: Path) -> None:
    write_tree(tmp_path / "src" / "train", ["cat", "dog"], 3, seed=0)
    method = "spectral:parts=tone+contrast"
    protect_dataset(
        tmp_path / "src",
        tmp_path / "out",
        secret=KEY,
        workers=0,
        method=METHODS.create(method),
        dataset_name="x",
    )
    pairs = protected_on_trial(str(tmp_path / "src"), None, method, KEY, 48, dataset_name="x")
    found = picture_quality(tmp_path / "src", tmp_path / "out")
    errors = [np.mean((before.astype(float) - after) ** 2) for before, after in pairs]
    assert np.mean([10 * np.log10(255**2 / error) for error in errors]) == pytest.approx(found["psnr"])
    assert len(protected_on_trial(str(tmp_path / "src"), None, method, KEY, 4)) == 4


@pytest.mark.parametrize(("target", "best"), [(0.8, 63), (0.851, 55), (1.0, 1), (0.1, 100)])
def test_bisection_finds_the_strength_that_comes_nearest(target: float, best: int) -> None:
    asked = []
    assert nearest(target, lambda each: asked.append(each) or 1 - (each / 100) ** 2 / 2) == best
    assert len(set(asked)) <= 9


def test_at_sixty_hundredths_shapes_have_the_strengths_of_the_rows() -> None:
    measured = METHODS.create(ROWS["hardening/jpeg/opponent"].protection)
    for name, shape in SHAPES.items():
        found = METHODS.create(f"spectral:{shape},{strengths(shape, 60)}").strengths
        left_out = ["contrast"] * (name == "without contrast")
        assert found == measured.strengths | dict.fromkeys(left_out)


def test_the_page_has_what_people_see_and_strengths_at_equal_ssim() -> None:
    seen = {"psnr": 20.0, "ssim": 0.8, "delta_e": 5.0, "delta_e_95": 9.0, "st_lpips": 0.1}
    pictures = [
        {"dataset": "a", "method": "m", **seen},
        {"dataset": "a", "method": "m", **seen, "psnr": 22.0},
    ]
    pictures.append({"dataset": "b", "method": "m", **seen, "st_lpips": None})
    pictures.append({"dataset": "c", "method": "m", "psnr": 20.0, "ssim": 0.8})
    lines = pictures_page({"what": "x", "pictures": pictures, "restored": []})
    assert "| m | 21.0 dB, 0.80, 5.0 (9.0), 0.10 | 20.0 dB, 0.80, 5.0 (9.0) | 20.0 dB, 0.80 |" in lines
    equal = {"shape": "s", "target": 0.85, "strengths": "tone=0.04", "ssim": 0.8512, "psnr": 24.04}
    assert "| s | 0.85 | tone=0.04 | 0.851 | 24.0 |" in equal_page({"equal_ssim": [equal]})
