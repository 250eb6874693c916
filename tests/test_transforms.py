"""Protection on the fly: the bytes that protect writes, for batches, single images and loaders."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import photo
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from unlearnable_kernels.data.arrays import LabelledImages, load_arrays
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key, Secret, Seed
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.transforms import ClasswiseConv

KEY = Key(bytes(range(32)))
CLASSES = ["ant", "bee", "cow"]
pytestmark = pytest.mark.filterwarnings("ignore:an integer seed")


def clean_set(root: Path, side: int = 16) -> LabelledImages:
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(photo(side, side + 3, 10 * label + number)).save(root / name / f"{number}.png")
    return load_arrays(root)


@pytest.mark.parametrize("format", ["png", "npz"])
@pytest.mark.parametrize(
    ("side", "secret", "settings"),
    [
        (16, "key", {}),
        (66, "key", {}),
        (16, "seed", {}),
        (16, "key", {"kernel_size": 5, "strength": 0.1, "padding": "circular"}),
        (16, "seed", {"filters": "vertical"}),
    ],
)
def test_the_bytes_that_protect_writes(
    format: str, side: int, secret: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    clean = clean_set(tmp_path / "zoo", side)
    its: Secret = KEY if secret == "key" else Seed(3)
    protect_dataset(tmp_path / "zoo", tmp_path / "out", secret=its, format=format, workers=0, **settings)
    expected = load_arrays(tmp_path / "out")
    assert not torch.equal(expected.images, clean.images)
    protect = ClasswiseConv(its, "zoo", CLASSES, size=side, **settings)
    channels_last = clean.images.permute(0, 3, 1, 2)
    for images in (channels_last, channels_last.contiguous()):
        got, labels = protect(images, clean.labels)
        assert torch.equal(got.permute(0, 2, 3, 1), expected.images)
        assert labels is clean.labels
    for row in (0, 4, 8):
        label = int(clean.labels[row])
        picture, same = protect(Image.fromarray(clean.images[row].numpy()), label)
        assert np.array_equal(np.asarray(picture), expected.images[row].numpy())
        assert same == label
        single, _ = protect(channels_last[row], clean.labels[row])
        assert torch.equal(single.permute(1, 2, 0), expected.images[row])


def test_a_known_name_needs_no_size(tmp_path: Path) -> None:
    clean = clean_set(tmp_path / "zoo")
    protect_dataset(
        tmp_path / "zoo", tmp_path / "out", secret=KEY, workers=0, dataset_name="tiny-imagenet-200"
    )
    got, _ = ClasswiseConv(KEY, "tiny-imagenet-200", CLASSES)(clean.images.permute(0, 3, 1, 2), clean.labels)
    assert torch.equal(got.permute(0, 2, 3, 1), load_arrays(tmp_path / "out").images)


def test_it_travels_without_the_key(tmp_path: Path) -> None:
    clean = clean_set(tmp_path / "zoo")
    protect = ClasswiseConv(KEY, "zoo", 3, size=16)
    data = pickle.dumps(protect)
    assert KEY.material not in data
    assert repr(protect) == "ClasswiseConv(classes=3, kernel_size=3, padding='reflect')"
    images = clean.images.permute(0, 3, 1, 2)
    assert torch.equal(pickle.loads(data)(images, clean.labels)[0], protect(images, clean.labels)[0])


def test_in_loaders_and_compositions(tmp_path: Path) -> None:
    clean = clean_set(tmp_path / "zoo")
    images = clean.images.permute(0, 3, 1, 2).contiguous()
    protect = ClasswiseConv(KEY, "zoo", 3, size=16)
    expected, _ = protect(images, clean.labels)
    loader = DataLoader(TensorDataset(images, clean.labels), 4, collate_fn=protect.collate, num_workers=1)
    got, labels = map(torch.cat, zip(*loader, strict=True))
    assert torch.equal(got, expected)
    assert torch.equal(labels, clean.labels)
    steps = v2.Compose([protect, v2.ToDtype(torch.float32, scale=True)])
    floats, labels = steps(images, clean.labels)
    torch.testing.assert_close(floats, expected / 255)
    assert torch.equal(labels, clean.labels)


def test_a_label_of_minus_one_leaves_an_image_as_it_is(tmp_path: Path) -> None:
    clean = clean_set(tmp_path / "zoo")
    images = clean.images.permute(0, 3, 1, 2)
    labels = clean.labels.clone()
    labels[::2] = -1
    protect = ClasswiseConv(KEY, "zoo", 3, size=16)
    got, all_protected = protect(images, labels)[0], protect(images, clean.labels)[0]
    assert torch.equal(got[::2], images[::2])
    assert torch.equal(got[1::2], all_protected[1::2])


def test_what_it_refuses() -> None:
    protect = ClasswiseConv(KEY, "zoo", 3, size=16)
    with pytest.raises(
        UserError, match=r"images must be uint8 .*, not torch.float32 \[2, 3, 4, 4\]: protect"
    ):
        protect(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UserError, match="PIL images of mode RGB or L, not RGBA"):
        protect(Image.new("RGBA", (4, 4)), 0)
    with pytest.raises(UserError, match="PIL images of mode RGB or L, not ndarray"):
        protect(np.zeros((4, 4, 3), np.uint8), 0)
    with pytest.raises(RuntimeError, match="labels"):
        protect(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.tensor([3]))
    with pytest.raises(UserError, match=r"size must be given.*'zoo' is not one of cifar10"):
        ClasswiseConv(KEY, "zoo", 3)
    with pytest.raises(UserError, match="padding must be one of"):
        ClasswiseConv(KEY, "zoo", 3, size=16, padding="mirror")
    with pytest.raises(UserError, match="irp filters are fitted to the images of a dataset"):
        ClasswiseConv(KEY, "zoo", 3, size=16, filters="irp")
    with pytest.raises(UserError, match="kernel size must be an odd number"):
        ClasswiseConv(KEY, "zoo", 3, size=16, kernel_size=4)
    with pytest.raises(UserError, match="at least one class"):
        ClasswiseConv(KEY, "zoo", [], size=16)


def test_a_secret_is_no_path_and_labels_are_whole() -> None:
    with pytest.raises(UserError, match="secret must be a Key or a Seed"):
        ClasswiseConv("my.key", "cifar10", 10)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="classes must be their number or a list"):
        ClasswiseConv(Key(bytes(32)), "cifar10", "abc")
    protect = ClasswiseConv(Key(bytes(32)), "cifar10", 10)
    with pytest.raises(UserError, match=r"labels must be whole numbers, not torch\.float32"):
        protect(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0.0, 1.5]))


def test_images_of_another_size_than_was_said_are_told() -> None:
    protect = ClasswiseConv(KEY, "zoo", 3, size=32)
    with pytest.warns(UserWarning, match="shorter side 64, but the filters were chosen for 32"):
        protect(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
