"""Manifests of large sets, whose entries lie in Parquet parts: here of two entries each."""

import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pytest
from pyarrow import parquet
from sample_shards import KEY, protect, write_pictures

from unlearnable_kernels.cli.protect_commands import summary_of
from unlearnable_kernels.data import manifest_entries
from unlearnable_kernels.data.manifest import MANIFEST_NAME, find_manifest, read_manifest
from unlearnable_kernels.data.manifest_entries import Entry, part_name, read_parts, text_array, write_parts
from unlearnable_kernels.datasets import Protected
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.extend import extend_dataset
from unlearnable_kernels.protect.keys import sign
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.verify import VerifyReport, verify_dataset
from unlearnable_kernels.report.contact_sheet import write_comparison

FORMATS = ("png", "npz", "webdataset:shard_size=4")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_entries, "PART_ENTRIES", 2)


@pytest.fixture
def parted(tmp_path: Path, few: None) -> Path:
    """A protected tree of nine pictures, with the half of each class protected."""
    protect(write_pictures(tmp_path / "src"), tmp_path / "dst", fraction=0.5)
    return tmp_path / "dst"


@pytest.mark.parametrize("format", FORMATS)
def test_parts_say_what_one_file_says(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    src = write_pictures(tmp_path / "src")
    whole = protect(src, tmp_path / "whole", format=format, fraction=0.5)
    monkeypatch.setattr(manifest_entries, "PART_ENTRIES", 2)
    files = protect(src, tmp_path / "dst", format=format, fraction=0.5)
    one, many = read_manifest(tmp_path / "whole"), read_manifest(tmp_path / "dst")
    assert list(many.samples()) == list(one.samples())
    assert list(many.digests()) == list(one.digests())
    assert (one["schema"], many["schema"], many["entries"], len(many["parts"])) == (1, 2, 9, 5)
    own = {MANIFEST_NAME, *map(part_name, range(5))}
    assert {name: files[name] for name in files.keys() - own} == {
        name: whole[name] for name in whole.keys() - own
    }
    assert verify_dataset(tmp_path / "dst", KEY) == verify_dataset(tmp_path / "whole", KEY)
    assert protect(src, tmp_path / "dst", format=format, fraction=0.5) == files  # complete already
    if format == "npz":
        manifest = find_manifest(tmp_path / "dst" / "train.npz")
        assert manifest is not None
        assert manifest["mac"] == many["mac"]


def test_every_reader_takes_parts(parted: Path, tmp_path: Path) -> None:
    data = Protected(parted, verify=True)
    assert sum(data.protected) == 6
    assert data.protection is not None
    assert not {"parts", "entries", "files"} & data.protection.keys()
    found = summary_of(parted / MANIFEST_NAME)
    assert (found["images"], found["protected"]) == (9, 6)
    assert write_comparison(tmp_path / "src", parted, tmp_path / "sheet.png").is_file()
    (tmp_path / "src/train/ant/01.png").rename(tmp_path / "src/train/ant/10.png")
    with pytest.raises(UserError, match=r"^1 pictures of .* such as ant/01\.png"):
        extend_dataset(tmp_path / "src", parted, secret=KEY, workers=0)
    extend_dataset(tmp_path / "src", parted, secret=KEY, workers=0, prune=True)
    assert "ant/10.png" in dict(read_manifest(parted).samples())
    assert verify_dataset(parted, KEY).ok
    with pytest.raises(UserError, match=r"pictures, such as .*, were published in another way before"):
        protect(tmp_path / "src", tmp_path / "other", fraction=1.0, earlier=[parted])


def test_executors_find_what_threads_find(parted: Path) -> None:
    (parted / "train/ant/00.png").write_bytes(b"other")
    (parted / "train/bee/00.png").unlink()
    (parted / "train/new.png").touch()
    found = verify_dataset(parted, KEY)
    assert found == VerifyReport(
        checked=8,
        missing=["train/bee/00.png"],
        extra=["train/new.png"],
        changed=["train/ant/00.png"],
        key="matches",
        quality=found.quality,
    )
    assert verify_dataset(parted, KEY, executor=Executor(workers=1)) == found


def rewritten(dst: Path, change: Callable[[list[Entry]], list[Entry]]) -> None:
    """Other entries, and a manifest that the key signed for them: it says what is wrong even then."""
    fields = dict(read_manifest(dst).fields)
    entries = change(list(read_manifest(dst).entries()))
    fields["entries"], fields["parts"] = write_parts(dst, entries)
    del fields["mac"]
    (dst / MANIFEST_NAME).write_text(json.dumps(sign(fields, KEY)))


def with_table(dst: Path, change: Callable[[Any], Any], **settings: Any) -> None:
    """Another table in the first part, with its hash in the manifest."""
    path = dst / part_name(0)
    table = parquet.ParquetFile(path).read()  # read_table would import pandas
    parquet.write_table(change(table), path, **{"compression": "none", "use_dictionary": False} | settings)
    fields = json.loads((dst / MANIFEST_NAME).read_text())
    fields["parts"][0] = hashlib.sha256(path.read_bytes()).hexdigest()
    (dst / MANIFEST_NAME).write_text(json.dumps(fields))


def renamed(table: Any, name: str) -> Any:
    return table.set_column(4, table.schema.field("name"), text_array([name] * len(table), pyarrow.string()))


def fields_of(dst: Path, **changes: Any) -> None:
    path = dst / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def linked(dst: Path) -> None:
    (dst / part_name(1)).rename(dst / "part")
    (dst / part_name(1)).symlink_to("part")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda d: (d / part_name(1)).unlink(), r"00001\.pq: missing, although the manifest lists it$"),
        (lambda d: (d / part_name(1)).write_bytes(b"x"), r"00001\.pq: has changed: its hash is not the one"),
        (linked, r"00001\.pq: a symbolic link, not a part"),
        (lambda d: with_table(d, lambda t: t.drop(["name"])), r"00000\.pq: damaged, or not .* 5 columns"),
        (
            lambda d: with_table(d, lambda t: t.set_column(2, "label", t["label"].cast("int8"))),
            "has other columns than a part of a manifest .*label int8",
        ),
        (lambda d: with_table(d, lambda t: t.slice(0, 0)), "must have 1 to 2 entries, not 0"),
        (lambda d: with_table(d, lambda t: t.slice(0, 1)), "it has 9 entries, and its parts 8$"),
        (
            lambda d: with_table(d, lambda t: t, compression="zstd"),
            "Parquet with .* neither compression",
        ),
        (lambda d: with_table(d, lambda t: t, use_dictionary=True), "neither compression nor dictionaries$"),
        (lambda d: with_table(d, lambda t: t, row_group_size=1), "which is Parquet with one row group"),
        (
            lambda d: with_table(d, lambda t: t, column_encoding={"file": "DELTA_BYTE_ARRAY"}),
            "not a part of a manifest",
        ),
        (lambda d: with_table(d, lambda t: renamed(t, "é" * 2049)), "a name must have at most 4096 bytes$"),
        (lambda d: rewritten(d, lambda e: [*e, e[0]]), "it lists the file 'train/ant/00.png' twice$"),
        (lambda d: rewritten(d, lambda e: [e[0], *e]), "it lists 'train/ant/00.png' twice$"),
        (lambda d: rewritten(d, lambda e: [e[0]._replace(file="../a"), *e[1:]]), r"lists the file '\.\./a'$"),
        (lambda d: rewritten(d, lambda e: [e[0]._replace(file="a\nb"), *e]), None),
        (lambda d: rewritten(d, lambda e: [e[0]._replace(file="/e\n"), *e]), r"lists the file '/e\\n'$"),
        (
            lambda d: rewritten(d, lambda e: [e[0]._replace(label=3), *e]),
            "lists the file 'train/ant/00.png'$",
        ),
        (
            lambda d: rewritten(d, lambda e: [e[0]._replace(file="train//ant/00.png"), *e[1:]]),
            "lists the file 'train//ant/00.png'$",
        ),
        (
            lambda d: rewritten(d, lambda e: [*e, e[0]._replace(file="./train/ant/00.png")]),
            r"lists the file '\./train/ant/00.png'$",
        ),
        (lambda d: fields_of(d, parts=[3]), "'parts' is missing or malformed$"),
        (lambda d: fields_of(d, files=5), "manifest.json: damaged: schema 2 has no 'files'$"),
        (lambda d: fields_of(d, files={}, schema=1), "damaged: schema 1 has no 'entries'$"),
        (lambda d: fields_of(d, schema=1), "'files' is missing or malformed$"),
    ],
)
def test_a_hostile_part_is_one_line(parted: Path, damage: Callable[[Path], Any], told: str | None) -> None:
    damage(parted)
    if told is None:
        assert verify_dataset(parted, KEY).missing == ["a\nb"]
        return
    with pytest.raises(UserError, match=told) as error:
        verify_dataset(parted, KEY)
    assert "\n" not in str(error.value)


