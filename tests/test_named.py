"""What stands where a path goes: names, downloads by torchvision, and some of a dataset's classes."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image
from small_runs import config_for, write_tree
from test_cifar import pack, write

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.formats.cifar import CIFAR10, CIFAR100
from unlearnable_kernels.data.manifest import find_manifest
from unlearnable_kernels.data.named import Reference, data_folder, find, parse, resolve
from unlearnable_kernels.data.source import load_image, open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.training import evaluate, train

KEY = Key(bytes(range(32)))
CLASSES = ["ant", "bee", "cow", "dog"]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, empty, and another folder to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("UNLEARNABLE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    root = tmp_path / "zoo"
    write_tree(root / "train", CLASSES, 6, seed=0)
    write_tree(root / "test", CLASSES, 4, seed=1)
    return root


def test_what_can_be_written(data: Path) -> None:
    here = Path.cwd()
    assert parse("photos") == Reference(here / "photos")
    assert parse("cifar10") == Reference(data / "cifar10")
    assert parse("tiny-imagenet") == Reference(data / "tiny-imagenet-200")
    assert parse("imagenet100:trees/imagenet") == Reference(here / "trees/imagenet", "imagenet100", "100")
    assert parse("subset:cifar100,classes=10") == Reference(data / "cifar100", "subset", "10")
    both = parse("imagenet100:/data/imagenet,classes=wnids.txt")
    assert both == Reference(Path("/data/imagenet"), "imagenet100", str(here / "wnids.txt"))
    (data / "imagenet").mkdir(parents=True)
    assert (
        parse("imagenet100")
        == parse("imagenet100:imagenet")
        == Reference(data / "imagenet", "imagenet100", "100")
    )
    assert parse("subset:cifar10,images=7") == Reference(data / "cifar10", "subset", "", 7)
    assert parse("subset:cifar10,classes=2,images=7") == Reference(data / "cifar10", "subset", "2", 7)
    wrong = ("photos", ",classes=3", "photos,classes=", "photos,images=0", "photos,images=x", ",images=7")
    for text in (f"subset:{end}" for end in wrong):
        with pytest.raises(UserError, match="write subset:SET,classes=N"):
            parse(text)


def test_the_resolved_form_means_the_same_everywhere(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("link").symlink_to(zoo)
    Path("list.txt").write_text("bee\n")
    written = ["link", "subset:link,classes=2", "subset:link,classes=list.txt,images=3", "cifar10"]
    found = [resolve(text) for text in written]
    assert found[:2] == [str(zoo), f"subset:{zoo},classes=2"]
    monkeypatch.chdir("/")
    assert [resolve(text) for text in found] == found


def test_what_exists_wins_over_a_name(zoo: Path) -> None:
    for name in ("cifar10", "subset:x,classes=2"):
        zoo.rename(name)
        assert find(name) == Path.cwd() / name
        assert open_source(Path(name)).classes == CLASSES
        Path(name).rename(zoo)


def test_a_name_is_a_folder_of_the_data_folder(zoo: Path, data: Path) -> None:
    data.mkdir()
    zoo.rename(data / "zoo")
    assert open_source(Path("zoo")).root == data / "zoo"
    with pytest.raises(UserError, match=r"zebra: no such file or folder, nor in .*/data, nor one of cifar10"):
        open_source(Path("zebra"))
    with pytest.raises(UserError, match=r"tiny-imagenet-200: no such file or folder"):
        open_source(Path("tiny-imagenet"))


def test_the_data_folder_without_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNLEARNABLE_DATA")
    assert data_folder() == Path("~/.cache/unlearnable/data").expanduser()


@pytest.mark.parametrize(
    ("form", "theirs"), [(CIFAR10, torchvision.datasets.CIFAR10), (CIFAR100, torchvision.datasets.CIFAR100)]
)
def test_cifar_is_downloaded_once(
    form: Any, theirs: Any, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchvision itself at work, but for the network and the checksums."""
    folder = write(form, tmp_path / "official")
    archive = pack(form, folder, tmp_path / form.archive)
    fetched = []

    def fetch(url: str, path: str) -> None:
        fetched.append(url)
        shutil.copy(archive, path)

    monkeypatch.setattr(theirs, "url", archive.as_uri())
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", fetch)
    monkeypatch.setattr(theirs, "tgz_md5", None)
    monkeypatch.setattr(theirs, "train_list", [[name, None] for name in form.train])
    monkeypatch.setattr(theirs, "test_list", [[name, None] for name in form.test])
    monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": None})
    for split in ("train", "test"):
        got, official = open_source(Path(form.dataset), split), open_source(folder, split)
        assert (got.name, got.classes) == (form.dataset, official.classes)
        assert [(s.name, s.label) for s in got.samples] == [(s.name, s.label) for s in official.samples]
    assert fetched == [archive.as_uri()]
    assert [path.name for path in data.iterdir()] == [form.dataset]


