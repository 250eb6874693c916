"""Sign noise within a budget: which bytes it gives, and on what they depend."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from small_runs import write_tree

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset

KEY = Key(bytes(range(32)))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "zoo", ["cat", "dog"], 4, seed=0, side=9)


def changes(tree: Path, out: Path, key: Key = KEY, fraction: float = 1.0, eps: float = 8 / 255) -> np.ndarray:
    """int [N, H, W, 3]."""
    protect_dataset(tree, out, secret=key, method="random-noise", fraction=fraction, eps=eps, workers=0)
    before, after = load_arrays(tree), load_arrays(out)
    return after.images.numpy().astype(int) - before.images.numpy()


def test_every_number_changes_by_the_budget_along_the_bits_of_a_hash(tree: Path, tmp_path: Path) -> None:
    found = changes(tree, tmp_path / "out", eps=5.5 / 255)
    before = load_arrays(tree)
    for name, image, change in zip(before.names, before.images.numpy(), found, strict=True):
        number = int.from_bytes(KEY.derive("random-noise", "zoo", name, length=8), "big") // 2
        stream = hashlib.shake_256(number.to_bytes(8, "big")).digest(image.size // 8 + 1)
        bits = [(stream[place // 8] >> (7 - place % 8)) & 1 for place in range(image.size)]
        wanted = np.array([5 if bit else -5 for bit in bits]).reshape(image.shape)
        assert np.array_equal(change, np.clip(image + wanted, 0, 255) - image)
    assert (found == 0).mean() < 0.02


def test_images_and_keys_have_noise_of_their_own(tree: Path, tmp_path: Path) -> None:
    first = changes(tree, tmp_path / "first")
    other = changes(tree, tmp_path / "other", Key(bytes(32)))
    assert 0.4 < (np.sign(first) == np.sign(other)).mean() < 0.6
    assert 0.4 < (np.sign(first[1:]) == np.sign(first[:-1])).mean() < 0.6


def test_only_the_chosen_part_changes(tree: Path, tmp_path: Path) -> None:
    assert changes(tree, tmp_path / "out", fraction=0.5).any(axis=(1, 2, 3)).sum() == 4


def test_what_it_cannot_take_is_named(tree: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"eps": 0.5 / 255}, "eps must be a finite number of at least 1/255"),
        ({"format": "jpeg"}, "webdataset, webp with random-noise, not 'jpeg'"),
    ):
        with pytest.raises(UserError, match=message):
            protect_dataset(tree, tmp_path / "out", secret=KEY, method="random-noise", **options)
