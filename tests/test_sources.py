"""Opening datasets: every layout, torchvision's order, and a decided outcome for what is out of place."""

import concurrent.futures
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from unlearnable_kernels.data.formats import FORMATS, WRITERS
from unlearnable_kernels.data.images import decode, encode
from unlearnable_kernels.data.source import Sample, open_source
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.registry import Entry

PIXEL = encode(np.full((2, 2, 3), 7, np.uint8), "png")


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_bytes(PIXEL)
    return root


def names(source) -> list[str]:
    return [sample.name for sample in source.samples]


def refused(path: Path, match: str, **options: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        open_source(path, **options)
    message = str(error.value)
    assert "\n" not in message
    message.encode()


def test_class_folders(tmp_path):
    root = tree(tmp_path / "pets", "dog/b.JPG", "dog/a.png", "cat/deep/er/c.webp", "cat/z.jpeg", "notes.txt")
    source = open_source(root)
    assert (source.name, source.layout, source.split, source.prefix) == ("pets", "image-folder", "", "")
    assert source.classes == ["cat", "dog"]
    assert names(source) == ["cat/z.jpeg", "cat/deep/er/c.webp", "dog/a.png", "dog/b.JPG"]
    assert [sample.label for sample in source.samples] == [0, 0, 1, 1]
    facts = (root / "dog/a.png").stat()
    assert source.samples[2] == Sample("dog/a.png", 1, facts.st_size, facts.st_mtime_ns)
    assert (source.skipped, source.side_files, source.left_out, source.notes) == ([], [], [], [])
    assert all(source.read(sample) == PIXEL for sample in source.samples)
    assert open_source(root, split="test").samples == source.samples


def test_the_order_is_torchvisions(tmp_path):
    folders = ("a", "a/x", "a-b", "a/x-y", "B", "ä", "a/x/y")
    root = tree(tmp_path, *(f"{f}/{n}.png" for f in folders for n in ("10", "9", "Z", "_", "é")))
    expected = ImageFolder(str(root))
    source = open_source(root)
    assert source.classes == expected.classes
    assert [(str(root / s.name), s.label) for s in source.samples] == expected.samples


@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_split_folders(tmp_path, test_folder):
    root = tree(
        tmp_path / "birds", "train/owl/1.png", "train/owl/2.png", f"{test_folder}/owl/3.png", "extra/x.png"
    )
    train, test = open_source(root), open_source(root, split="test")
    assert (train.prefix, train.split, names(train)) == ("train", "train", ["owl/1.png", "owl/2.png"])
    assert (test.prefix, test.split, names(test)) == (test_folder, "test", ["owl/3.png"])
    assert train.name == test.name == "birds"
    assert set(train.left_out) == {test_folder, "extra"}
    assert test.read(test.samples[0]) == PIXEL
    directly = open_source(root / test_folder, split="train")
    assert (directly.name, directly.split, directly.prefix) == ("birds", "test", "")


def test_an_unlabelled_test_folder_gives_way_to_val(tmp_path):
    root = tree(tmp_path, "train/owl/1.png", "val/owl/2.png", "test/3.png")
    assert open_source(root, split="test").prefix == "val"


def test_a_class_may_be_called_train(tmp_path):
    root = tree(tmp_path, "train/1.png", "car/2.png")
    assert open_source(root).classes == ["car", "train"]


def test_a_missing_split_is_named(tmp_path):
    refused(tree(tmp_path, "train/owl/1.png"), "holds train but no test or val", split="test")


def test_differing_classes_of_the_splits_are_told(tmp_path):
    root = tree(tmp_path, "train/owl/1.png", "val/owl/2.png", "val/kite/2.png")
    assert open_source(root, split="test").notes == ["val and train do not have the same classes"]


def test_known_data_sets_are_recognised_by_their_classes(tmp_path):
    ten = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert open_source(tree(tmp_path / "a", *(f"train/{c}/1.png" for c in ten))).name == "cifar10"
    wordnet = [f"n{10**7 + i}" for i in range(100)]
    assert open_source(tree(tmp_path / "b", *(f"{c}/1.png" for c in wordnet))).name == "imagenet-100"
    assert open_source(tree(tmp_path / "c", *(f"{c}/1.png" for c in wordnet[:99]))).name == "c"


def test_dot_files_and_litter_are_ignored(tmp_path):
    root = tree(
        tmp_path,
        "cat/1.png",
        "cat/.hidden.png",
        "cat/Thumbs.db",
        "desktop.ini",
        ".git/x/1.png",
        "cat/.x/2.png",
    )
    source = open_source(root)
    assert (source.classes, names(source), source.skipped) == (["cat"], ["cat/1.png"], [])


@pytest.mark.parametrize(
    ("culprit", "reason"),
    [
        ("cat/notes.txt", "not an image"),
        ("cat/noext", "not an image"),
        ("cat/.png.d/../x.npy", "not an image"),
        ("stray.jpg", "outside"),
    ],
)
def test_files_out_of_place(tmp_path, culprit, reason):
    root = tree(tmp_path, "cat/1.png", "cat/.png.d/", culprit)
    name = culprit.replace(".png.d/../", "")
    refused(root, f"{name}: .*{reason}")
    source = open_source(root, on_error="skip")
    assert names(source) == ["cat/1.png"]
    assert [skipped[0] for skipped in source.skipped] == [name]
    assert reason in source.skipped[0][1]


def test_an_empty_class_keeps_its_place(tmp_path):
    root = tree(tmp_path, "a/1.png", "b/", "c/1.png")
    refused(root, "b: a class without images")
    source = open_source(root, on_error="skip")
    assert source.classes == ["a", "b", "c"]
    assert [sample.label for sample in source.samples] == [0, 2]
    assert source.skipped == [("b", "a class without images")]


@pytest.mark.parametrize("twins", [("cat", "Cat"), ("straße", "STRASSE")])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_classes_that_differ_by_case(tmp_path, twins, on_error):
    root = tree(tmp_path, *(f"{twin}/1.png" for twin in twins))
    if len(list(root.iterdir())) < 2:
        pytest.skip("this file system does not tell case")
    refused(root, "differ only by case", on_error=on_error)


@pytest.mark.parametrize("name", [b"cat/\xff\xfe.png", b"c\xe4t/1.png"])
def test_names_that_are_not_utf8(tmp_path, name):
    tree(tmp_path, "cat/1.png")
    path = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        Path(os.fsdecode(path)).write_bytes(PIXEL)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    refused(tmp_path, r"\\x.*its name is not UTF-8")
    source = open_source(tmp_path, on_error="skip")
    assert (source.classes, names(source)) == (["cat"], ["cat/1.png"])
    assert [reason for _, reason in source.skipped] == ["its name is not UTF-8"]
    source.skipped[0][0].encode()


def test_a_message_stays_on_one_line(tmp_path):
    refused(tree(tmp_path, "cat/1.png", "cat/a\nb.txt"), r"a\\nb.txt: not an image")


def test_links_within_the_tree_are_followed(tmp_path):
    root = tree(tmp_path, "cat/1.png", "dog/1.png")
    (root / "cat/2.png").symlink_to("../dog/1.png")
    source = open_source(root)
    assert names(source) == ["cat/1.png", "cat/2.png", "dog/1.png"]
    assert source.read(source.samples[1]) == PIXEL
    across = tree(tmp_path / "split", "train/cat/1.png", "val/cat/2.png")
    (across / "train/cat/3.png").symlink_to("../../val/cat/2.png")
    assert len(open_source(across).samples) == 2


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_other_links_are_refused(tmp_path, on_error):
    outside = tree(tmp_path / "outside", "secret.png")
    cases = {
        "out.png": (outside / "secret.png", "out of"),
        "dangling.png": (tmp_path / "nowhere", "does not lead to a file"),
        "folder": (outside, "link to a folder"),
        "inner": (tmp_path / "folder/cat", "link to a folder"),
    }
    for name, (target, match) in cases.items():
        root = tree(tmp_path / name.removesuffix(".png"), "cat/1.png", "dog/1.png")
        (root / "cat" / name).symlink_to(target)
        refused(root, f"{name}: a symbolic link.*{match.split()[-1]}", on_error=on_error)
    root = tree(tmp_path / "class", "cat/1.png")
    (root / "dog").symlink_to(outside)
    refused(root, "dog: a symbolic link to a folder", on_error=on_error)


def test_a_link_that_leads_nowhere_is_named_itself(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "train/cat/1.png", "val/cat/1.png", "cat/1.png")
    for folder in (root, root / "train"):
        (folder / ".#lock").symlink_to("me@host.123:456")
    assert names(open_source(root)) == ["cat/1.png"]
    for name, target in (("loop", "loop"), ("gone.png", "nowhere")):
        (root / name).symlink_to(target)
        refused(root, rf"root/{name}: a symbolic link that does not lead to a file$")
        (root / name).unlink()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").touch()
    (tmp_path / "shards" / "gone.tar").symlink_to("nowhere")
    refused(tmp_path / "shards", r"shards/gone\.tar: not a regular file$")


def test_the_opened_folder_itself_may_be_a_link(tmp_path):
    root = tree(tmp_path / "real", "cat/1.png")
    (root / "cat/2.png").symlink_to("1.png")
    (tmp_path / "link").symlink_to("real")
    assert names(open_source(tmp_path / "link")) == ["cat/1.png", "cat/2.png"]


@pytest.mark.parametrize("format", ["webdataset", "parquet", "npz"])
def test_archives_are_not_written_with_names_that_no_reader_takes(tmp_path: Path, format: str) -> None:
    for name in ("cat\\s/1.png", "cat/x\\1.png"):
        source = open_source(tree(tmp_path / format / name[:5], name))
        with pytest.raises(UserError, match=r"is not a relative path without a backslash$"):
            WRITERS.create(format).outputs(source)
        WRITERS.create("same").outputs(source)


def test_pipes_are_refused(tmp_path):
    tree(tmp_path, "cat/1.png")
    os.mkfifo(tmp_path / "cat/2.png")
    refused(tmp_path, "2.png: neither a file nor a folder")


def test_what_is_no_data_set(tmp_path):
    refused(tmp_path / "absent", "no such file or folder")
    refused(tree(tmp_path / "flat", "1.txt"), "no class folders.*Tiny-ImageNet")
    refused(tree(tmp_path / "file", "x.zip") / "x.zip", "not a dataset.*class folders")
    refused(tmp_path, "split must be train or test", split="val")


def test_a_file_that_changes_after_opening_is_not_read(tmp_path):
    source = open_source(tree(tmp_path, "cat/1.png", "cat/2.png", "cat/3.png"))
    (tmp_path / "cat/1.png").write_bytes(PIXEL + b"x")
    (tmp_path / "cat/2.png").write_bytes(PIXEL[:-1])
    (tmp_path / "cat/3.png").unlink()
    for sample, match in zip(source.samples, ("changed", "changed", "No such file"), strict=True):
        with pytest.raises(ImageError, match=match):
            source.read(sample)


def tiny(root: Path) -> Path:
    wnids = [f"n0000000{i}" for i in range(4)]
    for wnid in (wnids[2], wnids[0]):
        tree(root, *(f"train/{wnid}/images/{wnid}_{i}.JPEG" for i in (0, 1, 10)))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t1\t1\n")
    tree(root, *(f"val/images/val_{i}.JPEG" for i in range(8)), "test/images/test_0.JPEG")
    lines = [f"val_{i}.JPEG\t{wnids[i % 4]}\t0\t0\t1\t1\n" for i in range(8)]
    (root / "val/val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(wnids)))
    (root / "words.txt").write_text("n00000000\tthing\n")
    return root


def test_tiny_imagenet(tmp_path):
    root = tiny(tmp_path / "downloaded")
    train, test = open_source(root), open_source(root, split="test")
    assert train.name == test.name == "tiny-imagenet-200"
    assert train.layout == test.layout == "tiny-imagenet"
    assert train.classes == test.classes == ["n00000000", "n00000002"]
    assert names(train)[:3] == [f"n00000000/images/n00000000_{i}.JPEG" for i in (0, 1, 10)]
    assert [sample.label for sample in train.samples] == [0, 0, 0, 1, 1, 1]
    assert (train.prefix, test.prefix) == ("train", "val")
    assert [(s.name, s.label) for s in test.samples] == [
        (f"images/val_{i}.JPEG", y) for i, y in ((0, 0), (4, 0), (2, 1), (6, 1))
    ]
    assert train.side_files == [
        Path("wnids.txt"),
        Path("words.txt"),
        Path("train/n00000000/n00000000_boxes.txt"),
        Path("train/n00000002/n00000002_boxes.txt"),
    ]
    assert test.side_files[2:] == [Path("val/val_annotations.txt")]
    assert (train.left_out, test.left_out) == (["test", "val"], ["test", "train"])
    assert train.notes == ["2 of the 4 classes in wnids.txt are here"]
    assert "4 validation images of classes that are not in train are left out" in test.notes
    for source in (train, test):
        assert all(source.read(sample) == PIXEL for sample in source.samples)


def test_tiny_imagenet_by_its_split_folders(tmp_path):
    root = tiny(tmp_path)
    assert open_source(root / "train", split="test") == open_source(root)
    assert open_source(root / "val", split="train") == open_source(root, split="test")


def test_tiny_imagenet_as_protect_writes_it(tmp_path):
    """Other suffixes, no val or train beside."""
    root = tiny(tmp_path)
    for path in list(root.rglob("*.JPEG")):
        path.rename(path.with_suffix(".png"))
    (root / "manifest.json").write_text("{}")
    assert [s.name for s in open_source(root, split="test").samples][:2] == [
        "images/val_0.png",
        "images/val_4.png",
    ]
    (root / "val").rename(root / ".val")
    assert len(open_source(root).samples) == 6
    (root / ".val").rename(root / "val")
    (root / "train").rename(root / ".train")
    alone = open_source(root, split="test")
    assert (len(alone.classes), len(alone.samples)) == (4, 8)


def test_tiny_imagenet_with_faults(tmp_path):
    root = tiny(tmp_path)
    tree(root, "val/images/unlabelled.JPEG")
    with pytest.raises(UserError, match=r"unlabelled.JPEG: has no line in val_annotations.txt"):
        open_source(root, split="test")
    assert len(open_source(root, split="test", on_error="skip").samples) == 4
    (root / "train/n00000000/other.txt").write_text("")
    refused(root, "other.txt: not an image")
    (root / "val/val_annotations.txt").write_text("val_0.JPEG n00000000\n")
    refused(root, "line 1 is not", split="test")


def write_npz(path: Path, **changes: object) -> Path:
    arrays = {
        "images": np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3),
        "labels": np.array([1, 0, 1]),
        "classes": np.array(["cat", "dog"]),
        "names": np.array(["dog/0", "cat/1.png", "dog/2"]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return path


def test_npz(tmp_path):
    path = write_npz(tmp_path / "pets/train.npz")
    (path.parent / "manifest.json").write_text("{}")
    for source, prefix in ((open_source(path), ""), (open_source(path.parent), "train")):
        assert (source.name, source.layout, source.prefix) == ("pets", "npz", prefix)
        assert (source.classes, names(source)) == (["cat", "dog"], ["dog/0", "cat/1.png", "dog/2"])
        assert [sample.label for sample in source.samples] == [1, 0, 1]
        image = source.read(source.samples[2])
        np.testing.assert_array_equal(image, np.arange(120, 180, dtype=np.uint8).reshape(4, 5, 3))
        assert source.images().shape == (3, 4, 5, 3)
    refused(path.parent, "holds no test.npz", split="test")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"labels": np.array([0, 2, 0])}, "not one of the 2 classes"),
        ({"labels": np.array([0, -1, 0])}, "not one of the 2 classes"),
        ({"labels": np.array([0, 1])}, "labels must be"),
        ({"images": np.zeros((3, 4, 5, 3))}, "uint8"),
        ({"images": np.zeros((2, 4, 5, 3), np.uint8)}, "images must be"),
        ({"images": np.zeros((3, 3, 4, 5), np.uint8)}, "images must be"),
        ({"names": None}, "names"),
        ({"names": np.array(["a", "b", "a"])}, "occurs twice"),
        ({"names": np.array(["a", "../b", "c"])}, "not a relative path"),
        ({"names": np.array(["a", "/b", "c"])}, "not a relative path"),
        ({"classes": np.array(["..", "b"])}, "not a folder name"),
        ({"classes": np.array([{}, {}], dtype=object)}, "allow_pickle=False"),
    ],
)
def test_npz_with_faults(tmp_path, changes, match):
    refused(write_npz(tmp_path / "train.npz", **changes), match)


