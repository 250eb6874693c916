"""Every data set from its official form and from each that protect writes; the torch Dataset over them."""

import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import photo
from test_cifar import CLASSES, batch, python2, write
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.formats.cifar import CIFAR10, CIFAR100, CifarFormat
from unlearnable_kernels.data.originals import match_originals
from unlearnable_kernels.datasets import Protected
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.training.detection import edge_features
from unlearnable_kernels.transforms import ClasswiseConv

KEY = Key(bytes(range(32)))


def save(path: Path, seed: int, side: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(side, side, seed)).save(path)


def folder(root: Path) -> Path:
    for label, name in enumerate(("ant", "bee", "cow")):
        for number in range(4):
            save(root / "train" / name / f"{number}.png", 10 * label + number)
        save(root / "test" / name / "0.png", 100 + label)
    return root


def tiny_imagenet(root: Path) -> Path:
    wnids = [f"n0000000{number}" for number in range(3)]
    for label, wnid in enumerate(wnids):
        for number in range(3):
            save(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", 10 * label + number)
        save(root / "val" / "images" / f"val_{label}.JPEG", 100 + label)
    lines = [f"val_{label}.JPEG\t{wnid}\t0\t0\t1\t1\n" for label, wnid in enumerate(wnids)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(wnids)))
    return root


def imagenet100(root: Path) -> Path:
    for number in range(101):
        for split in ("train", "val"):
            save(root / split / f"n{10**7 + number}" / "0.JPEG", number, side=8)
    return Path(f"imagenet100:{root}")


def cifar(form: CifarFormat, root: Path) -> Path:
    """The official files with images of every class."""
    classes = len(CLASSES[form.dataset])
    changed = {}
    for seed, name in enumerate(form.train + form.test):
        labels = [(seed + 3 * index) % classes for index in range(classes)]
        coarse = {b"coarse_labels": [0] * classes} if form is CIFAR100 else {}
        changed[name] = python2(batch(form, classes, seed) | {form.labels_key: labels} | coarse)
    return write(form, root, **changed)


OFFICIAL: dict[str, Callable[[Path], Path]] = {
    "folder": folder,
    "cifar10": partial(cifar, CIFAR10),
    "cifar100": partial(cifar, CIFAR100),
    "tiny-imagenet-200": tiny_imagenet,
    "imagenet-100": imagenet100,
}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("official")
    return {name: make(root / name) for name, make in OFFICIAL.items()}


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "npz"])
@pytest.mark.parametrize("name", OFFICIAL)
def test_every_set_in_every_form(name: str, format: str, official: dict[str, Path], tmp_path: Path) -> None:
    src, out = official[name], tmp_path / name
    protect_dataset(src, out, secret=KEY, format=format, workers=0)
    before, after = load_arrays(src, "train"), load_arrays(out, "train")
    assert after.classes == before.classes
    rows = torch.tensor(match_originals(after.names, before.names))  # a folder is ordered by its classes
    assert sorted(rows.tolist()) == list(range(len(before)))
    assert torch.equal(after.labels, before.labels[rows])
    assert after.protected_flags() == [True] * len(before)
    protect = ClasswiseConv(KEY, name, before.classes, size=16)
    expected = protect(before.images[rows].permute(0, 3, 1, 2), after.labels)[0].permute(0, 2, 3, 1)
    if format == "jpeg":
        assert (after.images.float() - expected).abs().mean() < 8
    else:
        assert torch.equal(after.images, expected)
    data = Protected(out, verify=True)
    assert (data.classes, data.targets) == (after.classes, after.labels.tolist())
    assert np.array_equal(np.asarray(data[1][0]), after.images[1].numpy())
    test = load_arrays(src, "test").relabelled(after.classes, "test")
    assert set(test.labels.tolist()) == set(after.labels.tolist())


def test_cifar100_has_its_fine_labels(official: dict[str, Path]) -> None:
    batch = pickle.loads((official["cifar100"] / "train").read_bytes(), encoding="bytes")
    assert batch[b"coarse_labels"] == [0] * 100
    assert load_arrays(official["cifar100"], "train").labels.tolist() == batch[b"fine_labels"]


@pytest.fixture
def protected(tmp_path: Path) -> Path:
    protect_dataset(folder(tmp_path / "zoo"), tmp_path / "out", secret=KEY, workers=0)
    return tmp_path / "out"


