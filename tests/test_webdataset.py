"""WebDataset in both directions, as other programs read and write it, and what is refused."""

import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_shards import CLASSES, KEY, PIXEL, TAR, picture, protect, tar, write_pictures

from unlearnable_kernels.cli import main
from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.images import encode
from unlearnable_kernels.data.source import Sample, check_archive_names, open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import create_key_file
from unlearnable_kernels.protect.pipeline import plan as plan_module
from unlearnable_kernels.protect.pipeline.chunk import Chunk
from unlearnable_kernels.protect.pipeline.job import describe_changes
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.verify import verify_dataset

NAMES = [f"{name}/{number:02d}" for name in CLASSES for number in range(3)]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("src") / "zoo")


@pytest.fixture(scope="module")
def shards(zoo: Path) -> Path:
    """A protected copy of nine pictures in shards of four."""
    protect(zoo, zoo.with_name("shards"), format="webdataset:shard_size=4")
    return zoo.with_name("shards")


@pytest.fixture(scope="module")
def tree(zoo: Path) -> Path:
    protect(zoo, zoo.with_name("tree"))
    return zoo.with_name("tree")


def test_shards_hold_what_a_tree_does(shards: Path, tree: Path) -> None:
    assert sorted(path.name for path in shards.iterdir()) == [
        "manifest.json",
        *(f"train-{number:06d}.tar" for number in range(3)),
        "train-index.json",
    ]
    here, there = load_arrays(shards), load_arrays(tree)
    assert torch.equal(here.images, there.images)
    assert (here.names, here.classes) == ([f"{name}.png" for name in NAMES], list(CLASSES))
    assert torch.equal(here.labels, there.labels)
    assert here.protected_flags() == [True] * 9
    assert verify_dataset(shards, KEY).ok
    source = open_source(shards)
    assert (source.layout, source.split, source.name) == ("webdataset", "train", "shards")


def test_tar_reads_the_shards(shards: Path, tree: Path) -> None:
    members = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
                assert member.uname == member.gname == ""
                members[member.name] = archive.extractfile(member).read()
        assert len(members) % 8 == 0 or path.name == "train-000002.tar"
        assert path.stat().st_size % tarfile.RECORDSIZE == 0
    assert list(members) == [f"{name}.{suffix}" for name in NAMES for suffix in ("png", "cls")]
    for name in NAMES:
        assert members[f"{name}.png"] == (tree / "train" / f"{name}.png").read_bytes()
        assert members[f"{name}.cls"] == str(CLASSES.index(name.split("/")[0])).encode()


def test_bytes_depend_on_neither_workers_nor_chunks(
    zoo: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "CHUNK_IMAGES", 2)
    files = protect(zoo, tmp_path / "again", format="webdataset:shard_size=4", workers=2)
    assert files == {path.name: path.read_bytes() for path in shards.iterdir()}


def test_the_webdataset_library_reads_the_shards(shards: Path, tree: Path) -> None:
    from webdataset import WebDataset

    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    samples = list(WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("__key__", "png", "cls"))
    assert [key for key, _, _ in samples] == NAMES
    expected = load_arrays(tree)
    assert [label for _, _, label in samples] == expected.labels.tolist()
    assert np.array_equal(np.stack([image for _, image, _ in samples]), expected.images)


def test_without_its_index_a_set_is_read_through(shards: Path, tmp_path: Path) -> None:
    for path in shards.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found, expected = open_source(tmp_path), open_source(shards)
    assert found.classes == ["0", "1", "2"]
    assert [s.name.partition("/")[2] for s in found.samples] == [s.name for s in expected.samples]
    assert [s.label for s in found.samples] == [s.label for s in expected.samples]
    for one, other in zip(found.samples, expected.samples, strict=True):
        assert found.read(one) == expected.read(other)


def test_one_shard_is_a_set_too(shards: Path) -> None:
    whole, part = open_source(shards), open_source(shards / "train-000001.tar")
    assert part.samples == [
        type(sample)(sample.name, sample.label, sample.size, sample.mtime_ns, 0, sample.position)
        for sample in whole.samples[4:8]
    ]
    assert part.classes == whole.classes
    assert load_arrays(shards / "train-000001.tar").protected_flags() == [True] * 4


