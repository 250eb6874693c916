"""CIFAR's official archives, on small ones written as Python 2 wrote the real ones; and hostile pickles."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from unlearnable_kernels.data.formats.cifar import CIFAR10, CIFAR100, CifarFormat
from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.errors import UserError

CLASSES = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "cifar100": [f"kind_{i:03}" for i in range(100)],
}


class Python2:
    """What Python 2's cPickle wrote at protocol 2: text as bytes, arrays by numpy.core.multiarray."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")

    def dumps(self, value: object) -> bytes:
        self.write(value)
        return bytes(self.out + b".")

    def write(self, value: object) -> None:
        if isinstance(value, bytes):
            short = len(value) < 256
            self.out += (
                b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))
            ) + value
        elif isinstance(value, bool) or value is None:
            self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int):
            self.out += b"J" + struct.pack("<i", value)
        elif isinstance(value, (list, tuple)):
            self.out += b"(" if isinstance(value, tuple) else b"]("
            for item in value:
                self.write(item)
            self.out += b"t" if isinstance(value, tuple) else b"e"
        elif isinstance(value, dict):
            self.out += b"}("
            for key, item in value.items():
                self.write(key)
                self.write(item)
            self.out += b"u"
        elif isinstance(value, np.ndarray):
            self.array(value)
        else:
            raise TypeError(type(value))

    def array(self, value: np.ndarray) -> None:
        self.out += b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        self.write((0,))
        self.write(b"b")
        self.out += b"tR("
        self.write(1)
        self.write(value.shape)
        self.out += b"cnumpy\ndtype\n("
        for item in (value.dtype.str.lstrip("|<").encode(), 0, 1):
            self.write(item)
        self.out += b"tR"
        self.write((3, b"|", None, None, None, -1, -1, 0))
        self.out += b"b"
        self.write(value.flags.f_contiguous and not value.flags.c_contiguous)
        self.write(value.tobytes(order="A"))
        self.out += b"tb"


def python2(value: object) -> bytes:
    return Python2().dumps(value)


def python3(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


def batch(form: CifarFormat, count: int, seed: int) -> dict[bytes, object]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(CLASSES[form.dataset]), size=count).tolist()
    return {
        b"batch_label": b"training batch 1 of 5",
        form.labels_key: labels,
        b"data": rng.integers(0, 256, (count, 3072), np.uint8),
        b"filenames": [b"leptodactylus_s_%06d.png" % i for i in range(count)],
    }


def write(form: CifarFormat, root: Path, dumps=python2, **changes: bytes) -> Path:
    folder = root / form.folder
    folder.mkdir(parents=True)
    meta = {form.classes_key: [name.encode() for name in CLASSES[form.dataset]], b"num_vis": 3072}
    files = {form.meta: dumps(meta)}
    files |= {name: dumps(batch(form, 4, seed)) for seed, name in enumerate(form.train + form.test)}
    for name, content in (files | changes).items():
        (folder / name).write_bytes(content)
    return folder


def pack(form: CifarFormat, folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=form.folder)
    return archive


def test_what_these_tests_write_is_a_pickle():
    value = batch(CIFAR10, 2, 0)
    read = pickle.loads(python2(value), encoding="bytes")
    np.testing.assert_array_equal(read.pop(b"data"), value.pop(b"data"))
    assert read == value


