"""Damaged and hostile files: a valid result or one line, never another exception, nor memory without end.

A few cases of each kind by day, the same each time; ten thousand by night, with `make fuzz`.
"""

import hashlib
import io
import json
import pickle
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_images import photo, saved
from sample_results import sample_result
from test_protect_resume import KEY, contents, interrupted, make_tree

from unlearnable_kernels.data import manifest_entries
from unlearnable_kernels.data.formats.cifar import CIFAR10
from unlearnable_kernels.data.images import decode
from unlearnable_kernels.data.images.headers import jpeg_header, most_bits, png_header
from unlearnable_kernels.data.manifest import read_manifest
from unlearnable_kernels.data.source import load_image, open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import create_key_file, read_key_file
from unlearnable_kernels.protect.pipeline import plan as plan_module
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.verify import verify_dataset
from unlearnable_kernels.recipes.papers import ROWS
from unlearnable_kernels.recipes.results import listing, read_result
from unlearnable_kernels.report.contact_sheet import write_comparison
from unlearnable_kernels.report.matrix import tables
from unlearnable_kernels.report.matrix_text import text_rows
from unlearnable_kernels.report.runs import read_entries
from unlearnable_kernels.report.summary import summarise
from unlearnable_kernels.report.table import table_rows

MEMORY = 2 * 2**30  # more than the largest picture that is decoded needs

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from(
        [0, 1, -1, 1e308, -0.0, 2**63, "", "..", "/", "a/../b", "\0", "\n", "\ud800", "$x{", "0" * 300]
    )
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=8)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    """What would take more than ``MEMORY`` beyond what is in use fails."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def decided(read: Callable[[], Any]) -> Any:
    """What ``read`` returns, or None after an error of one line."""
    try:
        return read()
    except UserError as error:
        told = str(error)
    assert not [part for part in ("\n", "MemoryError", "Unable to allocate") if part in told], told
    return None


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` with a few bytes changed, left out, repeated or put in, or cut off."""
    result = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(result)))
        end = min(len(result), at + draw(st.sampled_from([0, 1, 1, 2, 4, 8, 64])))
        new = draw(
            st.binary(max_size=4)
            | st.sampled_from(
                [b"", b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"[" * 3000]
            )
        )
        result[at:end] = new if draw(st.booleans()) else result[at:end] + new
        if draw(st.integers(0, 9)) == 0:
            del result[draw(st.integers(0, len(result))) :]
    return bytes(result)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


@st.composite
def altered(draw: st.DrawFn, document: Any) -> bytes:
    """A JSON text with another value in some place, a name less, or a name twice; or with damaged bytes."""
    text = json.dumps(document)
    kind = draw(st.sampled_from(["value", "value", "value", "less", "bytes"]))
    if kind == "bytes":
        return draw(damaged(text.encode()))
    whole = [json.loads(text)]
    for _ in range(draw(st.integers(1, 2))):
        *path, last = draw(st.sampled_from(list(places(whole))[1:]))
        holder = whole
        for key in path:
            holder = holder[key]
        if kind == "less":
            del holder[last]
            break
        holder[last] = draw(values)
    return json.dumps(whole[0] if whole else None).encode()


