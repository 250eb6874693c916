"""CIFAR-10 and CIFAR-100 in their official python archives, unpacked or as the ``.tar.gz``.

The archives are pickles. They are read by an unpickler that can build lists, dictionaries, strings, numbers
and byte arrays; whatever else a file asks for is refused before any of it runs.
"""

from __future__ import annotations

import io
import math
import pickle
import tarfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from unlearnable_kernels.data.formats import FORMATS
from unlearnable_kernels.data.source import SPLIT_FOLDERS, ArraySource, Sample, Source, check_archive_names
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import read_regular

_LARGEST_MEMBER = 512 * 2**20


@dataclass(frozen=True)
class CifarFormat:
    layout: str
    dataset: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    classes_key: bytes
    labels_key: bytes

    def files(self, split: str) -> tuple[str, ...]:
        return self.train if split == "train" else self.test


CIFAR10 = CifarFormat(
    layout="cifar10-python",
    dataset="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    train=tuple(f"data_batch_{n}" for n in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    classes_key=b"label_names",
    labels_key=b"labels",
)
CIFAR100 = CifarFormat(
    layout="cifar100-python",
    dataset="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    train=("train",),
    test=("test",),
    meta="meta",
    classes_key=b"fine_label_names",
    labels_key=b"fine_labels",
)


class CifarSplit(NamedTuple):
    """images: uint8 [N, 32, 32, 3], stored by channel; labels: N indices into ``classes``."""

    images: np.ndarray
    labels: list[int]
    classes: list[str]
    filenames: list[str]
    sizes: list[int]
    mtimes_ns: list[int]


@FORMATS.register("cifar", "CIFAR-10 and CIFAR-100 as their official Python archives")
def open_cifar(root: Path, split: str, on_error: str) -> Source | None:
    """An official archive, or the folder it was unpacked into or around."""
    found = find_cifar(root)
    if found is None:
        return None
    form, place = found
    data = read_cifar(form, place, split)
    names = [
        f"{data.classes[y]}/{i:05}_{f}"
        for i, (y, f) in enumerate(zip(data.labels, data.filenames, strict=True))
    ]
    check_archive_names(names, data.classes, place)
    rows = zip(names, data.labels, data.sizes, data.mtimes_ns, strict=True)
    return ArraySource(
        root=root,
        name=form.dataset,
        layout=form.layout,
        split=split,
        prefix=split,
        classes=data.classes,
        samples=[Sample(*row) for row in rows],
        left_out=[s for s in SPLIT_FOLDERS if s != split],
        load=partial(_images, form, place, split),
        loaded=data.images,
    )


def _images(form: CifarFormat, place: Path, split: str) -> np.ndarray:
    return read_cifar(form, place, split).images


def find_cifar(path: Path) -> tuple[CifarFormat, Path] | None:
    """The format and place (folder of batches, or archive file) of what ``path`` is or holds."""
    for form in (CIFAR10, CIFAR100):
        if path.is_file():
            if path.name == form.archive:
                return form, path
            continue
        for folder in (path, path / form.folder):
            if (folder / form.meta).is_file() and any((folder / f).is_file() for f in form.train + form.test):
                return form, folder
        if (path / form.archive).is_file():
            return form, path / form.archive
    return None


