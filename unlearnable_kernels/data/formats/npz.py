"""Protected arrays: the pixels of all chunks as one .npz, the same bytes every time."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

# Whatever the clock says: the bytes must not depend on it.
_DATE = (1980, 1, 1, 0, 0, 0)


def write_npz(
    path: Path,
    parts: Iterable[Path],
    shape: tuple[int, ...],
    labels: Sequence[int],
    classes: Sequence[str],
    names: Sequence[str],
) -> None:
    """Write what ``numpy.load(path, allow_pickle=False)`` reads; the images never are in memory together.

    images: uint8 [N, H, W, 3], the bytes of ``parts`` one after the other, ``shape`` being [H, W, 3];
    labels: int64 [N], indices into ``classes``; names: of the samples. Raises OSError.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with _member(archive, "images") as file:
            _header(file, np.dtype(np.uint8), (len(labels), *shape))
            for part in parts:
                file.write(part.read_bytes())
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