def test_it_is_used_like_torchvisions(protected: Path) -> None:
    """The same images, labels and attributes as ImageFolder, which reads what protect writes, too."""
    transform = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    theirs = ImageFolder(str(protected / "train"), transform, target_transform=str)
    ours = Protected(protected, transform=transform, target_transform=str)
    for name in ("classes", "class_to_idx", "targets", "transform", "target_transform"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert len(ours) == len(theirs) == 12
    for (image, label), (expected, wanted) in zip(ours, theirs, strict=True):  # type: ignore[call-overload]
        assert torch.equal(image, expected)
        assert label == wanted
    plain, label = Protected(protected)[5]
    assert isinstance(plain, Image.Image)
    assert label == 1


def test_any_other_set_is_opened_too(protected: Path) -> None:
    clean = Protected(protected.parent / "zoo", split="test")
    assert (len(clean), clean.targets, clean.protection) == (3, [0, 1, 2], None)
    assert Protected(f"subset:{protected},classes=2").classes == ["ant", "bee"]
    assert Protected(f"subset:{protected},images=2").protected == [True] * 6
    with pytest.raises(UserError, match="no manifest to verify it by"):
        Protected(protected.parent / "zoo", verify=True)


@pytest.mark.parametrize("format", ["npz", "png"])
def test_loaders_with_workers(format: str, protected: Path, tmp_path: Path) -> None:
    """A forked worker has the data set as it is; a spawned one is sent it as a pickle."""
    protect_dataset(tmp_path / "zoo", tmp_path / "again", secret=KEY, format=format, workers=0)
    data = Protected(tmp_path / "again", transform=v2.PILToTensor())
    sent = pickle.dumps(data)
    expected = load_arrays(tmp_path / "again", "train")
    assert expected.images[3].numpy().tobytes() not in sent
    for each in (data, pickle.loads(sent)):
        loader = DataLoader(each, 5, num_workers=1, multiprocessing_context="fork")
        images, labels = map(torch.cat, zip(*loader, strict=True))
        assert torch.equal(images.permute(0, 2, 3, 1), expected.images)
        assert torch.equal(labels, expected.labels)


def test_it_says_what_is_protected(tmp_path: Path) -> None:
    protect_dataset(folder(tmp_path / "zoo"), tmp_path / "out", secret=KEY, workers=0, fraction=0.5)
    data = Protected(tmp_path / "out")
    assert data.protection is not None
    assert data.protection["parameters"]["fraction"] == 0.5
    clean = load_arrays(tmp_path / "zoo").images.numpy()
    changed = [not np.array_equal(image, clean[row]) for row, (image, _) in enumerate(iter(data))]
    assert data.protected == changed
    assert sum(changed) == 6


def test_images_are_decoded_when_asked_for(protected: Path) -> None:
    path = protected / "train" / "bee" / "1.png"
    path.write_bytes(path.read_bytes()[:-20])
    data = Protected(protected)
    assert data[4][1] == 1
    with pytest.raises(ImageError, match=r"bee/1.png"):
        data[5]


def remove(out: Path) -> None:
    (out / "train/bee/1.png").unlink()


def remove_class(out: Path) -> None:
    shutil.rmtree(out / "train/bee")


def move(out: Path) -> None:
    (out / "train/bee/1.png").rename(out / "train/ant/9.png")


def add(out: Path) -> None:
    shutil.copy(out / "train/bee/1.png", out / "train/bee/9.png")


def relabel(out: Path) -> None:
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace('"label": 1', '"label": 2'))


def damage_list(out: Path) -> None:
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace('"label": 1', '"label": 7'))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (remove, "differs from its manifest: bee/1.png is missing; bring it back as it was, or move"),
        (remove_class, "differs from its manifest: bee/0.png is missing"),
        (move, "differs from its manifest: bee/1.png is missing; bring it back as it was, or move"),
        (add, "differs from its manifest: bee/9.png is not listed"),
        (relabel, "differs from its manifest: bee/0.png is of class 'bee' here and 'cow' there"),
        (damage_list, r"manifest\.json: damaged: it lists the file 'train/bee/0\.png'$"),
    ],
)
def test_what_differs_from_its_manifest_is_refused(
    protected: Path, change: Callable[[Path], None], match: str
) -> None:
    change(protected)
    for opened in (Protected, load_arrays, edge_features):
        with pytest.raises(UserError, match=match):
            opened(protected)


def test_bytes_are_compared_when_asked_for(protected: Path) -> None:
    path = protected / "train/cow/2.png"
    other = (protected / "train/cow/1.png").read_bytes()
    path.write_bytes(other)
    assert len(Protected(protected)) == 12
    for root in (protected, protected / "train"):
        with pytest.raises(
            UserError, match=r"differs from its manifest: 1 files changed, such as train/cow/2"
        ):
            Protected(root, verify=True)


def test_a_manifest_of_another_program_is_none(tmp_path: Path) -> None:
    clean = folder(tmp_path / "zoo")
    manifest = clean / "manifest.json"
    manifest.write_text('{"name": "webapp"}')
    for path in (clean, clean / "train"):
        assert Protected(path).protection is None
    assert len(edge_features(clean)[0]) == 12
    manifest.write_text('{"schema": 1}')
    with pytest.raises(UserError, match=r"manifest\.json: damaged: 'method' is missing or malformed$"):
        Protected(clean)


def test_what_was_skipped_is_no_fault(tmp_path: Path) -> None:
    src = folder(tmp_path / "zoo")
    (src / "train/bat").mkdir()
    protect_dataset(src, tmp_path / "out", secret=KEY, workers=0, on_error="skip")
    data = Protected(tmp_path / "out")
    assert data.classes == ["ant", "bat", "bee", "cow"]
    assert set(data.targets) == {0, 2, 3}


def test_what_was_not_skipped_is_a_fault_though_other_things_were(tmp_path: Path) -> None:
    for name in ("train/ant/0.png", "train/bee/0.png", "test/ant/0.png", "test/bee/0.png"):
        save(tmp_path / "src" / name, 0)
    (tmp_path / "src" / "train" / "ant" / "bad.txt").touch()
    out = tmp_path / "out"
    protect_dataset(tmp_path / "src", out, secret=KEY, workers=0, on_error="skip")
    shutil.copytree(tmp_path / "src" / "test", out / "test")
    assert [len(Protected(out, split)) for split in ("train", "test")] == [2, 2]
    for split in ("train", "test"):
        (out / split / "cow").mkdir()
        with pytest.raises(UserError, match=rf"out/{split}/cow: a class without images$"):
            Protected(out, split)
        (out / split / "cow").rmdir()
    (out / "test" / "ant" / "bad.txt").touch()
    with pytest.raises(UserError, match=r"out/test/ant/bad\.txt: not an image"):
        Protected(out, "test")


def test_a_training_script_of_ones_own(protected: Path) -> None:
    """Protected in, and the filters are learnt: plain PyTorch around it."""
    steps = [v2.RandomHorizontalFlip(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    data: Any = Protected(protected, transform=v2.Compose(steps))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 16 * 3, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    losses = []
    for _ in range(5):
        for images, labels in DataLoader(data, 12, shuffle=True):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
