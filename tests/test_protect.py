import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unlearnable_kernels.data.images import decode, encode
from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.protect import notices
from unlearnable_kernels.protect.keys import Key, Seed
from unlearnable_kernels.protect.methods.filters import class_filters
from unlearnable_kernels.protect.pipeline import plan as plan_module
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.verify import verify_dataset

KEY = Key(bytes(range(32)))
CLASSES = ("ant", "bee", "cow")


def picture(seed: int, width: int = 12, height: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes of ten PNG or JPEG images of two sizes, under train/, beside a test split."""
    root = tmp_path / "zoo"
    for label, name in enumerate(CLASSES):
        for number in range(10):
            suffix = "jpg" if number % 3 == 0 else "png"
            size = (17, 9) if number % 4 == 0 else (12, 10)
            save(root / "train" / name / f"{number:02d}.{suffix}", picture(100 * label + number, *size))
        save(root / "test" / name / "00.png", picture(1000 + label))
    return root


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "CHUNK_IMAGES", 4)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def expected(pixels: np.ndarray, label: int, filters: torch.Tensor, padding: str = "reflect") -> np.ndarray:
    batch = torch.from_numpy(pixels.copy())[None].permute(0, 3, 1, 2)
    result: np.ndarray = (
        classwise_conv(batch, torch.tensor([label]), filters, padding)[0].permute(1, 2, 0).numpy()
    )
    return result


def protect(src: Path, dst: Path, **options: Any) -> dict[str, bytes]:
    protect_dataset(src, dst, **{"secret": KEY, "workers": 0, **options})
    assert not dst.with_name(dst.name + ".partial").exists()
    return contents(dst)


def test_every_image_is_filtered_and_listed(tree: Path, tmp_path: Path) -> None:
    before = contents(tree)
    files = protect(tree, tmp_path / "out", dataset_name="pets", format="png")
    assert contents(tree) == before
    manifest = manifest_of(tmp_path / "out")
    filters = class_filters(KEY, "pets", CLASSES, 3, 0.3)
    assert set(files) == {f"train/{name}/{number:02d}.png" for name in CLASSES for number in range(10)} | {
        "manifest.json"
    }
    assert list(manifest["files"]) == sorted(files.keys() - {"manifest.json"})
    for sample in (source := open_source(tree)).samples:
        output = f"train/{sample.name[:-4]}.png"
        original = source.read(sample)
        assert isinstance(original, bytes)
        clean = decode(original, sample.name)
        np.testing.assert_array_equal(
            decode(files[output], output), expected(clean, sample.label, filters), err_msg=output
        )
        assert manifest["files"][output]["label"] == sample.label
        assert manifest["files"][output]["protected"] is True
    assert verify_dataset(tmp_path / "out", KEY).ok


def test_the_manifest_says_what_was_done_and_no_secret(tree: Path, tmp_path: Path) -> None:
    files = protect(tree, tmp_path / "out", dataset_name="pets")
    manifest = manifest_of(tmp_path / "out")
    assert manifest["method"] == "classwise-conv"
    assert manifest["parameters"] == {
        "kernel_size": 3,
        "strength": 0.3,
        "fraction": 1.0,
        "padding": "reflect",
        "rescale": "max",
        "resize": None,
        "filter_acts": "on the stored image",
        "format": "same",
        "quality": 95,
    }
    assert manifest["dataset_name"] == "pets"
    assert manifest["classes"] == list(CLASSES)
    assert manifest["left_out"] == ["test"]
    assert manifest["skipped"] == []
    assert manifest["key"] == {"kind": "key", "fingerprint": KEY.fingerprint}
    assert {"torch", "numpy", "pillow", "simplejpeg", "unlearnable_kernels"} <= manifest["versions"].keys()
    assert KEY.material.hex().encode() not in files["manifest.json"]
    assert str(tree).encode() not in files["manifest.json"]


def test_it_reads_back_as_a_data_set(tree: Path, tmp_path: Path) -> None:
    protect(tree, tmp_path / "out")
    before, after = open_source(tree), open_source(tmp_path / "out")
    assert after.classes == before.classes
    assert [sample.label for sample in after.samples] == [sample.label for sample in before.samples]


def test_workers_and_chunks_do_not_show(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = protect(tree, tmp_path / "alone")
    assert protect(tree, tmp_path / "many", workers=3) == alone
    monkeypatch.setattr(plan_module, "CHUNK_IMAGES", 256)
    assert protect(tree, tmp_path / "one") == alone
    monkeypatch.setattr(plan_module, "CHUNK_BYTES", 1)
    assert protect(tree, tmp_path / "single") == alone


def test_a_fraction_leaves_the_rest_as_it_was(tree: Path, tmp_path: Path) -> None:
    files = protect(tree, tmp_path / "out", fraction=0.4, format="png")
    source = open_source(tree)
    listed = manifest_of(tmp_path / "out")["files"]
    protected = {name for name, entry in listed.items() if entry["protected"]}
    assert [sum(name.startswith(f"train/{each}/") for name in protected) for each in CLASSES] == [4, 4, 4]
    for sample in source.samples:
        output = f"train/{sample.name[:-4]}.png"
        original = source.read(sample)
        assert isinstance(original, bytes)
        same = np.array_equal(decode(files[output], ""), decode(original, ""))
        assert same == (output not in protected), output


@pytest.mark.filterwarnings("ignore:an integer seed")
def test_seed_compatibility_gives_the_released_bytes(tmp_path: Path) -> None:
    """The released program's steps, written out: its stream, its subset, F.conv2d and truncation."""
    src, clean = tmp_path / "src", []
    for label, name in enumerate(CLASSES):
        for number in range(6):
            clean.append((f"{name}/{number}.png", label, picture(10 * label + number, 32, 32)))
            save(src / clean[-1][0], clean[-1][2])
    files = protect(src, tmp_path / "out", secret=Seed(11), fraction=0.5)
    stream = np.random.RandomState(11)
    filters = []
    for _ in CLASSES:
        drawn = stream.uniform(0, 0.3, size=(3, 1, 3, 3))
        row, column = stream.randint(3), stream.randint(3)
        drawn[:, :, row, column] = 1
        filters.append(torch.from_numpy(np.repeat(drawn[:1], 3, 0).astype(np.float32)))
    changed = 0
    for name, label, pixels in clean:
        wanted = pixels
        if stream.random_sample() < 0.5:
            x = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None] / 255
            y = torch.nn.functional.conv2d(x, filters[label], padding=1, groups=3)[0]
            wanted = np.clip((y / y.max() * 255).permute(1, 2, 0).numpy(), 0, 255).astype(np.uint8)
            changed += 1
        np.testing.assert_array_equal(decode(files[name], name), wanted, err_msg=name)
    assert 3 < changed < 15
    manifest = manifest_of(tmp_path / "out")
    assert manifest["parameters"]["padding"] == "zeros"
    assert manifest["key"]["kind"] == "seed-compat"
    assert "seed" not in manifest
    assert "source_listing_sha256" in manifest


