"""All images of a split as one uint8 array in an .npz, the same bytes every time."""

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, ClassVar

import numpy as np

from unlearnable_kernels.data.formats import FORMATS, WRITERS
from unlearnable_kernels.data.formats.folder import dataset_name
from unlearnable_kernels.data.manifest_entries import Entry
from unlearnable_kernels.data.source import (
    SPLIT_FOLDERS,
    ArraySource,
    Sample,
    Source,
    check_archivable,
    check_archive_names,
)
from unlearnable_kernels.data.writer import Destination, Writer, WrittenChunk, read_piece
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import sha256_of, write_file

# Whatever the clock says: the bytes must not depend on it.
_DATE = (1980, 1, 1, 0, 0, 0)


@FORMATS.register("npz", "a .npz that protect wrote, or a folder of train.npz and test.npz")
def open_npz(root: Path, split: str, on_error: str) -> Source | None:
    """An array file, or the one of the split in a folder of such files."""
    if root.is_file():
        if root.suffix != ".npz":
            return None
        path, split = root, ""
    elif any((root / f"{name}.npz").is_file() for name in SPLIT_FOLDERS):
        path = root / f"{split}.npz"
    else:
        return None
    arrays = _load(path)
    images, labels, names = arrays["images"], arrays["labels"], arrays["names"].tolist()
    classes = arrays["classes"].tolist()
    check_archive_names(names, classes, path)
    status = path.stat()
    dataset = dataset_name(root if root.is_dir() else root.parent, classes)
    return ArraySource(
        root=root,
        name=dataset,
        layout="npz",
        split=split,
        prefix=split,
        classes=classes,
        samples=[
            Sample(n, y, status.st_size, status.st_mtime_ns)
            for n, y in zip(names, labels.tolist(), strict=True)
        ],
        left_out=[s for s in SPLIT_FOLDERS if s != split and root.is_dir() and (root / f"{s}.npz").is_file()],
        load=partial(_images, path),
        loaded=images,
    )


@WRITERS.register("npz", "one array of all images, which need one size")
@dataclass(frozen=True)
class NpzWriter(Writer):
    """The pixels of each chunk wait in a file of their own until the array is put together."""

    encodes: ClassVar[bool] = False
    one_size: ClassVar[bool] = True

    def outputs(self, source: Source) -> list[str]:
        """The samples' own names."""
        check_archivable(source)
        return [sample.name for sample in source.samples]

    def prepare(self, destination: Destination, outputs: Sequence[str]) -> None:
        destination.parts.mkdir(parents=True, exist_ok=True)

    def encode(self, image: np.ndarray, destination: Destination, name: str, profile: bytes) -> bytes:
        height, width, _ = destination.shape
        if image.shape != destination.shape:
            raise UserError(
                f"{name}: {image.shape[1]}x{image.shape[0]} pixels, but the first image has "
                f"{width}x{height}, and an array needs one size: resize, or another format"
            )
        return image.tobytes()

    def write(
        self,
        destination: Destination,
        index: int,
        outputs: Sequence[str],
        encoded: Iterable[tuple[int, bytes]],
    ) -> list[str | None]:
        data = b"".join(pixels for _, pixels in sorted(encoded))
        write_file(self._part(destination, index), data)
        return [hashlib.sha256(data).hexdigest()]

    def files(self, destination: Destination, index: int, outputs: Sequence[str]) -> list[Path]:
        return [self._part(destination, index)]

    def seal(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> None:
        labels = [chunk.labels[position] for chunk in chunks for position in chunk.written]
        names = [chunk.outputs[position] for chunk in chunks for position in chunk.written]
        parts = (read_piece(self._part(destination, chunk.index), chunk.sha256[0]) for chunk in chunks)
        write_npz(
            self._array(destination), parts, destination.shape, labels, destination.source.classes, names
        )

    def entries(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> Iterator[Entry]:
        array = self._array(destination)
        digest = sha256_of(array)
        for chunk in chunks:
            for row in chunk.written:
                yield Entry(array.name, digest, chunk.labels[row], chunk.protected[row], chunk.outputs[row])

    def _part(self, destination: Destination, index: int) -> Path:
        return destination.parts / f"{index:08d}.raw"

    def _array(self, destination: Destination) -> Path:
        return destination.tree / f"{destination.source.split or 'train'}.npz"


def write_npz(
    path: Path,
    parts: Iterable[bytes],
    shape: tuple[int, ...],
    labels: Sequence[int],
    classes: Sequence[str],
    names: Sequence[str],
) -> None:
    """Write what ``numpy.load(path, allow_pickle=False)`` reads; the images never are in memory together.

    images: uint8 [N, H, W, 3], ``parts`` one after the other, ``shape`` being [H, W, 3];
    labels: int64 [N], indices into ``classes``; names: of the samples. Raises OSError.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with _member(archive, "images") as file:
            _header(file, np.dtype(np.uint8), (len(labels), *shape))
            for part in parts:
                file.write(part)
        for name, array in (
            ("labels", np.array(labels, dtype="<i8")),
            ("classes", np.array(classes, dtype=np.str_)),
            ("names", np.array(names, dtype=np.str_)),
        ):
            with _member(archive, name) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True)


def _header(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    description = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(file, description)


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path.parent}: holds no {path.name}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("images", "labels", "classes", "names")}
    except Exception as error:  # A damaged zip is met with many kinds of exception.
        raise UserError(f"{path}: not a .npz that protect wrote ({error})") from None
    images, labels, classes, names = arrays.values()
    count = len(names)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) != count:
        raise UserError(
            f"{path}: images must be uint8 [{count}, H, W, 3], not {images.dtype} {list(images.shape)}"
        )
    if (
        labels.dtype != np.int64
        or labels.shape != (count,)
        or classes.dtype.kind != "U"
        or names.dtype.kind != "U"
    ):
        raise UserError(f"{path}: labels must be int64 [{count}], classes and names text")
    if count and not 0 <= labels.min() <= labels.max() < len(classes):
        raise UserError(f"{path}: a label is not one of the {len(classes)} classes")
    return arrays


def _images(path: Path) -> np.ndarray:
    return _load(path)["images"]
