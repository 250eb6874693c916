"""The method on a GPU: images, networks and state live there; the promises are those of the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_bayes_error_method import Killed, differences, protect, short_loops

from unlearnable_kernels.data.digits import write_digits
from unlearnable_kernels.device import pick_device

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures(short_loops.__name__)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("source") / "digits")


@pytest.mark.parametrize("method", ["bayes-error", "beo-aaai2026"])
def test_budget_repetition_and_resumption(digits: Path, tmp_path: Path, method: str) -> None:
    assert pick_device().type == "cuda"
    whole = protect(digits, tmp_path / "whole", method=method, fraction=0.5)
    levels = differences(digits, tmp_path / "whole")
    assert 1 <= np.abs(levels).max() <= 8
    assert protect(digits, tmp_path / "again", method=method, fraction=0.5) == whole

    def progress(what: str, done: int, total: int) -> None:
        if what == "ascending" and done > total // 2:
            raise Killed

    with pytest.raises(Killed):
        protect(digits, tmp_path / "killed", method=method, fraction=0.5, progress=progress)
    assert protect(digits, tmp_path / "killed", method=method, fraction=0.5) == whole


def test_the_generators_are_left_alone(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "src" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    torch.manual_seed(7)
    expected = torch.rand(3, device="cuda")
    torch.manual_seed(7)
    protect(tmp_path / "src", tmp_path / "out", steps=1)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