def test_defaults_follow_name_and_size(tmp_path: Path) -> None:
    save(tmp_path / "large" / "a" / "0.png", picture(0, 70, 64))
    protect(tmp_path / "large", tmp_path / "out1")
    protect(tmp_path / "large", tmp_path / "out2", resize=32)
    protect(tmp_path / "large", tmp_path / "out3", kernel_size=5, strength=0.2, padding="circular")
    parameters = [manifest_of(tmp_path / name)["parameters"] for name in ("out1", "out2", "out3")]
    assert [(p["kernel_size"], p["strength"]) for p in parameters] == [(9, 0.06), (3, 0.3), (5, 0.2)]
    assert parameters[1]["filter_acts"] == "after the resize"
    assert parameters[2]["padding"] == "circular"


def test_resize_comes_before_the_filter(tree: Path, tmp_path: Path) -> None:
    files = protect(tree, tmp_path / "out", resize=8)
    assert {decode(data, "").shape for name, data in files.items() if name != "manifest.json"} == {(8, 8, 3)}


@pytest.mark.parametrize(("format", "suffix", "kind"), [("webp", "webp", "WEBP"), ("jpeg", "jpg", "JPEG")])
def test_other_formats(tree: Path, tmp_path: Path, format: str, suffix: str, kind: str) -> None:
    files = protect(tree, tmp_path / "out", format="jpeg:quality=80" if format == "jpeg" else format)
    assert f"train/ant/00.{suffix}" in files
    with Image.open(io.BytesIO(files[f"train/ant/01.{suffix}"])) as image:
        assert image.format == kind
    assert manifest_of(tmp_path / "out")["parameters"]["quality"] == (80 if format == "jpeg" else None)
    if format == "webp":
        lossless = protect(tree, tmp_path / "png", format="png")
        np.testing.assert_array_equal(
            decode(files["train/bee/02.webp"], ""), decode(lossless["train/bee/02.png"], "")
        )


