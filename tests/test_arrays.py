"""Loading a split into one array: content, order, sizes, the first of each class, the form on disk."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unlearnable_kernels.data import arrays
from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset


def write_image(path: Path, seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes of 70 images in train, so that more than one worker has something to do; three in test."""
    for index in range(70):
        write_image(tmp_path / "set" / "train" / "ant" / f"{index:03d}.png", index)
        write_image(tmp_path / "set" / "train" / "bee" / f"{index:03d}.png", 100 + index)
    for index in range(3):
        write_image(tmp_path / "set" / "test" / "bee" / f"{index:03d}.png", 200 + index)
    return tmp_path / "set"


def test_images_labels_and_names_belong_together(tree: Path) -> None:
    data = load_arrays(tree, "train")
    assert data.images.dtype == torch.uint8
    assert data.labels.dtype == torch.int64
    assert data.images.shape == (140, 8, 8, 3)
    assert data.classes == ["ant", "bee"]
    assert data.labels.tolist() == [0] * 70 + [1] * 70
    assert data.names[0] == "ant/000.png"
    assert data.names[139] == "bee/069.png"
    for row in (0, 63, 64, 139):
        with Image.open(tree / "train" / data.names[row]) as file:
            assert np.array_equal(data.images[row].numpy(), np.asarray(file))
    assert data.manifest is None
    assert len(load_arrays(tree, "test")) == 3


def test_the_first_of_each_class(tree: Path) -> None:
    data = load_arrays(tree, "train", limit_per_class=2)
    assert data.names == ["ant/000.png", "ant/001.png", "bee/000.png", "bee/001.png"]
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert len(load_arrays(tree, "train", limit_per_class=1000)) == 140


def test_progress_ends_at_the_end(tree: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    load_arrays(tree, "train", progress=lambda *event: seen.append(event))
    assert seen == [("reading the train set", done, 140) for done in (64, 128, 140)]


def test_mixed_sizes_need_an_image_size(tree: Path) -> None:
    write_image(tree / "train" / "bee" / "999.png", 0, height=12, width=10)
    with pytest.raises(UserError, match=r"bee/999.png has 10x12 px and ant/000.png 8x8 px: give"):
        load_arrays(tree, "train")
    assert load_arrays(tree, "train", image_size=6).images.shape == (141, 6, 6, 3)


def test_a_damaged_image_is_named(tree: Path) -> None:
    path = tree / "train" / "bee" / "005.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"bee/005\.png"):
        load_arrays(tree, "train")


def test_large_sets_go_to_disk(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_arrays(tree, "train")
    monkeypatch.setattr(arrays, "_available_memory", lambda: 1000)
    mapped: list[np.ndarray] = []

    def spy(*arguments: Any, memmap: Any = np.memmap, **options: Any) -> np.ndarray:
        mapped.append(memmap(*arguments, **options))
        return mapped[-1]

    monkeypatch.setattr(arrays.np, "memmap", spy)
    spilt = load_arrays(tree, "train")
    assert [array.nbytes for array in mapped] == [140 * 8 * 8 * 3]
    assert np.array_equal(mapped[0], expected.images)
    assert spilt.digest() == expected.digest()
    assert [path.name for path in tmp_path.iterdir()] == ["set"], "the file should have no name"


def test_a_full_disk_is_told(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrays, "_available_memory", lambda: 1000)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="no room for them"):
        load_arrays(tree, "train")


def test_the_digest_sees_every_part(tree: Path) -> None:
    data = load_arrays(tree, "train")
    before = data.digest()
    assert load_arrays(tree, "train").digest() == before
    data.images[70, 3, 3, 1] ^= 1
    changed = data.digest()
    data.labels[0] = 1
    assert len({before, changed, data.digest()}) == 3
    (tree / "train" / "bee").rename(tree / "train" / "cow")
    assert load_arrays(tree, "train").digest() != before


def test_relabelled_follows_the_names(tree: Path) -> None:
    data = load_arrays(tree, "test")
    assert data.labels.tolist() == [0, 0, 0]
    assert data.relabelled(["ant", "bee"], "test").labels.tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="mine has the class 'bee'"):
        data.relabelled(["ant", "wasp"], "mine")


@pytest.mark.parametrize("format", ["png", "npz"])
def test_the_manifest_comes_along(tree: Path, tmp_path: Path, format: str) -> None:
    key = Key(bytes(range(32)))
    out = tmp_path / "protected"
    protect_dataset(tree, out, secret=key, workers=0, format=format)
    data = load_arrays(out, "train")
    assert data.names == load_arrays(tree, "train").names
    protection = data.protection()
    assert protection is not None
    assert protection["method"] == "classwise-conv"
    assert protection["key"]["fingerprint"] == key.fingerprint
    assert "files" not in protection
    within = out / ("train" if format == "png" else "train.npz")
    assert load_arrays(within, "train").protection() == protection
    assert load_arrays(tree, "train").protection() is None