# A protected set's manifest, in every place where one is read.


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protected")
    make_tree(folder / "src", 4)
    protect_dataset(folder / "src", folder / "dst", secret=KEY, workers=0)
    protect_dataset(folder / "src", folder / "npz", secret=KEY, workers=0, format="npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_entries, "PART_ENTRIES", 2)
        protect_dataset(folder / "src", folder / "parts", secret=KEY, workers=0)
    return folder


@given(st.data())
def test_manifests(protected: Path, data: st.DataObject) -> None:
    folder = protected / data.draw(st.sampled_from(["dst", "npz", "parts"]))
    path = folder / "manifest.json"
    whole = path.read_bytes()
    text = data.draw(altered(json.loads(whole)))
    try:
        path.write_bytes(text)
        manifest = decided(lambda: read_manifest(folder))
        found = decided(lambda: verify_dataset(folder, KEY))
        listed = manifest and decided(lambda: list(manifest.samples()))
        assert (listed is None) == (found is None)
        if found is not None:
            same = json.dumps(manifest.fields, sort_keys=True) == json.dumps(
                json.loads(whole), sort_keys=True
            )
            assert found.ok == same
        decided(lambda: write_comparison(protected / "src", folder, protected / "sheet.png"))
    finally:
        path.write_bytes(whole)


def test_a_manifest_without_its_prefix_is_damaged(protected: Path, tmp_path: Path) -> None:
    shutil.copytree(protected / "dst", tmp_path / "dst")
    path = tmp_path / "dst" / "manifest.json"
    whole = json.loads(path.read_bytes())
    path.write_text(json.dumps({name: value for name, value in whole.items() if name != "prefix"}))
    with pytest.raises(UserError, match="damaged: 'prefix' is missing or malformed"):
        read_manifest(tmp_path / "dst")


@pytest.mark.parametrize("samples", [None, [], "x", 1])
def test_samples_of_a_manifest_that_are_no_table(protected: Path, tmp_path: Path, samples: object) -> None:
    whole = json.loads((protected / "npz" / "manifest.json").read_bytes())
    whole["files"]["train.npz"]["samples"] = samples
    (tmp_path / "manifest.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"damaged: it lists the file 'train\.npz'"):
        read_manifest(tmp_path)


@given(st.data())
def test_parts_of_manifests(protected: Path, data: st.DataObject) -> None:
    folder = protected / "parts"
    path, part = folder / "manifest.json", folder / manifest_entries.part_name(0)
    whole, before = path.read_bytes(), part.read_bytes()
    after = data.draw(damaged(before))
    fields = json.loads(whole)
    fields["parts"][0] = hashlib.sha256(after).hexdigest()
    try:
        part.write_bytes(after)
        path.write_text(json.dumps(fields))
        found = decided(lambda: verify_dataset(folder, KEY))
        assert found is None or found.ok == (before == after)
        decided(lambda: write_comparison(protected / "src", folder, protected / "sheet.png"))
    finally:
        path.write_bytes(whole)
        part.write_bytes(before)


# An unfinished run: whatever stands in its files, the set is made as asked for, or not at all.


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unfinished")
    make_tree(folder / "src", 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "CHUNK_IMAGES", 2)
        protect_dataset(folder / "src", folder / "whole", secret=KEY, workers=0)
        interrupted(folder / "src", folder / "dst", 4)
    (folder / "dst.partial").rename(folder / "begun")
    return folder


@given(st.data())
def test_unfinished_runs(unfinished: Path, data: st.DataObject) -> None:
    dst, staging = unfinished / "dst", unfinished / "dst.partial"
    for folder in (dst, staging):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(unfinished / "begun", staging)
    files = sorted(path for path in staging.rglob("*") if path.is_file() and path.name != "lock")
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    with suppress(ValueError):
        path.write_bytes(data.draw(altered(json.loads(content)) | damaged(content)))
    if path.read_bytes() == content:
        path.write_bytes(data.draw(damaged(content)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "CHUNK_IMAGES", 2)
        # By sizes alone, another byte in a picture would be left to verify.
        resume = partial(protect_dataset, unfinished / "src", dst, secret=KEY, workers=0, rehash=True)
        if decided(resume) is None:
            assert not dst.exists()
        else:
            assert contents(dst) == contents(unfinished / "whole")


# Keys.


@given(st.data())
def test_key_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.key"
    path.unlink(missing_ok=True)
    create_key_file(path)
    text = data.draw(damaged(path.read_bytes()))
    path.write_bytes(text)
    found = decided(lambda: read_key_file(path))
    assert found is None or found.material.hex().encode() in text.lower()


# Archives.


def opened(path: Path) -> None:
    source = open_source(path, "train")
    for sample in source.samples[:3]:
        image = load_image(source, sample, None)
        assert image.dtype == np.uint8
        assert image.ndim == 3


ARRAYS = {
    "images": np.zeros((3, 4, 4, 3), np.uint8),
    "labels": np.array([0, 1, 0], np.int64),
    "classes": np.array(["a", "b"]),
    "names": np.array(["a/0", "b/1", "a/2"]),
}


@st.composite
def npz_archives(draw: st.DrawFn) -> bytes:
    arrays = dict(ARRAYS)
    if draw(st.booleans()):
        shape = st.lists(st.integers(0, 4), max_size=5).map(tuple)
        arrays[draw(st.sampled_from(sorted(arrays)))] = draw(
            st.builds(
                np.ones, shape, st.sampled_from(["u1", "<i8", "<i4", "<f8", "<U3", "<M8[s]", "S2", "?"])
            )
            | st.builds(np.array, st.lists(st.text(max_size=3), max_size=4))
        )
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    data = stream.getvalue()
    # Another shape in the header of an array, of as many digits.
    old = draw(st.sampled_from([b"(3, 4, 4, 3)", b"(3,)", b"(2,)", b"'|u1'", b""]))
    new = draw(st.sampled_from([b"(9, 9, 9, 9)", b"(9**99,4,4,3", b"(-3, 4,4, 3)", b"(9,)", b"'|O' "]))
    if old and len(old) == len(new):
        data = data.replace(old, new)
    if draw(st.booleans()):
        data = draw(damaged(data))
    return data


@given(st.data())
def test_npz_archives(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    path.write_bytes(data.draw(npz_archives()))
    decided(lambda: opened(path))


META = {b"label_names": [b"cat", b"dog"]}
BATCH = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1], b"filenames": [b"a.png", b"b.png"]}
odd = leaves.filter(lambda value: not isinstance(value, str) or value.isprintable()) | st.binary(max_size=3)


@st.composite
def cifar_files(draw: st.DrawFn) -> tuple[bytes, bytes]:
    meta, batch = dict(META), dict(BATCH)
    for part in draw(st.lists(st.sampled_from([meta, batch]), max_size=2)):
        name = draw(st.sampled_from(sorted(part)))
        part[name] = draw(odd | st.lists(odd, min_size=2, max_size=2))  # type: ignore[assignment]
    texts = [pickle.dumps(part, protocol=draw(st.sampled_from([0, 2, 4]))) for part in (meta, batch)]
    return tuple(draw(damaged(text)) if draw(st.booleans()) else text for text in texts)  # type: ignore[return-value]


@given(st.data())
def test_cifar_archives(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-cifar" / CIFAR10.folder
    folder.mkdir(parents=True, exist_ok=True)
    meta, batch = data.draw(cifar_files())
    (folder / CIFAR10.meta).write_bytes(meta)
    for name in CIFAR10.train:
        (folder / name).write_bytes(batch)
    decided(lambda: opened(folder))


# Headers and pictures.

PICTURES = [
    saved(photo(9, 7), format, **options)
    for format, options in [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("PPM", {}),
        ("AVIF", {}),
    ]
]


@given(st.data())
def test_headers(data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(PICTURES).flatmap(damaged) | st.binary(max_size=64))
    jpeg_header(content)
    most_bits(content)
    with suppress(ValueError):
        png_header(content)


@given(st.data())
def test_pictures(data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(PICTURES).flatmap(damaged))
    image = decided(lambda: decode(content, "name"))
    if image is not None:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3


# Run folders and results, as the report reads them.

CONFIG = {"train": "/nowhere", "test": "/nowhere", "network": "resnet8", "epochs": 1}
DATA = {"path": "/nowhere", "images": 2, "sha256": "0"}
RUN = {
    "status": "finished",
    "classes": ["a", "b"],
    "image_size": 32,
    "train": {
        **DATA,
        "protection": {"method": "classwise-conv", "parameters": {"fraction": 1.0, "loop": {}}},
    },
    "test": DATA,
    "plugins": {},
    "fresh_tensors": None,
    "device": "cpu",
    "machine": {"cpu": "x", "cores": 1, "memory_gib": 1.0, "gpu": None},
    "versions": {"torch": "2"},
    "final": {"epoch": 1, "train_accuracy": 0.5, "train_loss": 1.0},
}
METRICS = {"epoch": 1, "train_accuracy": 0.5, "train_loss": 1.0, "test_accuracy": 0.5}
EVALUATION = {"test": "/nowhere", "accuracy": 0.5, "images": 2, "attack": {"name": "pgd"}}


def damage_one(data: st.DataObject, folder: Path, files: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    for name, document in files.items():
        (folder / name).write_text(json.dumps(document) + "\n")
    name = data.draw(st.sampled_from(sorted(files)))
    (folder / name).write_bytes(data.draw(altered(files[name])) + b"\n")


@given(st.data())
def test_run_folders(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-run"
    files = {
        "config.json": CONFIG,
        "run.json": RUN,
        "metrics.jsonl": METRICS,
        "evaluations.jsonl": EVALUATION,
    }
    damage_one(data, folder, files)

    def read() -> None:
        entries = read_entries([folder])
        table_rows(entries)
        summarise(entries)

    decided(read)


@given(st.data())
def test_results(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-results"
    damage_one(data, folder, {"result.json": sample_result("small-grid/plain/zeros", [0.5, 0.6])})

    def read() -> None:
        result = read_result(folder / "result.json")
        listing(list(ROWS.values()), [result])
        for table in tables([result]):
            text_rows(table)

    decided(read)