def test_a_part_too_many_is_extra(parted: Path) -> None:
    (parted / part_name(5)).write_bytes((parted / part_name(4)).read_bytes())
    assert verify_dataset(parted, KEY).extra == [part_name(5)]


def test_an_earlier_attempt_leaves_no_part(tmp_path: Path, few: None) -> None:
    entries = [Entry(f"{number}.png", "00" * 32, 0, True) for number in range(5)]
    write_parts(tmp_path, entries)
    count, digests = write_parts(tmp_path, entries[:3])
    assert (count, len(digests)) == (3, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [part_name(0), part_name(1)]
    assert list(read_parts(tmp_path, digests)) == entries[:3]


def test_a_large_set_of_the_version_before_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = protect(write_pictures(tmp_path / "src"), tmp_path / "dst")
    monkeypatch.setattr(manifest_entries, "PART_ENTRIES", 2)
    assert protect(tmp_path / "src", tmp_path / "dst") == before
    extend_dataset(tmp_path / "src", tmp_path / "dst", secret=KEY, workers=0)
    assert not (tmp_path / "dst" / part_name(0)).exists()


def test_a_part_whose_metadata_lie_takes_no_more_than_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [Entry("a.tar", "00" * 32, 0, True, "n" * 4096)] * 2000
    write_parts(tmp_path, entries)
    with parquet.ParquetFile(tmp_path / part_name(0)) as file:
        table = file.read()
    parquet.write_table(table, tmp_path / part_name(0), compression="none")  # one text, in a dictionary
    digest = hashlib.sha256((tmp_path / part_name(0)).read_bytes()).hexdigest()
    monkeypatch.setattr(manifest_entries, "is_plain", lambda data, columns: True)
    pool = pyarrow.proxy_memory_pool(before := pyarrow.default_memory_pool())
    tracemalloc.start()
    pyarrow.set_memory_pool(pool)
    try:
        assert next(read_parts(tmp_path, [digest])) == entries[0]
        assert pool.max_memory() < 2**20
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        pyarrow.set_memory_pool(before)
        tracemalloc.stop()


def test_names_that_cannot_be_read_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^n{80}…: a name must have at most 4096 bytes to be listed$"):
        write_parts(tmp_path, [Entry("a.tar", "00" * 32, 0, True, "n" * 4097)])


def test_a_part_is_a_file_of_limited_size(parted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = read_manifest(parted)
    monkeypatch.setattr(manifest_entries, "_LARGEST", 10)
    with pytest.raises(UserError, match=r"00000\.pq: must be at most 10 bytes, and is larger$"):
        list(fields.entries())
    fsspec.filesystem("memory").put_file(str(parted / part_name(0)), f"/limit/{part_name(0)}")
    with pytest.raises(UserError, match=r"^memory://limit/.*: must be at most 10 bytes, and is larger$"):
        list(read_parts(Path("memory://limit"), fields["parts"]))
    with pytest.raises(UserError, match=r"^memory://none/.*: missing, although the manifest lists it$"):
        list(read_parts(Path("memory://none"), fields["parts"]))
    (parted / part_name(0)).unlink()
    os.mkfifo(parted / part_name(0))
    with pytest.raises(UserError, match=r"00000\.pq: cannot be read: not a regular file$"):
        verify_dataset(parted)


@pytest.mark.parametrize("parts", [5, None, ["x"]])
def test_a_small_set_has_no_parts(tmp_path: Path, parts: object) -> None:
    protect(write_pictures(tmp_path / "src", 1), tmp_path / "dst")
    fields_of(tmp_path / "dst", parts=parts)
    (tmp_path / "dst" / part_name(0)).touch()
    with pytest.raises(UserError, match=r"manifest\.json: damaged: schema 1 has no 'parts'$"):
        verify_dataset(tmp_path / "dst")


def test_names_from_a_manifest_are_one_line(parted: Path, tmp_path: Path) -> None:
    rewritten(parted, lambda entries: [entries[0]._replace(file="a\n\x1b[31mb"), *entries])
    with pytest.raises(UserError, match=r"1 files missing, such as a\\n\\x1b\[31mb$"):
        Protected(parted, verify=True)
    with pytest.raises(UserError, match=r"is missing; bring it back") as error:
        Protected(parted)
    assert r": a\n\x1b[31mb is" in str(error.value)
    with pytest.raises(UserError, match=r"holds this dataset, but a\\n\\x1b\[31mb is missing; "):
        protect(tmp_path / "src", parted, fraction=0.5)
    rewritten(parted, lambda entries: [entries[1]._replace(file="a\nb"), *entries[1:]])
    (parted / "a\nb").touch()
    with pytest.raises(UserError, match=r"holds this dataset, but a\\nb has changed; "):
        protect(tmp_path / "src", parted, fraction=0.5)


def test_readers_take_no_picture_that_is_listed_twice(parted: Path) -> None:
    rewritten(parted, lambda entries: [*entries, entries[0]._replace(protected=not entries[0].protected)])
    with pytest.raises(UserError, match=r"manifest\.json: damaged: it lists 'ant/00\.png' twice$"):
        Protected(parted)