@pytest.mark.parametrize("form", [CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
@pytest.mark.parametrize("dumps", [python2, python3])
def test_reads_both_splits(tmp_path, form, dumps):
    folder = write(form, tmp_path, dumps)
    for split, files in (("train", form.train), ("test", form.test)):
        source = open_source(folder, split=split)
        assert (source.name, source.layout, source.split, source.prefix) == (
            form.dataset,
            form.layout,
            split,
            split,
        )
        assert source.classes == CLASSES[form.dataset]
        assert len(source.samples) == 4 * len(files)
        assert source.left_out == [{"train": "test", "test": "train"}[split]]
        expected = [batch(form, 4, seed) for seed, name in enumerate(form.train + form.test) if name in files]
        planes = np.concatenate([b[b"data"] for b in expected]).reshape(-1, 3, 32, 32)
        labels = [label for b in expected for label in b[form.labels_key]]
        assert [sample.label for sample in source.samples] == labels
        for i, sample in enumerate(source.samples):
            assert sample.name == f"{source.classes[labels[i]]}/{i:05}_leptodactylus_s_{i % 4:06}.png"
            image = source.read(sample)
            np.testing.assert_array_equal(image, planes[i].transpose(1, 2, 0))
            assert image.flags.c_contiguous
        np.testing.assert_array_equal(source.images(), planes.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("form", [CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def test_the_folder_around_it_and_the_archive_are_the_same(tmp_path, form):
    folder = write(form, tmp_path / "unpacked")
    (tmp_path / "packed").mkdir()
    archive = pack(form, folder, tmp_path / "packed" / form.archive)
    direct = open_source(folder)
    for path in (folder.parent, archive, archive.parent):
        source = open_source(path)
        assert [(s.name, s.label) for s in source.samples] == [(s.name, s.label) for s in direct.samples]
        np.testing.assert_array_equal(source.images(), direct.images())
    facts = archive.stat()
    assert {(s.size, s.mtime_ns) for s in open_source(archive).samples} == {
        (facts.st_size, facts.st_mtime_ns)
    }


def test_travels_without_its_images(tmp_path):
    source = open_source(write(CIFAR10, tmp_path))
    expected = source.read(source.samples[3])
    data = pickle.dumps(source)
    assert expected.tobytes() not in data
    assert len(data) < 3072
    np.testing.assert_array_equal(pickle.loads(data).read(source.samples[3]), expected)


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("where", ["data_batch_3", "batches.meta"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_pickle_that_runs_something_is_refused_unrun(tmp_path, where, packed):
    marker = tmp_path / "owned"
    attack = pickle.dumps({b"data": Attack(marker)}, protocol=2)
    path = write(CIFAR10, tmp_path / "bad", **{where: attack})
    if packed:
        path = pack(CIFAR10, path, tmp_path / CIFAR10.archive)
    with pytest.raises(
        UserError, match=rf"{where}: refused, its pickle asks for .*, which no CIFAR archive needs"
    ):
        open_source(path)
    assert not marker.exists()
    pickle.loads(attack)
    assert marker.exists(), "the attack itself must work"


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(U\x04truetR.",
        b"cbuiltins\neval\n(U\x011tR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"cnumpy\nload\n(U\x01xtR.",
        b"U\x01xQ.",
        b"\x82\x01.",
        python2({b"data": np.zeros((1, 3072))}),
        python2({b"data": np.zeros((4, 3072), np.int8)}),
        pickle.dumps({b"data": np.array([object()], dtype=object)}, protocol=2),
    ],
)
def test_other_things_pickles_can_ask_for_are_refused(tmp_path, content):
    with pytest.raises(UserError, match=r"refused, its pickle asks for|corrupt"):
        open_source(write(CIFAR10, tmp_path, data_batch_1=content))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({b"data": None}, "lacks data"),
        ({b"data": np.zeros((3, 3072), np.uint8)}, r"4 labels, 4 names, data \(3, 3072\)"),
        ({b"data": np.zeros((4, 3071), np.uint8)}, "4 labels"),
        ({b"labels": [0, 1, 2, 10]}, "not one of the 10 classes"),
        ({b"labels": [0, 1, 2, -1]}, "not one of the 10 classes"),
        ({b"labels": [0, 1, 2, b"3"]}, "not one of the 10 classes"),
        ({b"labels": [0, 1, 2]}, "3 labels"),
        ({b"filenames": None}, "list of names is missing"),
        ({b"filenames": [b"a", b"b", b"c", b"\xff"]}, "list of names is missing or unreadable"),
        ({b"filenames": [b"a", b"b", b"c", b"../../x"]}, "not a relative path"),
    ],
)
def test_batches_with_faults(tmp_path, change, match):
    with pytest.raises(UserError, match=match):
        open_source(write(CIFAR10, tmp_path, data_batch_1=python2(batch(CIFAR10, 4, 0) | change)))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02", b"no pickle", b"F\x010.0\ns.", python2([1]), python2(batch(CIFAR10, 4, 0))[:-99]],
)
def test_damaged_batches(tmp_path, content):
    with pytest.raises(
        UserError, match=r"data_batch_2: (truncated or corrupt pickle|not a CIFAR batch)"
    ) as caught:
        open_source(write(CIFAR10, tmp_path, data_batch_2=content))
    assert "\n" not in str(caught.value)


def test_missing_batches(tmp_path):
    folder = write(CIFAR10, tmp_path / "a")
    (folder / "data_batch_4").unlink()
    with pytest.raises(UserError, match=r"data_batch_4: No such file"):
        open_source(folder)
    with pytest.raises(UserError, match=r"holds no cifar-10-batches-py/data_batch_4"):
        open_source(pack(CIFAR10, folder, tmp_path / CIFAR10.archive))


def test_damaged_archives(tmp_path):
    archive = pack(CIFAR10, write(CIFAR10, tmp_path / "a"), tmp_path / CIFAR10.archive)
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no archive", whole[:5000] + bytes(50) + whole[5050:]):
        archive.write_bytes(content)
        with pytest.raises(UserError, match=r"cifar-10-python.tar.gz: "):
            open_source(archive)


def test_links_in_an_archive_are_not_followed(tmp_path):
    folder = write(CIFAR10, tmp_path / "a")
    (folder / "data_batch_1").unlink()
    archive = pack(CIFAR10, folder, tmp_path / CIFAR10.archive)
    with (
        tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as tar,
        tarfile.open(archive, "w:gz") as changed,
    ):
        for member in tar:
            changed.addfile(member, tar.extractfile(member) if member.isfile() else None)
        link = tarfile.TarInfo(f"{CIFAR10.folder}/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, str(folder / "data_batch_2")
        changed.addfile(link)
    with pytest.raises(UserError, match="holds no cifar-10-batches-py/data_batch_1"):
        open_source(archive)
