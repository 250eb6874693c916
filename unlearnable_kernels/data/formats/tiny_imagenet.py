"""Tiny-ImageNet's official layout: ``train/<wnid>/images``, and ``val/images`` labelled by a text file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unlearnable_kernels.data.folder_scan import FoundFile, Scan
from unlearnable_kernels.data.formats import FORMATS
from unlearnable_kernels.data.source import FolderSource, Sample, Source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import read_regular

ANNOTATIONS = "val_annotations.txt"


class TinySplit(NamedTuple):
    prefix: str
    classes: list[str]
    images: list[tuple[FoundFile, int]]
    skipped: list[tuple[str, str]]
    side_files: list[Path]
    left_out: list[str]
    notes: list[str]


@FORMATS.register("tiny-imagenet", "Tiny-ImageNet in its official layout")
def open_tiny_imagenet(root: Path, split: str, on_error: str) -> Source | None:
    """The whole dataset, or the folder of one of its splits, which is opened as part of the whole."""
    if whole := whole_of(root):
        root, split = whole
    if not is_root(root, split):
        return None
    found = read_split(root, split, on_error)
    return FolderSource(
        root=root,
        name="tiny-imagenet-200",
        layout="tiny-imagenet",
        split=split,
        prefix=found.prefix,
        classes=found.classes,
        samples=[Sample(image.name, label, image.size, image.mtime_ns) for image, label in found.images],
        skipped=found.skipped,
        side_files=found.side_files,
        left_out=found.left_out,
        notes=found.notes,
    )


def is_root(path: Path, split: str) -> bool:
    if split == "test":
        return (path / "val" / ANNOTATIONS).is_file()
    return (path / "wnids.txt").is_file() and (path / "train").is_dir()


def whole_of(path: Path) -> tuple[Path, str] | None:
    """The dataset and split whose folder ``path`` is: only the whole tells its classes."""
    split = {"train": "train", "val": "test"}.get(path.name)
    if split and (path.parent / "wnids.txt").is_file() and is_root(path.parent, split):
        return path.parent, split
    return None


def read_split(root: Path, split: str, on_error: str) -> TinySplit:
    """The training classes that are there, and for "test" the validation images of these classes.

    Raises:
        UserError: An entry is refused, or an annotation file cannot be read.
    """
    prefix = "train" if split == "train" else "val"
    scan = Scan(root / prefix, root, on_error)
    notes: list[str] = []
    side_files = [Path(name) for name in ("wnids.txt", "words.txt") if (root / name).is_file()]
    classes = _training_classes(root, scan if split == "train" else None)
    if split == "train":
        images, boxes = _read_train(scan, classes)
        side_files += [Path(prefix, name) for name in boxes]
    else:
        annotations = _read_annotations(root / prefix / ANNOTATIONS)
        classes = classes or sorted(set(annotations.values()))
        images, absent = _read_val(scan, classes, annotations)
        side_files.append(Path(prefix, ANNOTATIONS))
        if absent:
            notes.append(f"{absent} validation images of classes that are not in train are left out")
    if (root / "wnids.txt").is_file():
        listed = len((root / "wnids.txt").read_text().split())
        if len(classes) < listed:
            notes.insert(0, f"{len(classes)} of the {listed} classes in wnids.txt are here")
    folders, _ = Scan(root, root, "skip").list_folder()
    left_out = [entry.name for entry in folders if entry.name != prefix]
    return TinySplit(prefix, classes, images, scan.skipped, side_files, left_out, notes)


def _training_classes(root: Path, scan: Scan | None) -> list[str]:
    if not (root / "train").is_dir():
        return []
    folders, _ = (scan or Scan(root / "train", root, "skip")).list_folder()
    return [entry.name for entry in folders]


def _read_train(scan: Scan, classes: list[str]) -> tuple[list[tuple[FoundFile, int]], list[str]]:
    if not classes:
        raise UserError(f"{scan.base}: no class folders in it")
    images, side_files = [], []
    for label, wnid in enumerate(classes):
        found, boxes = scan.find_images(wnid, lambda name: name.endswith("_boxes.txt"))
        if not found:
            scan.refuse(wnid, "a class without images")
        images += [(image, label) for image in found]
        side_files += boxes
    return images, side_files


def _read_val(
    scan: Scan, classes: list[str], annotations: dict[str, str]
) -> tuple[list[tuple[FoundFile, int]], int]:
    """Images with labels, by label and name; and how many have a class that is not in ``classes``."""
    labels = {wnid: label for label, wnid in enumerate(classes)}
    images, absent = [], 0
    for image in scan.find_images("images")[0]:
        # By stem: the copy that protect writes may have another suffix than the annotations.
        wnid = annotations.get(PurePosixPath(image.name).stem)
        if wnid is None:
            scan.refuse(image.name, f"has no line in {ANNOTATIONS}")
        elif wnid in labels:
            images.append((image, labels[wnid]))
        else:
            absent += 1
    images.sort(key=lambda pair: (pair[1], pair[0].name))
    return images, absent


def _read_annotations(path: Path) -> dict[str, str]:
    """The class of every image, by the image's name without its suffix."""
    annotations: dict[str, str] = {}
    try:
        lines = read_regular(path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        columns = line.split("\t")
        if len(columns) < 2:
            raise UserError(f"{path}: line {number} is not an image name and a class separated by a tab")
        annotations[PurePosixPath(columns[0]).stem] = columns[1]
    return annotations