class Svhn:
    """As torchvision's SVHN: images by ``split``, and no names of classes."""

    def __init__(self, root: str, split: str, download: bool) -> None:
        assert download
        self.seed = {"train": 0, "test": 1}[split]

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels = np.full((4, 4, 3), 20 * index + self.seed, np.uint8)
        return Image.fromarray(pixels), (index + 3) % 10


def test_other_downloads_become_arrays(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "SVHN", Svhn)
    for seed, split in enumerate(("train", "test")):
        got = load_arrays(Path("svhn"), split)
        assert got.classes == [str(digit) for digit in range(10)]
        assert got.labels.tolist() == [(index + 3) % 10 for index in range(12)]
        assert got.images[:, 3, 2, 1].tolist() == [20 * index + seed for index in range(12)]
    assert sorted(path.name for path in (data / "svhn").iterdir()) == ["test.npz", "train.npz"]


@pytest.mark.parametrize(
    "error", [RuntimeError("no route\nto host"), OSError("no disk"), ImportError("scipy")]
)
def test_what_cannot_be_downloaded_is_said(error: Exception, data: Path, monkeypatch: Any) -> None:
    def refuse(root: str, **_: Any) -> None:
        (Path(root) / "half").touch()
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", refuse)
    reason = str(error).partition("\n")[0]
    with pytest.raises(UserError, match=rf"cifar10 is not in {data} and cannot be downloaded: {reason}$"):
        find("cifar10")
    assert list(data.iterdir()) == []


