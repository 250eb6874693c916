"""The formats in which datasets lie on disk: one file for each, which opens it and may write it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from unlearnable_kernels.registry import Registry

if TYPE_CHECKING:
    from unlearnable_kernels.data.source import Source
    from unlearnable_kernels.data.writer import Writer

    Opener = Callable[[Path, str, str], Source | None]

FORMATS: Registry[Opener] = Registry("format", __name__)
"""``open(path, split, on_error)`` by name: the dataset at an absolute path that exists, as for
``open_source``, or None where it is not in this format."""

REMOTE = ("parquet", "webdataset")
"""The formats that are read from remote stores too."""

WRITERS: Registry[type[Writer]] = Registry("output format", __name__)
"""What writes a protected set, by the name that ``--format`` takes."""
