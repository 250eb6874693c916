"""The digits' tree: sizes, values, a split that is disjoint and stable, and no damage to other folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlearnable_kernels.data.digits import write_digits
from unlearnable_kernels.errors import UserError

sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("data") / "digits")


def test_every_image_is_there_once_and_under_its_label(tree: Path) -> None:
    digits = sklearn_datasets.load_digits()
    files = sorted(tree.glob("*/*/*.png"), key=lambda path: path.stem)
    assert [int(path.stem) for path in files] == list(range(len(digits.target)))
    assert [int(path.parent.name) for path in files] == digits.target.tolist()


def test_the_split_is_stratified(tree: Path) -> None:
    for label in range(10):
        train = len(list(tree.glob(f"train/{label}/*.png")))
        test = len(list(tree.glob(f"test/{label}/*.png")))
        assert 0.19 < test / (train + test) < 0.21


def test_each_pixel_is_repeated_and_scaled(tree: Path) -> None:
    digits = sklearn_datasets.load_digits()
    for path in list(tree.glob("*/*/*.png"))[::100]:
        with Image.open(path) as file:
            image = np.asarray(file)
        assert image.shape == (32, 32, 3)
        assert image.dtype == np.uint8
        small = digits.images[int(path.stem)]
        for row, column in np.ndindex(8, 8):
            block = image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert (block == round(small[row, column] * 255 / 16)).all()


def test_a_second_call_changes_nothing(tree: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    assert write_digits(tree) == tree
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before
    assert [path.name for path in tree.parent.iterdir()] == [tree.name]


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="something else"):
        write_digits(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
