"""Parquet in both directions, as Hugging Face's datasets read and write it, and what is refused."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sample_shards import CLASSES, KEY, PIXEL, protect, write_pictures

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.formats import WRITERS
from unlearnable_kernels.data.formats import parquet as parquet_module
from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.protect.pipeline import plan as plan_module
from unlearnable_kernels.protect.verify import verify_dataset

NAMES = [f"{name}/{number:02d}.png" for name in CLASSES for number in range(3)]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("src") / "zoo")


@pytest.fixture(scope="module")
def tables(zoo: Path) -> Path:
    """A protected copy of nine pictures in tables of five, in row groups of two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_module, "ROW_GROUP", 2)
        protect(zoo, zoo.with_name("tables"), format="parquet:shard_size=5")
    return zoo.with_name("tables")


@pytest.fixture(scope="module")
def tree(zoo: Path) -> Path:
    protect(zoo, zoo.with_name("tree"))
    return zoo.with_name("tree")


def test_tables_hold_what_a_tree_does(tables: Path, tree: Path) -> None:
    assert sorted(path.name for path in tables.iterdir()) == [
        "manifest.json",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    here, there = load_arrays(tables), load_arrays(tree)
    assert torch.equal(here.images, there.images)
    assert (here.names, here.classes) == (NAMES, list(CLASSES))
    assert torch.equal(here.labels, there.labels)
    assert here.protected_flags() == [True] * 9
    assert verify_dataset(tables, KEY).ok
    source = open_source(tables)
    assert (source.layout, source.split, source.left_out) == ("parquet", "train", [])
    for sample in reversed(source.samples):
        assert source.read(sample) == (tree / "train" / sample.name).read_bytes()
        assert sample.size >= len(PIXEL)


def test_row_groups_are_small_and_images_not_compressed_again(tables: Path) -> None:
    facts = pq.ParquetFile(tables / "train-00000-of-00002.parquet").metadata
    assert [facts.row_group(n).num_rows for n in range(facts.num_row_groups)] == [2, 2, 1]
    assert {facts.row_group(0).column(n).compression for n in range(3)} == {"UNCOMPRESSED"}


def test_bytes_do_not_depend_on_chunks(
    zoo: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "CHUNK_IMAGES", 2)
    monkeypatch.setattr(parquet_module, "ROW_GROUP", 2)
    files = protect(zoo, tmp_path / "again", format="parquet:shard_size=5")
    assert files == {path.name: path.read_bytes() for path in tables.iterdir()}


def test_a_changed_bit_in_a_table_is_noticed(tables: Path, tmp_path: Path) -> None:
    whole = tables / "train-00000-of-00002.parquet"
    first = open_source(whole).samples[0]
    data = bytearray(whole.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    (tmp_path / whole.name).write_bytes(data)
    source = open_source(tmp_path)
    with pytest.raises(UserError, match=r"ant/00\.png: .*parquet: not Parquet, or damaged"):
        source.read(first)


def test_tables_become_a_tree_and_other_shards(tables: Path, tmp_path: Path) -> None:
    files = protect(tables, tmp_path / "tree", fraction=0.1)
    assert {name for name in files if name != "manifest.json"} == set(NAMES)
    protect(tables, tmp_path / "shards", fraction=0.1, format="webdataset")
    assert torch.equal(load_arrays(tmp_path / "tree").images, load_arrays(tmp_path / "shards").images)


def test_hugging_face_reads_tables_and_tars(
    zoo: Path, tables: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import ClassLabel, Image, load_dataset

    def load(kind: str, files: str) -> Any:
        return load_dataset(
            kind, data_files={"train": files}, split="train", cache_dir=str(tmp_path / "cache")
        )

    expected = load_arrays(tree)
    found = load("parquet", f"{tables}/*.parquet")
    assert found.features == {"image": Image(), "label": ClassLabel(names=list(CLASSES))}
    assert found["label"] == expected.labels.tolist()
    assert np.array_equal(np.stack([np.asarray(image) for image in found["image"]]), expected.images)

    protect(zoo, tmp_path / "shards", format="webdataset:shard_size=4")
    found = load("webdataset", f"{tmp_path}/shards/*.tar")
    assert found["cls"] == expected.labels.tolist()
    assert found["__key__"] == [name[:-4] for name in NAMES]
    assert np.array_equal(np.stack([np.asarray(image) for image in found["png"]]), expected.images)


def test_hugging_faces_own_tables_are_read(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Image

    features = Features({"img": Image(), "fine_label": ClassLabel(names=["cat", "dog"])})
    images = [{"bytes": PIXEL, "path": None}] * 3
    (tmp_path / "data").mkdir()
    for split, labels in (("train", [1, 0, 1]), ("validation", [0, 0, 0])):
        dataset = Dataset.from_dict({"img": images, "fine_label": labels}, features)
        dataset.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("read me")
    source = open_source(tmp_path)
    assert (source.classes, source.split) == (["cat", "dog"], "train")
    assert [s.name for s in source.samples] == ["dog/00000000", "cat/00000001", "dog/00000002"]
    assert all(source.read(sample) == PIXEL for sample in source.samples)
    assert [s.label for s in open_source(tmp_path, "test").samples] == [0, 0, 0]
    files = protect(tmp_path, tmp_path.with_name("copy"), dataset_name="pets")
    assert set(files) == {"manifest.json", "dog/00000000.png", "cat/00000001.png", "dog/00000002.png"}


IMAGE = {"bytes": PIXEL, "path": "0.png"}


def table(images: list[Any] | None, labels: list[Any] | None, names: list[str] | None = None) -> bytes:
    columns = {"image": images, "label": labels}
    made = pa.table({name: values for name, values in columns.items() if values is not None})
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    stream = io.BytesIO()
    pq.write_table(
        made,
        stream,
        use_dictionary=False,
        compression="none",
        write_statistics=False,
        write_page_checksum=True,
    )
    return stream.getvalue()


def one(path: str) -> list[dict[str, Any]]:
    return [{"bytes": PIXEL, "path": path}]


GOOD = table([IMAGE], [0])
BAD = {
    "empty": (b"", "not Parquet, or damaged"),
    "text": (b"hello, world\n" * 99, "not Parquet, or damaged"),
    "truncated": (GOOD[:-50], "not Parquet, or damaged"),
    "no label": (table([IMAGE], None), "needs the columns image and label, and has image$"),
    "no image": (table(None, [1]), "needs the columns image and label, and has label$"),
    "no bytes": (table(["0.png"], [0]), "its column image has no bytes of files"),
    "label missing": (table([IMAGE, IMAGE], [0, None]), "row 1 must have a label, not None"),
    "label of a test set": (table([IMAGE], [-1], ["a"]), "row 0 must have a label from 0 to 0, not -1"),
    "label too large": (table([IMAGE], [1], ["a"]), "row 0 must have a label from 0 to 0, not 1"),
    "label of a test set without names": (
        table([IMAGE], [-1]),
        "row 0 must have a label of 0 or more, not -1",
    ),
    "label a fraction": (table([IMAGE], [0.5]), r"row 0 must have a label, not 0\.5"),
}
HOSTILE = {
    "outside": table(one("../../0.png"), [0]),
    "absolute": table(one("/0.png"), ["cat"]),
    "class": table(one("0.png"), [0], ["../x"]),
    "class with folders": table(one("0.png"), ["a/b"]),
    "hidden": table(one(".git/0.png"), [0]),
    "nothing": table(one("a\0.png"), [0]),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_table_is_one_line_that_names_it(what: str, tmp_path: Path) -> None:
    content, message = BAD[what]
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        open_source(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/bad.parquet: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_name_that_leads_elsewhere_is_refused(what: str, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(HOSTILE[what])
    with pytest.raises(UserError, match=r"is not a relative path|is not a folder name|is passed over"):
        open_source(tmp_path)


def test_labels_may_be_names_or_numbers_and_images_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(table([PIXEL, PIXEL], ["dog", "cat"]))
    source = open_source(tmp_path)
    assert [(s.name, s.label) for s in source.samples] == [("dog/00000000", 1), ("cat/00000001", 0)]
    assert source.read(source.samples[1]) == PIXEL
    (tmp_path / "a.parquet").write_bytes(table([IMAGE, IMAGE], [12, 3]))
    source = open_source(tmp_path / "a.parquet")
    assert [(s.name, s.label) for s in source.samples] == [("12/0.png", 1), ("3/0.png", 0)]
    (tmp_path / "a.parquet").write_bytes(table(pa.array([], pa.binary()), pa.array([], pa.string())))
    (tmp_path / "b.parquet").write_bytes(table([PIXEL], ["cat"]))
    assert open_source(tmp_path).classes == ["cat"]


def test_tables_of_one_set_agree(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(table([IMAGE], [0], ["a"]))
    (tmp_path / "b.parquet").write_bytes(table([IMAGE], [0], ["b"]))
    with pytest.raises(UserError, match=r"b\.parquet: has other columns or classes than a\.parquet"):
        open_source(tmp_path)


def test_damage_and_missing_bytes_are_met_when_an_image_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(table([IMAGE, {"bytes": None, "path": "1.png"}], [0, 0]))
    source = open_source(path)
    with pytest.raises(UserError, match=r"a\.parquet: 0/1\.png: its row has no bytes"):
        source.read(source.samples[1])
    at = (data := path.read_bytes()).index(PIXEL) + 9
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    os.utime(path, ns=(1, 1))
    source = open_source(path)
    with pytest.raises(UserError, match=r"0/0\.png: .*a\.parquet: not Parquet, or damaged"):
        source.read(source.samples[0])


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "parquet"), ("fsspec", "remote")])
def test_a_missing_package_is_named(
    package: str, extra: str, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (package, f"{package}.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    extra_module.cache_clear()
    line = rf"^{package} cannot be imported \(.*\): pip install 'unlearnable_kernels\[{extra}\]'$"
    with pytest.raises(UserError, match=line):
        open_source(tables if package == "pyarrow" else Path("memory://bucket/zoo"))
    if package == "pyarrow":
        with pytest.raises(UserError, match=line):
            WRITERS.create("parquet").check()
    extra_module.cache_clear()