def read_cifar(form: CifarFormat, place: Path, split: str) -> CifarSplit:
    """One split of an archive.

    Raises:
        UserError: A file is missing, or is not what the official archive holds there.
    """
    names = (form.meta, *form.files(split))
    contents = _from_folder(place, names) if place.is_dir() else _from_archive(place, form.folder, names)
    meta = _load(contents[form.meta], place / form.meta)
    classes = _texts(meta.get(form.classes_key), place / form.meta)
    images, labels, filenames, sizes, mtimes = [], [], [], [], []
    for name in names[1:]:
        path = place / name
        batch = _load(contents[name], path)
        pixels, batch_labels = batch.get(b"data"), batch.get(form.labels_key)
        batch_names = _texts(batch.get(b"filenames"), path)
        if not isinstance(pixels, _ByteArray) or not isinstance(batch_labels, list):
            raise UserError(f"{path}: not a CIFAR batch: it lacks data or {form.labels_key.decode()}")
        rows = pixels.array()
        if rows.shape != (len(batch_labels), 3072) or len(batch_names) != len(batch_labels):
            raise UserError(
                f"{path}: {len(batch_labels)} labels, {len(batch_names)} names, data {rows.shape}"
            )
        if not all(isinstance(label, int) and 0 <= label < len(classes) for label in batch_labels):
            raise UserError(f"{path}: a label is not one of the {len(classes)} classes")
        status = (path if place.is_dir() else place).stat()
        images.append(rows)
        labels += batch_labels
        filenames += batch_names
        sizes += [status.st_size] * len(batch_labels)
        mtimes += [status.st_mtime_ns] * len(batch_labels)
    stacked = np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return CifarSplit(stacked, labels, classes, filenames, sizes, mtimes)


def _from_folder(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    try:
        return {name: read_regular(folder / name) for name in names}
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None


def _from_archive(path: Path, folder: str, names: tuple[str, ...]) -> dict[str, bytes]:
    wanted = {f"{folder}/{name}": name for name in names}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = wanted.get(member.name.removeprefix("./"))
                if name is None or not member.isfile():
                    continue
                if member.size > _LARGEST_MEMBER:
                    raise UserError(f"{path}: {member.name} is larger than any file of the official archive")
                stream = archive.extractfile(member)
                contents[name] = stream.read() if stream else b""
            # The checksum of what came before stands at the very end.
            while archive.fileobj and archive.fileobj.read(2**20):
                pass
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path}: truncated or corrupt archive ({error})") from None
    for name in names:
        if name not in contents:
            raise UserError(f"{path}: holds no {folder}/{name}")
    return contents


def _load(data: bytes, path: Path) -> dict[Any, Any]:
    try:
        loaded = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except _ForbiddenError as error:
        raise UserError(
            f"{path}: refused, its pickle asks for {error}, which no CIFAR archive needs"
        ) from None
    except Exception as error:  # The unpickler meets damage with almost any exception.
        raise UserError(f"{path}: truncated or corrupt pickle ({shown(str(error))})") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: not a CIFAR batch")
    return loaded


def _texts(values: Any, path: Path) -> list[str]:
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in list(values)]
    except (TypeError, UnicodeDecodeError):
        raise UserError(f"{path}: its list of names is missing or unreadable") from None


class _ForbiddenError(Exception):
    pass


class _ByteType:
    """What stands in for numpy's dtype: only unsigned bytes can be built of it."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in (b"u1", "u1", b"|u1", "|u1"):
            raise _ForbiddenError(f"an array of {code!r}")

    def __setstate__(self, state: Any) -> None:
        pass


class _ByteArray:
    """What stands in for numpy's ndarray: its state is kept as it comes and checked by ``array``."""

    shape: tuple[int, ...] = ()
    content: bytes = b""
    fortran = False

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if (
            not isinstance(kind, _ByteType)
            or not isinstance(content, bytes)
            or math.prod(shape) != len(content)
        ):
            raise _ForbiddenError("an array whose shape, type and content disagree")
        self.shape, self.content, self.fortran = tuple(shape), content, bool(fortran)

    def array(self) -> np.ndarray:
        return np.frombuffer(self.content, np.uint8).reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(*_: Any) -> _ByteArray:
    return _ByteArray()


def _latin1(text: Any, encoding: Any) -> bytes:
    """Protocol 2 writes bytes as text to be encoded."""
    if encoding not in ("latin1", b"latin1"):
        raise _ForbiddenError(f"the encoding {encoding!r}")
    return str(text if isinstance(text, str) else text.decode("utf-8")).encode("latin-1")


class _Unpickler(pickle.Unpickler):
    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _ByteArray,
        ("numpy", "dtype"): _ByteType,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _ForbiddenError(f"the persistent object {pid!r}")
