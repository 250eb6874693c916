"""What may stand where a path to a data set goes: the path, a name, or a part of a data set.

PATH                          a folder or a file; one that exists wins over a name
NAME                          a folder in the data folder; one of ``DOWNLOADS`` gets there by itself
imagenet100:SET               the first 100 classes of ImageNet, in the order of their names (wnids)
imagenet100:SET,classes=FILE  its classes that FILE lists
subset:SET,classes=10         the first 10 classes of any data set, or those that a file lists
subset:SET,images=1000        the first 1,000 images of every class, also after classes

s3://BUCKET/SET               shards in a remote store, see ``remote``

SET is a path or a name, and without it ``imagenet100`` is that of the name imagenet. The data folder is the
one that UNLEARNABLE_DATA names, otherwise ~/.cache/unlearnable/data.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unlearnable_kernels.data.remote import is_remote, refuse_misread_url
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.files import read_regular, resolved, writing

_CACHE = "~/.cache/unlearnable/data"
_ALIASES = {"tiny-imagenet": "tiny-imagenet-200"}
_CLASSES, _IMAGES = ",classes=", ",images="


@dataclass(frozen=True)
class Download:
    """A data set that torchvision can download.

    Attributes:
        dataset: Its class in ``torchvision.datasets``.
        splits: What its argument ``split`` calls the training and the test images, which are stored as
            arrays; None where what it downloads is an official archive that ``open_source`` reads.
    """

    dataset: str
    splits: tuple[str, str] | None = None


DOWNLOADS = {
    "cifar10": Download("CIFAR10"),
    "cifar100": Download("CIFAR100"),
    "stl10": Download("STL10", ("train", "test")),
    "svhn": Download("SVHN", ("train", "test")),
}


@dataclass(frozen=True)
class Subset:
    """A way to take a part of a data set.

    Attributes:
        classes: Which, unless something else is asked for.
        dataset: The data set that is meant where none is given.
        name: Name of the result, part of every derivation; "" for that of the data set.
    """

    classes: str = ""
    dataset: str = ""
    name: str = ""


SUBSETS = {"imagenet100": Subset("100", "imagenet", "imagenet-100"), "subset": Subset()}


@dataclass(frozen=True)
class Reference:
    """What was written where a path goes, taken apart. ``str`` puts it together again.

    Attributes:
        path: The folder or file, absolute; or a URL.
        subset: The one of ``SUBSETS`` that was asked for; "" for the whole data set.
        classes: A number, for the first so many classes, or the absolute path of a file that lists them; ""
            for all.
        images: Only the first so many images of every class; None for all.
    """

    path: Path
    subset: str = ""
    classes: str = ""
    images: int | None = None

    def __str__(self) -> str:
        if not self.subset:
            return str(self.path)
        classes = f"{_CLASSES}{self.classes}" if self.classes else ""
        images = "" if self.images is None else f"{_IMAGES}{self.images}"
        return f"{self.subset}:{self.path}{classes}{images}"

    @property
    def name(self) -> str:
        """What the subset is called; "" for the name of the data set."""
        return SUBSETS[self.subset].name if self.subset else ""

    def choose(self, classes: Sequence[str]) -> list[str]:
        """The chosen ones of a data set's classes, in its order.

        Raises:
            UserError: There are fewer, the file cannot be read, or it lists something else.
        """
        if not self.classes:
            return list(classes)
        if self.classes.isdecimal():
            count = int(self.classes)
            if not 1 <= count <= len(classes):
                raise UserError(f"{self.path}: classes must be 1 to {len(classes)}, as it has, not {count}")
            return list(classes[:count])
        listed = {_class_of(line, classes, self.classes) for line in _lines(Path(self.classes))}
        return [name for name in classes if name in listed]


def parse(text: str | Path) -> Reference:
    """Take apart what was written where a path goes; nothing has to be there.

    Raises:
        UserError: A subset does not say of what, or which part; or as ``refuse_misread_url``.
    """
    text = str(text)
    kind, _, rest = text.partition(":")
    if kind not in SUBSETS or _exists(Path(text)):
        return Reference(_place(text))
    subset = SUBSETS[kind]
    rest, images = _split_off(rest, _IMAGES)
    dataset, classes = _split_off(rest, _CLASSES)
    dataset, classes = dataset or subset.dataset, classes or subset.classes
    if not dataset or not (classes or images) or (images and not re.fullmatch("0*[1-9][0-9]{0,8}", images)):
        raise UserError(
            f"{shown(text)}: write {kind}:SET{_CLASSES}N or {kind}:SET{_CLASSES}FILE, {_IMAGES}N behind "
            "it or instead of it, with N from 1 on"
        )
    if classes and not classes.isdecimal():
        classes = str(Path(classes).expanduser().absolute())
    return Reference(_place(dataset), kind, classes, int(images) if images else None)


def _split_off(text: str, mark: str) -> tuple[str, str]:
    """What stands before the last mark and what behind it, which is empty where there is no mark."""
    before, found, behind = text.rpartition(mark)
    return (before, behind) if found else (text, "")


def resolve(text: str | Path) -> str:
    """The same data set written so that it means the same in every folder: paths absolute, links followed.

    Raises:
        UserError: As ``parse``; or a link leads to itself.
    """
    reference = parse(text)
    if is_remote(reference.path):
        return str(reference)
    return str(replace(reference, path=resolved(reference.path)))


def find(text: str | Path) -> Path:
    """The folder or file of a data set, downloaded if it is one of ``DOWNLOADS`` and not there yet.

    Raises:
        UserError: There is none, or it cannot be downloaded.
    """
    path = parse(text).path
    if not is_remote(path) and not _exists(path):
        if path.parent != data_folder() or path.name not in DOWNLOADS:
            resolved(path)  # tells a name too long, or a link that leads to itself
            named = f", nor in {data_folder()}, nor one of {', '.join(DOWNLOADS)}"
            names = named if len(Path(text).parts) == 1 else ""
            raise UserError(f"{shown(str(path))}: no such file or folder{names}")
        _download(path)
    return path


def data_folder() -> Path:
    """Where data sets are looked up by name, and downloaded to; absolute."""
    return Path(os.environ.get("UNLEARNABLE_DATA") or _CACHE).expanduser().absolute()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # what the file system refuses as a name
        return False


def _place(text: str) -> Path:
    """The absolute path that a path, or a name in the data folder, means."""
    path = Path(text)
    if not _exists(path):
        refuse_misread_url(path)
        if is_remote(path):
            return path
        path = path.expanduser()
        name = _ALIASES.get(text, text)
        if len(path.parts) == 1 and (_exists(data_folder() / name) or name in DOWNLOADS or name != text):
            return data_folder() / name
    return path.absolute()


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in read_regular(path).decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown(str(path))}: the list of classes cannot be read ({error})") from None
    if not any(lines):
        raise UserError(f"{shown(str(path))}: lists no class")
    return [line for line in lines if line]


def _class_of(line: str, classes: Sequence[str], where: str) -> str:
    """The class that a line names, alone or before white space: "n01440764" or "n01440764 tench"."""
    for name in (line, line.split()[0]):
        if name in classes:
            return name
    raise UserError(f"{shown(where)}: {line!r} is not a class of the data set")


def _download(folder: Path) -> None:
    """Put one of ``DOWNLOADS`` into ``folder``, which appears when it is whole."""
    known = DOWNLOADS[folder.name]
    dataset = getattr(extra_module("torchvision.datasets"), known.dataset)
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)
    with scratch:
        whole, raw = Path(scratch.name) / "whole", Path(scratch.name) / "raw"
        try:
            whole.mkdir()
            if known.splits is None:
                dataset(str(whole), download=True)
            else:
                for split, theirs in zip(("train", "test"), known.splits, strict=True):
                    _write_arrays(whole / f"{split}.npz", dataset(str(raw), split=theirs, download=True))
            whole.rename(folder)
        except (OSError, RuntimeError, ImportError) as error:
            if folder.exists():  # another process was faster
                return
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{folder.name} is not in {folder.parent} and cannot be downloaded: {reason}"
            ) from None


def _write_arrays(path: Path, dataset: Any) -> None:
    """One split of a torchvision data set of (PIL image, label) with images of one size, as an .npz."""
    pairs = [dataset[index] for index in range(len(dataset))]
    labels = np.array([label for _, label in pairs], np.int64)
    classes = list(getattr(dataset, "classes", map(str, range(labels.max() + 1))))
    np.savez(
        path,
        images=np.stack([np.asarray(image.convert("RGB")) for image, _ in pairs]),
        labels=labels,
        classes=np.array(classes),
        names=np.array([f"{classes[label]}/{index:05}.png" for index, label in enumerate(labels)]),
    )
