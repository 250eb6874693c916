"""Pictures that lie in no class folders: one picture, a folder of them, or a list of files and classes.

Their samples are called CLASS/FILE, so that a protected copy has class folders.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unlearnable_kernels.data.folder_scan import Scan, has_image_suffix, ignored, refuse_case_twins
from unlearnable_kernels.data.formats import FORMATS
from unlearnable_kernels.data.formats.folder import dataset_name
from unlearnable_kernels.data.named import find, parse
from unlearnable_kernels.data.remote import is_remote, url_of
from unlearnable_kernels.data.source import FolderSource, Sample, Source, open_source
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import read_regular

_HEADERS = ("file", "filename", "image", "path"), ("class", "label")
ONE_CLASS = (
    "one class: every picture gets the same treatment, so that whoever has one original can undo it in all; "
    "pictures of several kinds are safer in class folders, or with a list of classes (--labels)"
)


@dataclass
class LooseSource(FolderSource):
    """Files whose classes are not their folders."""

    def path_of(self, sample: Sample) -> str:
        return f"{self.root}/{sample.name.partition('/')[2]}"


@FORMATS.register("pictures", "one picture, or a folder of pictures without folders: one class")
def open_pictures(root: Path, split: str, on_error: str) -> Source | None:
    """A file with an image's suffix, or a folder with such files and no folder in it."""
    base = root if root.is_dir() else root.parent
    scan = Scan(base, base, on_error)
    if root.is_file():
        if not has_image_suffix(root.name):
            return None
        names = [root.name]
    else:
        folders, files = scan.list_folder()
        names = [entry.name for entry in files if has_image_suffix(entry.name)]
        if folders or not names:
            return None
        for entry in files:
            if not has_image_suffix(entry.name):
                scan.refuse(entry.name, "not an image")
    name = base.resolve().name or "pictures"
    if not _may_be_class(name):
        raise UserError(f"{shown(str(base))}: {name!r} cannot be a class of pictures: rename the folder")
    return _source(scan, "pictures", [name], [(0, each) for each in names], [ONE_CLASS])


@FORMATS.register("labels", "a list in a .csv file: file,class in each line, files relative to its folder")
def open_labels(root: Path, split: str, on_error: str) -> Source | None:
    """The pictures that a .csv file lists."""
    if not (root.is_file() and root.suffix.lower() == ".csv"):
        return None
    return open_labelled(root.parent, root, on_error)


def open_training_images(src: Path, labels: Path | None, on_error: str) -> Source:
    """The training split of a dataset, or with a list of classes the pictures that it lists.

    Args:
        src: As ``open_source`` takes it; with ``labels`` a folder, or the name of one.
        labels: As ``open_labelled`` takes it, or None.
        on_error: As ``open_source`` takes it.

    Raises:
        UserError: As either does, or ``labels`` is given with anything but a folder.
    """
    if labels is None:
        return open_source(src, "train", on_error)
    root = find(src)
    if parse(src).subset or is_remote(root) or not root.is_dir():
        raise UserError(f"{url_of(src)}: with --labels, SRC is a folder of pictures")
    return open_labelled(root, labels, on_error)


def open_labelled(root: Path, labels: Path, on_error: str) -> Source:
    """Pictures by a list of their classes.

    Args:
        root: The folder that the files' names are relative to.
        labels: The list, CSV in UTF-8: a file and its class in each line, after a line "file,class" or not.
            Classes are ordered by name.
        on_error: "raise", or "skip" to pass over files that cannot be taken and list them.

    Raises:
        UserError: The list cannot be read, or an entry is refused.
    """
    scan = Scan(root, root, on_error)
    rows = list(_read(labels))
    classes = sorted({name for _, name in rows})
    refuse_case_twins(classes, labels)
    listed = {file for file, _ in rows}
    taken = []
    for file, name in rows:
        if scan.takes(file):
            taken.append((classes.index(name), file))
    taken.sort()
    others = [image.name for image in Scan(root, root, "skip").find_images("")[0] if image.name not in listed]
    notes = []
    if others:
        notes.append(f"{len(others)} images are not in {labels.name}, and left out, such as {others[0]}")
    return _source(scan, "labels", classes, taken, notes)


def _source(
    scan: Scan, layout: str, classes: list[str], files: list[tuple[int, str]], notes: list[str]
) -> Source:
    samples = []
    for label, file in files:
        facts = (scan.base / file).stat()
        samples.append(Sample(f"{classes[label]}/{file}", label, facts.st_size, facts.st_mtime_ns))
    return LooseSource(
        root=scan.base,
        name=dataset_name(scan.base, classes),
        layout=layout,
        split="",
        prefix="",
        classes=classes,
        samples=samples,
        skipped=scan.skipped,
        notes=notes,
    )


def _read(labels: Path) -> Iterator[tuple[str, str]]:
    """(file, class) of each line."""
    try:
        text = read_regular(labels).decode("utf-8-sig")
        rows = [(number, row) for number, row in enumerate(csv.reader(text.splitlines()), 1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{shown(str(labels))}: the list of classes cannot be read ({error})") from None
    if rows and all(cell.strip().lower() in names for cell, names in zip(rows[0][1], _HEADERS, strict=False)):
        rows = rows[1:]
    if not rows:
        raise UserError(f"{shown(str(labels))}: lists no picture")
    seen: set[str] = set()
    for number, row in rows:
        where = f"{shown(str(labels))}, line {number}"
        if len(row) != 2:
            raise UserError(f"{where}: must be file,class, not {shown(','.join(row))}")
        file, name = (cell.strip() for cell in row)
        file = str(PurePosixPath(file))
        if file.startswith("/") or "\0" in file or any(map(ignored, PurePosixPath(file).parts)):
            raise UserError(f"{where}: {shown(file)} must be a path within the folder of the pictures")
        if not _may_be_class(name):
            raise UserError(f"{where}: {name!r} must be a class's name, such as a folder could have")
        if file in seen:
            raise UserError(f"{where}: {shown(file)} is listed twice")
        seen.add(file)
        yield file, name


def _may_be_class(name: str) -> bool:
    return bool(name) and not ignored(name) and not {"/", "\\"} & set(name) and name.isprintable()