def test_npz_that_is_none(tmp_path):
    path = tmp_path / "train.npz"
    path.write_bytes(b"PK\3\4 and so on")
    refused(path, "not a .npz that protect wrote")


def read_first(source) -> bytes:
    image = source.read(source.samples[0])
    return image if isinstance(image, bytes) else image.tobytes()


@pytest.mark.parametrize("layout", ["folder", "npz"])
def test_sources_are_pickled_without_their_images_and_read_from_any_thread(tmp_path, layout):
    path = write_npz(tmp_path / "n/train.npz", images=np.zeros((3, 300, 300, 3), np.uint8))
    source = open_source(path if layout == "npz" else tree(tmp_path / "t", "cat/1.png"))
    expected = read_first(source)
    assert len(pickle.dumps(source)) < 5000
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(read_first, [pickle.loads(pickle.dumps(source))] * 20)) == {expected}


def test_a_relative_path_survives_a_change_of_folder(tmp_path, monkeypatch):
    tree(tmp_path / "pets", "cat/1.png")
    monkeypatch.chdir(tmp_path)
    source = open_source(Path("pets"))
    monkeypatch.chdir("/")
    assert source.read(source.samples[0]) == PIXEL


def test_real_data_sets():
    root = os.environ.get("UNLEARNABLE_DATA")
    if not root:
        pytest.skip("UNLEARNABLE_DATA is not set: no real datasets to open")
    cifar = open_source(Path(root, "cifar10"), split="test")
    assert (cifar.name, len(cifar.classes), len(cifar.samples)) == ("cifar10", 10, 10_000)
    image = decode(cifar.read(cifar.samples[-1]), cifar.samples[-1].name)
    with Image.open(Path(root, "cifar10/test", cifar.samples[-1].name)) as expected:
        np.testing.assert_array_equal(image, np.array(expected))
    tiny_test = open_source(Path(root, "tiny-imagenet-200"), split="test")
    counts = np.bincount([sample.label for sample in tiny_test.samples])
    assert counts.tolist() == [50] * len(tiny_test.classes)


def test_a_format_that_fails_is_named(tmp_path, monkeypatch):
    def broken(path, split, on_error):
        raise ValueError("first\nsecond")

    monkeypatch.setitem(FORMATS._entries, "broken", Entry("broken", broken, "", ""))
    message = r"pets: format broken failed on it \(ValueError: first\)$"
    refused(tree(tmp_path / "pets", "cat/a.png"), message)