def test_shards_become_a_tree_and_a_tree_shards_again(shards: Path, tmp_path: Path) -> None:
    files = protect(shards, tmp_path / "tree", fraction=0.1)
    assert {name for name in files if name != "manifest.json"} == {f"{name}.png" for name in NAMES}
    protect(shards, tmp_path / "shards", fraction=0.1, format="webdataset")
    assert load_arrays(tmp_path / "tree").names == load_arrays(tmp_path / "shards").names
    assert torch.equal(load_arrays(tmp_path / "tree").images, load_arrays(tmp_path / "shards").images)


def test_a_run_that_was_interrupted_goes_on(
    zoo: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "CHUNK_IMAGES", 4)

    def stop(what: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    options = {"secret": KEY, "workers": 0, "format": "webdataset:shard_size=4"}
    with pytest.raises(KeyboardInterrupt):
        protect_dataset(zoo, tmp_path / "out", progress=stop, **options)
    (tmp_path / "out.partial/tree/train-000009.tar").write_bytes(b"of an attempt that was killed later")
    messages: list[str] = []
    files = protect(zoo, tmp_path / "out", format=options["format"], notify=messages.append)
    assert "resuming: 4 of 9 images are done" in messages
    assert files == {path.name: path.read_bytes() for path in shards.iterdir()}


def test_a_skipped_picture_leaves_no_gap(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "zoo")
    (root / "train/bee/01.png").write_bytes(PIXEL[:40])
    protect(root, tmp_path / "out", format="webdataset:shard_size=4", on_error="skip")
    assert [path.name for path in sorted((tmp_path / "out").glob("*.tar"))] == [
        "train-000000.tar",
        "train-000001.tar",
    ]
    assert load_arrays(tmp_path / "out").names == [f"{name}.png" for name in NAMES if name != "bee/01"]


def test_names_with_dots_get_keys_without(tmp_path: Path) -> None:
    for name in ("a.b.png", "a_b.png", "ä.png", "x" * 120 + ".png"):
        path = tmp_path / "zoo" / "v1.0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(len(name)), "png"))
    protect(tmp_path / "zoo", tmp_path / "out", format="webdataset")
    source = open_source(tmp_path / "out")
    assert [s.name for s in source.samples] == [s.name for s in open_source(tmp_path / "zoo").samples]
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as archive:
        keys = [name[:-4] for name in archive.getnames() if name.endswith(".cls")]
    assert keys == ["v1.0/a_b", "v1.0/a_b_", "v1.0/" + "x" * 120, "v1.0/ä"]
    assert [s.size for s in source.samples] == [len(source.read(s)) for s in source.samples]


def test_jpegs_and_settings(zoo: Path, tmp_path: Path) -> None:
    files = protect(zoo, tmp_path / "out", format="webdataset:images=jpeg,quality=80")
    parameters = json.loads(files["manifest.json"])["parameters"]
    assert parameters["format"] == "webdataset"
    assert (parameters["images"], parameters["quality"], parameters["shard_size"]) == ("jpeg", 80, 1000)
    protect(zoo, tmp_path / "tree", format="jpeg:quality=80")
    source, tree = open_source(tmp_path / "out"), open_source(tmp_path / "tree")
    for sample, other in zip(source.samples, tree.samples, strict=True):
        assert source.read(sample) == tree.read(other)
    for settings, message in (
        ("images=gif", "images must be one of png, webp, jpeg, tiff, bmp, ppm, not 'gif'"),
        ("shard_size=0", "shard_size must be at least 1 image, not 0"),
        ("quality=0", "quality must be from 1 to 100, not 0"),
    ):
        with pytest.raises(UserError, match=message):
            protect(zoo, tmp_path / "no", format=f"webdataset:{settings}")
    with pytest.raises(UserError, match="with bayes-error"):
        protect(zoo, tmp_path / "no", format="webdataset:images=jpeg", method="bayes-error")


@pytest.mark.parametrize(("format", "shards"), [("webdataset", 2), ("parquet:images=webp", 2), (None, 0)])
def test_the_option_shard_size(
    format: str | None, shards: int, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_key_file(tmp_path / "key")
    given = [
        "protect",
        str(zoo),
        str(tmp_path / "out"),
        "--key-file",
        str(tmp_path / "key"),
        "--workers",
        "0",
    ]
    given += ["--workers", "0", "--shard-size", "5", *(["--format", format] if format else [])]
    monkeypatch.setattr(sys, "argv", ["unlearnable", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == (0 if format else 2)
    assert len(list((tmp_path / "out").glob("train-0*"))) == shards


def test_splits_are_told_by_the_names_of_the_shards(tmp_path: Path) -> None:
    for name in ("pets-train-0000.tar", "pets-train-0001.tar", "pets-val-0000.tar"):
        member = name[5:-9]
        (tmp_path / name).write_bytes(tar((f"{name[:-4]}.png", PIXEL), (f"{name[:-4]}.cls", member.encode())))
    train, test = open_source(tmp_path), open_source(tmp_path, "test")
    assert (len(train.samples), train.classes, train.split) == (2, ["train"], "train")
    assert (len(test.samples), test.split) == (1, "test")
    assert train.left_out == ["pets-val-0000.tar"]
    (tmp_path / "pets-val-0000.tar").unlink()
    with pytest.raises(UserError, match=r"pets-train-0000.tar but no shards of the test split"):
        open_source(tmp_path, "test")


def test_shards_in_a_folder_of_their_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "00.tar").write_bytes(TAR)
    assert open_source(tmp_path, "test").samples[1].name == "1/1.png"
    assert (open_source(tmp_path).split, open_source(tmp_path, "test").split) == ("train", "test")


def test_class_folders_beside_a_tar_stay_class_folders(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "zoo")
    (root / "all.tar").write_bytes(TAR)
    assert open_source(root).layout == "image-folder"


def test_what_other_programs_put_into_shards(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        folder = tarfile.TarInfo("./cat")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in (
            ("./cat/" + "é" * 80 + ".JPG", PIXEL),
            ("./cat/" + "é" * 80 + ".cls", b" cat\n"),
            ("./cat/" + "é" * 80 + ".json", b"{}"),
            ("./README", b"read me"),
            ("./._x.png", b"of a Macintosh"),
            ("./1.cls", b"dog"),
            ("./1.png", PIXEL),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    source = open_source(tmp_path)
    assert source.classes == ["cat", "dog"]
    assert [(s.name, s.label) for s in source.samples] == [("cat/" + "é" * 80 + ".JPG", 0), ("dog/1.png", 1)]
    assert all(source.read(sample) == PIXEL for sample in source.samples)


def link(name: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


PAIR = ("0.png", PIXEL), ("0.cls", b"0")
BAD = {
    "empty": (b"", "not a tar, or truncated"),
    "text": (b"hello, world\n" * 99, "not a tar, or truncated"),
    "truncated": (TAR[:-9900], "not a tar, or truncated"),
    "no end": (TAR[:4096], "not a tar, or truncated"),
    "damaged header": (TAR[:1024] + b"x" * 512 + TAR[1536:], "not a tar, or truncated"),
    "cut in a header": (TAR[:1200], "not a tar, or truncated"),
    "no pictures": (tar(("0.txt", b"x")), "holds no image"),
    "no label": (tar(*PAIR, ("1.png", PIXEL)), r": 1: has no label, a file 1\.cls"),
    "no picture": (tar(*PAIR, ("1.cls", b"1")), ": 1: no images beside its label"),
    "two pictures": (tar(*PAIR, ("0.jpg", PIXEL)), ": 0: 2 images beside its label"),
    "odd label": (tar(PAIR[0], ("0.cls", b"\xff")), ": 0: its .cls file must hold"),
    "empty label": (tar(PAIR[0], ("0.cls", b"\n")), ": 0: its .cls file must hold"),
    "label with folders": (tar(PAIR[0], ("0.cls", b"../x")), ": 0: its .cls file must hold"),
    "endless label": (tar(PAIR[0], ("0.cls", b"1" * 999)), ": 0: its .cls file must hold"),
    "twice": (tar(*PAIR, *PAIR), r"the name '0\.png' occurs twice"),
    "outside": (tar(("../0.png", PIXEL), ("../0.cls", b"0")), r"'\.\./0\.png' is not a relative path"),
    "absolute": (tar(("/0.png", PIXEL)), "'/0.png' is not a relative path"),
    "backslash": (tar(("a\\0.png", PIXEL)), "is not a relative path"),
    "symbolic link": (tar(link("0.png")), "0.png is a link or device"),
    "hard link": (tar(link("0.png", tarfile.LNKTYPE)), "0.png is a link or device"),
    "device": (tar(link("0.png", tarfile.BLKTYPE)), "0.png is a link or device"),
    "not UTF-8": (tar(("\udcff.png", PIXEL)), r"\\xff\.png is not UTF-8"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_shard_is_one_line_that_names_it(what: str, tmp_path: Path) -> None:
    content, message = BAD[what]
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        open_source(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/bad.tar: ")
    assert "\n" not in str(error.value)


def test_the_same_name_in_two_shards_is_refused(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(TAR)
    with pytest.raises(UserError, match=r"'0/0\.png' occurs twice"):
        open_source(tmp_path)


def test_bad_pairs_can_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(*PAIR, ("1.png", PIXEL)))
    source = open_source(tmp_path, on_error="skip")
    assert [sample.name for sample in source.samples] == ["0/0.png"]
    assert source.skipped == [("1", "has no label, a file 1.cls")]


def copied(shards: Path, to: Path) -> Path:
    to.mkdir()
    for path in shards.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_an_index_that_does_not_fit_is_refused(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "train-index.json").read_bytes()
    index = json.loads(whole)
    first = index["shards"][0]
    for number, (change, message) in enumerate(
        (
            (whole[:-9], "not valid JSON"),
            (index | {"version": 2}, "another version"),
            (index | {"classes": ["ant", "bee"]}, "a label without a class"),
            (index | {"classes": {"ant": 0, "bee": 1, "cat": 2}}, "another version, or no classes"),
            (index | {"classes": ["ant", ".git", "cat"]}, "a class name is not a folder name"),
            (index | {"shards": [first | {"offsets": [-1] * 4}]}, "beyond the end"),
            (index | {"shards": [first | {"sizes": [10**9] * 4}]}, "beyond the end"),
            (index | {"shards": [first | {"names": ["a.png"]}]}, "another length or type"),
            (index | {"shards": [first | {"labels": ["0"] * 4}]}, "another length or type"),
            (index | {"shards": index["shards"][1:]}, "train-000000.tar: the shards here are not those"),
        )
    ):
        root = copied(shards, tmp_path / str(number))
        text = change if isinstance(change, bytes) else json.dumps(change).encode()
        (root / "train-index.json").write_bytes(text)
        with pytest.raises(UserError, match=message) as error:
            open_source(root)
        assert str(root) in str(error.value)
    names = [f"../{name}" for name in first["names"]]
    (root / "train-index.json").write_text(json.dumps(index | {"shards": [first | {"names": names}]}))
    for path in root.glob("train-00000[12].tar"):
        path.unlink()
    with pytest.raises(UserError, match="is not a relative path"):
        open_source(root)


def test_a_truncated_shard_with_an_index_is_named(shards: Path, tmp_path: Path) -> None:
    root = copied(shards, tmp_path / "cut")
    cut = root / "train-000001.tar"
    source = open_source(root)
    cut.write_bytes(cut.read_bytes()[:1024])
    with pytest.raises(UserError, match=r"train-000001\.tar: ends within bee/02\.png"):
        source.read(source.samples[5])
    with pytest.raises(UserError, match=r"cut/train-000001\.tar: has 1024 bytes, but 10240 by train-index"):
        open_source(root)
    cut.unlink()
    with pytest.raises(UserError, match=r"cut/train-000001\.tar: the shards here are not those"):
        open_source(root)


def test_what_a_folder_scan_passes_over_is_passed_over_in_a_shard(tmp_path: Path) -> None:
    litter = (("._0.png", b"x"), ("__MACOSX/0.png", b"x"))
    (tmp_path / "a.tar").write_bytes(tar(*litter, *PAIR))
    assert [sample.name for sample in open_source(tmp_path).samples] == ["0/0.png"]
    with pytest.raises(UserError, match="is one that is passed over in folders"):
        check_archive_names([".d/0.png"], ["a"], Path("x.parquet"))


def test_two_spellings_of_one_name_are_refused() -> None:
    for name in ("./0.png", "a//0.png"):
        with pytest.raises(UserError, match="is not a relative path"):
            check_archive_names(["0.png", name], ["a"], Path("x.tar"))


def test_a_plan_read_back_says_only_what_changed(shards: Path) -> None:
    samples = open_source(shards).samples[:2]
    read = [Sample(s.name, s.label, s.size, s.mtime_ns) for s in samples]
    before, now = (Chunk(0, each, [0, 0], ["a", "b"]) for each in (read, samples))
    assert describe_changes([before], [now]) == ""
    touched = Chunk(0, [read[0], replace(read[1], size=1)], [0, 0], ["a", "b"], "another")
    assert describe_changes([touched], [now]) == f"{samples[1].name} is changed"