def test_names_keep_what_they_can(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "b.JPG", "b.jpeg", "B.bmp", "c.PNG", "d.jpg", "d.jpg.png", "sub.x/e.tar.jpg"]
    for number, name in enumerate(names):
        save(tmp_path / "src" / "k" / name, picture(number))
    files = protect(tmp_path / "src", tmp_path / "out", format="png")
    assert sorted(files.keys() - {"manifest.json"}) == sorted(
        f"k/{name}"
        for name in [
            "a.jpg.png",
            "a.png",
            "b.JPG.png",
            "b.jpeg.png",
            "B.bmp.png",
            "c.PNG",
            "d.png",
            "d.jpg.png",
            "sub.x/e.tar.png",
        ]
    )
    source = open_source(tmp_path / "out")
    assert len(source.samples) == len(names)


KEPT = {  # name in the source: name in the copy, and its format
    "a.JPG": ("a.JPG", "JPEG"),
    "a.png": ("a.png", "PNG"),
    "b.jfif": ("b.jfif", "JPEG"),
    "c.webp": ("c.webp", "WEBP"),
    "d.tiff": ("d.tiff", "TIFF"),
    "e.bmp": ("e.bmp", "BMP"),
    "f.ppm": ("f.ppm", "PPM"),
    "g.gif": ("g.png", "PNG"),
    "h.avif": ("h.avif.png", "PNG"),
    "h.png": ("h.png", "PNG"),
    "i.tif": ("i.tif", "TIFF"),
}


def test_by_default_every_picture_keeps_its_format(tmp_path: Path) -> None:
    src = tmp_path / "src" / "k"
    for number, name in enumerate(KEPT):
        save(src / name, picture(number), **({"format": "JPEG"} if name.endswith("jfif") else {}))
    files = protect(tmp_path / "src", tmp_path / "out")
    assert files.keys() - {"manifest.json"} == {f"k/{name}" for name, _ in KEPT.values()}
    exact = protect(tmp_path / "src", tmp_path / "png", format="png")
    at_90 = protect(tmp_path / "src", tmp_path / "90", format="same:quality=90")
    png = dict(zip(KEPT, open_source(tmp_path / "png").samples, strict=True))
    for before, (name, kind) in KEPT.items():
        data = files[f"k/{name}"]
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == kind, name
        wanted = decode(exact[png[before].name], "")
        if kind != "JPEG":
            np.testing.assert_array_equal(decode(data, ""), wanted, err_msg=name)
        else:
            assert data == encode(wanted, "jpeg", 95) != at_90[f"k/{name}"] == encode(wanted, "jpeg", 90)
    assert verify_dataset(tmp_path / "out", KEY).ok
    assert "k/a.JPG.png" in protect(tmp_path / "src", tmp_path / "noise", method="random-noise", resize=8)
    with pytest.raises(UserError, match=r"format must be one of .*png.* with random-noise, not 'same'"):
        protect(tmp_path / "src", tmp_path / "no", method="random-noise", format="same")