def test_another_process_may_be_faster(zoo: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(root: str, **_: Any) -> None:
        shutil.copytree(zoo, data / "cifar10")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", meanwhile)
    assert open_source(Path("cifar10")).classes == CLASSES
    assert [path.name for path in data.iterdir()] == ["cifar10"]


def sources(zoo: Path, tmp_path: Path) -> dict[str, Path]:
    """One dataset of each way to store images; their classes are alike."""
    protect_dataset(zoo, tmp_path / "arrays", secret=KEY, format="npz", workers=0)
    return {"folder": zoo, "npz": tmp_path / "arrays", "file": tmp_path / "arrays" / "train.npz"}


@pytest.mark.parametrize("kind", ["folder", "npz", "file"])
def test_a_subset_has_the_images_of_its_classes(kind: str, zoo: Path, tmp_path: Path) -> None:
    path = sources(zoo, tmp_path)[kind]
    whole = open_source(path)
    Path("list.txt").write_text("dog an animal\n\nbee\n")
    for classes, wanted in (("2", ["ant", "bee"]), ("list.txt", ["bee", "dog"])):
        some = open_source(Path(f"subset:{path},classes={classes}"))
        assert (some.classes, some.name) == (wanted, whole.name)
        of_these = [s for s in whole.samples if whole.classes[s.label] in wanted]
        assert [s.name for s in some.samples] == [s.name for s in of_these]
        assert [some.classes[s.label] for s in some.samples] == [whole.classes[s.label] for s in of_these]
        assert some.notes[-1] == "2 of its 4 classes are taken"
        expected = [load_image(whole, sample, None) for sample in of_these]
        for source in (some, pickle.loads(pickle.dumps(some))):
            got = [load_image(source, sample, None) for sample in source.samples]
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_subset_has_the_first_images_of_every_class(kind: str, zoo: Path, tmp_path: Path) -> None:
    path = sources(zoo, tmp_path)[kind]
    whole = open_source(path)
    some = open_source(Path(f"subset:{path},classes=3,images=2"))
    first = [[s for s in whole.samples if s.label == label][:2] for label in range(3)]
    assert [(s.name, s.label) for s in some.samples] == [
        (s.name, s.label) for s in whole.samples if any(s in part for part in first)
    ]
    assert some.notes[-1] == "6 of its 18 images are taken"
    for source in (some, pickle.loads(pickle.dumps(some))):
        for sample in source.samples:
            (same,) = [s for s in whole.samples if s.name == sample.name]
            np.testing.assert_array_equal(load_image(source, sample, None), load_image(whole, same, None))
    assert len(open_source(Path(f"subset:{path},images=100")).samples) == 24


def test_a_subset_has_the_side_files_and_faults_of_its_classes(tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    for wnid in ("n00000000", "n00000001"):
        write_tree(root / "train" / wnid, ["images"], 2, seed=0)
        (root / "train" / wnid / f"{wnid}_boxes.txt").touch()
        (root / "train" / wnid / "other.txt").touch()
    (root / "wnids.txt").write_text("n00000000\nn00000001\n")
    some = open_source(Path(f"subset:{root},classes=1"), on_error="skip")
    assert some.side_files == [Path("wnids.txt"), Path("train/n00000000/n00000000_boxes.txt")]
    assert [name for name, _ in some.skipped] == ["n00000000/other.txt"]


@pytest.mark.parametrize(
    ("classes", "content", "match"),
    [
        ("5", "", "classes must be 1 to 4, as it has, not 5"),
        ("0", "", "classes must be 1 to 4, as it has, not 0"),
        ("list", "ant\ncrow black\n", "list: 'crow black' is not a class"),
        ("list", " \n", "list: lists no class"),
        ("absent", "", "absent: the list of classes cannot be read"),
    ],
)
def test_subsets_that_there_are_not(zoo: Path, classes: str, content: str, match: str) -> None:
    Path("list").write_text(content)
    with pytest.raises(UserError, match=match):
        open_source(Path(f"subset:{zoo},classes={classes}"))


def test_imagenet100_is_protected_as_such(tmp_path: Path) -> None:
    wnids = [f"n{10**7 + 3 * number}" for number in range(102)]
    for wnid in wnids:
        write_tree(tmp_path / "imagenet" / "train" / wnid, [""], 1, seed=0)
    out = tmp_path / "protected"
    protect_dataset(Path(f"imagenet100:{tmp_path}/imagenet"), out, secret=KEY, workers=0)
    manifest = find_manifest(out)
    assert manifest is not None
    assert manifest["dataset_name"] == "imagenet-100"
    assert manifest["parameters"]["kernel_size"] == 9
    assert manifest["classes"] == wnids[:100]
    copy = open_source(out)
    assert (copy.name, copy.classes) == ("imagenet-100", wnids[:100])
    assert find_manifest(Path(f"subset:{out},classes=7")) == manifest
    for wnid in wnids[99:]:
        shutil.rmtree(tmp_path / "imagenet" / "train" / wnid)
    with pytest.raises(UserError, match="classes must be 1 to 99, as it has, not 100"):
        open_source(Path(f"imagenet100:{tmp_path}/imagenet"))


def test_the_classes_are_part_of_what_is_protected(zoo: Path, tmp_path: Path) -> None:
    out, listed = tmp_path / "out", Path(f"subset:{zoo},classes=list.txt")
    Path("list.txt").write_text("bee\ncow\n")
    protect_dataset(listed, out, secret=KEY, workers=0)
    before = (out / "manifest.json").read_bytes()
    protect_dataset(listed, out, secret=KEY, workers=0)
    assert (out / "manifest.json").read_bytes() == before
    assert json.loads(before)["classes"] == ["bee", "cow"]
    Path("list.txt").write_text("bee\ndog\n")
    with pytest.raises(UserError, match="differs in classes"):
        protect_dataset(listed, out, secret=KEY, workers=0)
    with pytest.raises(UserError, match="must lie outside the source"):
        protect_dataset(listed, zoo / "out", secret=KEY, workers=0)


def test_a_subset_is_trained_and_evaluated_on(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = config_for(Path(f"subset:{zoo},classes=2"), epochs=1)
    written = f"subset:{zoo},classes=2"
    assert (config.train, config.test) == (written, written)
    record = train(config, out)
    assert record["classes"] == ["ant", "bee"]
    assert record["train"]["images"] == 12
    result = evaluate(out, Path(written))
    assert (result["test"], result["images"]) == (written, 8)
    with pytest.raises(UserError, match="must lie outside the dataset"):
        train(config, zoo / "run")
