"""Small datasets in shards, and what makes bad ones, for the tests of their formats."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from unlearnable_kernels.data.images import encode
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset

KEY = Key(bytes(range(32)))
CLASSES = ("ant", "bee", "cow")
PIXEL = encode(np.full((2, 2, 3), 7, np.uint8), "png")


def picture(seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_pictures(root: Path, count: int = 3) -> Path:
    """Class folders of PNG files below train/."""
    for label, name in enumerate(CLASSES):
        (root / "train" / name).mkdir(parents=True)
        for number in range(count):
            data = encode(picture(10 * label + number), "png")
            (root / "train" / name / f"{number:02d}.png").write_bytes(data)
    return root


def protect(src: Path, dst: Path, **options: Any) -> dict[str, bytes]:
    """Protect, and return the bytes of all files of the copy."""
    protect_dataset(src, dst, **{"secret": KEY, "workers": 0, **options})
    assert not dst.with_name(dst.name + ".partial").exists()
    return {p.relative_to(dst).as_posix(): p.read_bytes() for p in dst.rglob("*") if p.is_file()}


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A tar of files with these contents, or of members as they are."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            data = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


TAR = tar(("0.png", PIXEL), ("0.cls", b"0"), ("1.png", PIXEL), ("1.cls", b"1"))