def test_tiny_and_thin_images_are_done(tmp_path: Path) -> None:
    for number, size in enumerate([(1, 1), (1, 7), (7, 1), (2, 2)]):
        save(tmp_path / "src" / "k" / f"{number}.png", picture(number, *size))
    files = protect(tmp_path / "src", tmp_path / "out", kernel_size=9, strength=0.06, dataset_name="x")
    filters = class_filters(KEY, "x", ["k"], 9, 0.06)
    for number, size in enumerate([(1, 1), (1, 7), (7, 1), (2, 2)]):
        np.testing.assert_array_equal(
            decode(files[f"k/{number}.png"], ""), expected(picture(number, *size), 0, filters)
        )


def test_arrays(tmp_path: Path) -> None:
    for label, name in enumerate(CLASSES):
        for number in range(5):
            save(tmp_path / "src" / name / f"{number}.png", picture(10 * label + number))
    protect(tmp_path / "src", tmp_path / "out", format="npz", fraction=0.4, dataset_name="x")
    protect(tmp_path / "src", tmp_path / "tree", fraction=0.4, dataset_name="x")
    with np.load(tmp_path / "out" / "train.npz", allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
        assert arrays["classes"].tolist() == list(CLASSES)
        names = arrays["names"].tolist()
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels.tolist() == [label for label in range(3) for _ in range(5)]
    listed = manifest_of(tmp_path / "out")["files"]["train.npz"]["samples"]
    as_tree = manifest_of(tmp_path / "tree")["files"]
    for name, image in zip(names, images, strict=True):
        np.testing.assert_array_equal(image, decode((tmp_path / "tree" / name).read_bytes(), name))
        assert listed[name]["protected"] == as_tree[name]["protected"]
    assert verify_dataset(tmp_path / "out", KEY) == verify_dataset(tmp_path / "out", KEY)
    assert verify_dataset(tmp_path / "out", KEY).ok
    assert len(open_source(tmp_path / "out").samples) == 15


def test_arrays_in_arrays_out_whatever_the_workers(tmp_path: Path) -> None:
    for number in range(9):
        save(tmp_path / "src" / f"c{number % 2}" / f"{number}.png", picture(number))
    protect(tmp_path / "src", tmp_path / "first", format="npz", fraction=0.5)
    alone = protect(tmp_path / "first", tmp_path / "alone")
    assert set(alone) == {"train.npz", "manifest.json"}
    assert protect(tmp_path / "first", tmp_path / "many", workers=2) == alone
    files = protect(tmp_path / "first", tmp_path / "tree", format="png")
    assert {name for name in files if name.endswith(".png")} == {
        f"train/c{number % 2}/{number}.png" for number in range(9)
    }


def test_an_array_needs_one_size(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ant/0\d\.\w+: .* pixels, but the first image has"):
        protect(tree, tmp_path / "out", format="npz")
    assert not (tmp_path / "out").exists()
    protect(tree, tmp_path / "other", format="npz", resize=8)


def test_a_bad_image_ends_the_run_or_is_listed(tree: Path, tmp_path: Path) -> None:
    bad = tree / "train" / "bee" / "04.png"
    bad.write_bytes(bad.read_bytes()[:60])
    for workers in (0, 2):
        with pytest.raises(UserError, match=r"bee/04\.png"):
            protect(tree, tmp_path / "out", workers=workers)
        assert not (tmp_path / "out").exists()
    files = protect(tree, tmp_path / "out", on_error="skip")
    manifest = manifest_of(tmp_path / "out")
    assert [name for name, _ in manifest["skipped"]] == ["bee/04.png"]
    assert "train/bee/04.png" not in files
    assert len(manifest["files"]) == 29
    assert verify_dataset(tmp_path / "out", KEY).ok


def test_the_user_is_told_what_was_done_and_what_not(tree: Path, tmp_path: Path) -> None:
    said: list[str] = []
    protect(tree, tmp_path / "part", fraction=0.2, notify=said.append)
    assert said[0] == "left out: test"
    assert said[1].startswith("protected 6 of 30 images; PSNR ")
    said.clear()
    protect(tree, tmp_path / "array", fraction=0.2, format="npz", resize=8, notify=said.append)
    assert said[-1].startswith("protected 6 of 30 images")
    said.clear()
    (tree / "train" / "bee" / "04.png").write_bytes(b"no image")
    protect(tree, tmp_path / "skip", on_error="skip", notify=said.append)
    assert said[1].startswith("protected 29 of 30 images")
    listed = f'all are listed with reasons under "skipped" in {tmp_path / "skip" / "manifest.json"}'
    assert said[2].startswith("skipped bee/04.png: not an image")
    assert said[3:] == [f"skipped 1 images or files; {listed}"]


def test_all_that_was_skipped_is_named_up_to_a_limit(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [tree / "train" / "bee" / f"{number:02}.png" for number in range(5)]
    for path in bad:
        path.write_bytes(b"no image")
    monkeypatch.setattr(notices, "_NAMED", 3)
    said: list[str] = []
    protect(tree, tmp_path / "out", on_error="skip", notify=said.append)
    named = [f"skipped bee/0{number}.png" for number in range(3)]
    assert [line.partition(":")[0] for line in said[2:5]] == named
    assert said[5].startswith("skipped 5 images or files, of which the first 3 are named here; all are")
    assert len(said) == 6


def test_protecting_nothing_at_all_is_said(tree: Path, tmp_path: Path) -> None:
    said: list[str] = []
    protect(tree, tmp_path / "out", fraction=0.04, notify=said.append)
    assert said[1:] == [
        "warning: no image is protected: --fraction 0.04 selects none of 30 images",
        "protected 0 of 30 images",
    ]


def test_a_class_of_bad_images_keeps_its_place(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "train" / "ant")
    (tree / "train" / "ant").mkdir()
    for path in (tree / "train" / "bee").iterdir():
        path.write_bytes(b"no image")
    protect(tree, tmp_path / "out", on_error="skip")
    manifest = manifest_of(tmp_path / "out")
    assert manifest["classes"] == list(CLASSES)
    assert {entry["label"] for entry in manifest["files"].values()} == {2}
    assert sorted(path.name for path in (tmp_path / "out" / "train").iterdir()) == list(CLASSES)
    shutil.rmtree(tree / "train" / "cow")
    with pytest.raises(UserError, match="not one of its 10 images"):
        protect(tree, tmp_path / "none", on_error="skip")


def test_side_files_come_along(tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    for wnid in ("n01443537", "n01629819"):
        save(root / "train" / wnid / "images" / f"{wnid}_0.JPEG", picture(1), format="JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes")
    (root / "wnids.txt").write_text("n01443537\nn01629819\n")
    (root / "words.txt").write_text("n01443537\tgoldfish\n")
    files = protect(root, tmp_path / "out")
    assert files["words.txt"] == b"n01443537\tgoldfish\n"
    assert "train/n01443537/images/n01443537_0.JPEG" in files
    assert verify_dataset(tmp_path / "out", KEY).ok
    (tmp_path / "out" / "words.txt").write_text("other")
    assert verify_dataset(tmp_path / "out", KEY).changed == ["words.txt"]
    assert len(open_source(tmp_path / "out").samples) == 2


Place = Callable[[Path], Path]


@pytest.mark.parametrize(
    "place",
    [
        lambda tree: tree,
        lambda tree: tree / "out",
        lambda tree: tree / "train" / "ant",
        lambda tree: tree.parent,
        lambda tree: tree.parent / "elsewhere" / ".." / "zoo" / "out",
    ],
)
def test_source_and_result_must_lie_apart(tree: Path, place: Place) -> None:
    before = contents(tree)
    with pytest.raises(UserError, match="outside the source"):
        protect(tree, place(tree))
    assert contents(tree) == before


def test_the_staging_folder_must_not_be_the_source(tree: Path, tmp_path: Path) -> None:
    tree.rename(tmp_path / "out.partial")
    with pytest.raises(UserError, match="outside the source"):
        protect(tmp_path / "out.partial", tmp_path / "out")


def test_a_link_into_the_source_is_seen_through(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(UserError, match="outside the source"):
        protect(tree, tmp_path / "link" / "out")


def test_impossible_places_are_named(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="/loop: a symbolic link that leads back"):
        protect(tree, tmp_path / "loop")
    with pytest.raises(UserError, match="/loop: a symbolic link that leads back"):
        protect(tmp_path / "loop", tmp_path / "out")
    with pytest.raises(UserError, match="/ cannot be replaced"):
        protect(tree, Path("/"))
    for src, dst in [("x" * 300, "out"), ("zoo", "x" * 300), ("zoo", "x" * 250)]:
        with pytest.raises(UserError, match=r"x: File name too long|\.partial: File name too long"):
            protect(tmp_path / src, tmp_path / dst)


def test_a_name_that_is_no_text_is_refused(tree: Path, tmp_path: Path) -> None:
    named = tree.rename(tmp_path / "zoo\udcff")
    for options in ({}, {"dataset_name": "\udcff"}):
        with pytest.raises(UserError, match="is not UTF-8; give it one with --dataset-name"):
            protect(named, tmp_path / "out", **options)
    protect(named, tmp_path / "out", dataset_name="zoo")


@pytest.mark.parametrize("name", ["manifest.json", "Manifest.JSON"])
def test_the_manifest_keeps_its_place(tree: Path, tmp_path: Path, name: str) -> None:
    (tree / "train" / "ant").rename(tree / "train" / name)
    with pytest.raises(UserError, match=f"'{name}' is where the manifest goes"):
        protect(tree / "train", tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
    protect(tree, tmp_path / "out")
    assert verify_dataset(tmp_path / "out", KEY).ok


def test_a_mount_point_is_refused_before_the_work(tree: Path) -> None:
    with pytest.raises(UserError, match="/proc is a mount point"):
        protect(tree, Path("/proc"))


def test_what_is_there_is_left_alone(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="not a folder"):
        protect(tree, tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        protect(tree, tmp_path / "full")
    assert contents(tmp_path / "full") == {"thesis.tex": b"mine"}
    assert not list(tmp_path.glob("*.partial"))
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'notes\.txt'"):
        protect(tree, tmp_path / "new")
    (tmp_path / "empty").mkdir()
    assert protect(tree, tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "noise"}, "unknown method 'noise': choose one of"),
        ({"kernel_size": 4}, "odd"),
        ({"strength": 0.0}, "strength"),
        ({"fraction": 0.0}, "fraction"),
        ({"fraction": 1.5}, "fraction"),
        ({"padding": "mirror"}, "padding must be one of"),
        ({"format": "tiff"}, "unknown output format 'tiff': choose one of jpeg, npz, parquet, png"),
        ({"quality": 0}, "quality"),
        ({"resize": 0}, "resize"),
        ({"workers": -1}, "workers"),
        ({"on_error": "ignore"}, "on_error"),
    ],
)
def test_bad_parameters_are_named(tree: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        protect(tree, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent: no such"):
        protect(tmp_path / "absent", tmp_path / "out")


def test_real_images(tmp_path: Path) -> None:
    folder = os.environ.get("UNLEARNABLE_DATA")
    if not folder:
        pytest.skip("UNLEARNABLE_DATA is not set")
    source = open_source(Path(folder) / "tiny-imagenet-200")
    src = tmp_path / "tiny"
    for sample in source.samples[::500]:
        (src / "train" / sample.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source.root / "train" / sample.name, src / "train" / sample.name)
    files = protect(src, tmp_path / "out", dataset_name="tiny-imagenet-200", format="png", workers=2)
    copy = open_source(src)
    filters = class_filters(KEY, "tiny-imagenet-200", copy.classes, 9, 0.06)
    for sample in copy.samples:
        output = f"train/{sample.name.rpartition('.')[0]}.png"
        original = copy.read(sample)
        assert isinstance(original, bytes)
        wanted = expected(decode(original, ""), sample.label, filters)
        np.testing.assert_array_equal(decode(files[output], ""), wanted, err_msg=output)
