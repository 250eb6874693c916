"""Folders of class folders, as torchvision's ImageFolder reads them; written as files of the same tree."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np

from unlearnable_kernels.data.folder_scan import Scan, has_image_suffix
from unlearnable_kernels.data.formats import FORMATS, WRITERS
from unlearnable_kernels.data.images import JPEG_QUALITY, SUFFIX, encode
from unlearnable_kernels.data.listing import Names, Samples
from unlearnable_kernels.data.manifest import MANIFEST_NAME
from unlearnable_kernels.data.manifest_entries import Entry, is_part_name
from unlearnable_kernels.data.originals import stem
from unlearnable_kernels.data.source import SPLIT_FOLDERS, FolderSource, Sample, Source, not_a_dataset
from unlearnable_kernels.data.writer import Destination, Writer, WrittenChunk, one_file_each
from unlearnable_kernels.errors import ImageError, UserError, shown
from unlearnable_kernels.files import read_regular, sha256_of, write_file

_CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_SPLITS = ("train", "val", "test")
_WORDNET_ID = re.compile(r"n\d{8}")
_KEPT = {
    **{suffix: format for format, suffix in SUFFIX.items()},
    ".jpeg": "jpeg",
    ".jfif": "jpeg",
    ".tiff": "tiff",
}


@FORMATS.register(
    "image-folder", "class folders of images, with or without train/ and val/ or test/ around them"
)
def open_image_folder(root: Path, split: str, on_error: str) -> Source | None:
    """A folder of class folders, or one of splits with class folders in them."""
    if root.is_file():
        return None
    # Where nothing is skipped, the root was looked through before, for loose pictures.
    around = Scan(root, root, "list" if on_error == "list" else "skip")
    prefix, left_out, notes = _find_split(around, split)
    scan = Scan(root / prefix, root, on_error)
    folders, files = scan.list_folder()
    classes = [entry.name for entry in folders]
    if not classes:
        raise not_a_dataset(root / prefix, "no class folders in it")
    scan.refuse_twins(classes)
    for entry in files:
        if has_image_suffix(entry.name):
            scan.refuse(entry.name, "an image outside the class folders")
    samples = Samples()
    for label, name in enumerate(classes):
        images, _ = scan.find_images(name)
        if not images:
            scan.refuse(name, "a class without images")
        for image in images:
            samples.append(Sample(image.name, label, image.size, image.mtime_ns))
    named_split = prefix or root.resolve().name
    return FolderSource(
        root=root,
        name=dataset_name(root, classes),
        layout="image-folder",
        split={"train": "train", "test": "test", "val": "test"}.get(named_split, ""),
        prefix=prefix,
        classes=classes,
        samples=samples,
        skipped=scan.skipped + (around.skipped if prefix else []),
        left_out=left_out,
        notes=notes,
    )


def _find_split(around: Scan, split: str) -> tuple[str, list[str], list[str]]:
    """The split's folder ("" where the root itself holds the classes), the other folders, what to tell.

    A folder named train, val or test is a split where it holds folders in turn, a class where it does not.
    """
    root = around.base
    folders, _ = around.list_folder()
    inside = {
        entry.name: {e.name for e in Scan(root / entry.name, root, "skip").list_folder()[0]}
        for entry in folders
        if entry.name in _SPLITS
    }
    splits = {name: classes for name, classes in inside.items() if classes}
    if not splits:
        return "", [], []
    for prefix in SPLIT_FOLDERS[split]:
        if prefix in splits:
            notes = []
            if prefix != "train" and "train" in splits and splits[prefix] != splits["train"]:
                notes.append(f"{prefix} and train do not have the same classes")
            return prefix, [e.name for e in folders if e.name != prefix], notes
    wanted = " or ".join(SPLIT_FOLDERS[split])
    raise UserError(
        f"{shown(str(root))}: holds {', '.join(sorted(splits))} but no {wanted} with class folders"
    )


def dataset_name(root: Path, classes: list[str]) -> str:
    """The name of a well-known dataset by its classes, otherwise that of its folder."""
    if classes == _CIFAR10_CLASSES:
        return "cifar10"
    if len(classes) == 100 and classes[:4] == ["apple", "aquarium_fish", "baby", "bear"]:
        return "cifar100"
    if len(classes) in (100, 1000) and all(map(_WORDNET_ID.fullmatch, classes)):
        return "imagenet" if len(classes) == 1000 else "imagenet-100"
    root = root.resolve()
    return root.parent.name if root.name in _SPLITS else root.name


@dataclass(frozen=True)
class FolderWriter(Writer):
    """One file for each image, in the tree of the source."""

    def format_of(self, name: str) -> str:
        """The format that a sample is written in, one that ``encode`` takes."""
        return self.name

    def fits(self, name: str, original: str) -> bool:
        """Whether a sample called ``original`` is written under ``name`` where no other claims that."""
        return name == _with_suffix(original, self.format_of(original))

    def outputs(self, source: Source) -> Sequence[str]:
        """The path of each sample's file in the protected tree, relative to its root."""
        names = output_names(source, self.format_of)
        folders = [source.prefix] if source.prefix else source.classes
        for name in chain(folders, names, (file.as_posix() for file in source.side_files)):
            top, _, rest = name.partition("/")
            if top.casefold() == MANIFEST_NAME or is_part_name(top):
                raise UserError(f"{source.name}: {top!r} is where the manifest goes; rename it in the source")
            if top in _SPLITS and "/" in rest and not source.prefix:
                raise UserError(
                    f"{source.name}: the class {top!r} has folders in it, and its copy would be read as a "
                    "split; rename the class, or choose --format npz, webdataset or parquet"
                )
        return names

    def prepare(self, destination: Destination, outputs: Sequence[str]) -> None:
        tree, source = destination.tree, destination.source
        # A class without images keeps its folder, and so the other classes their labels.
        folders = {tree / source.prefix / name for name in source.classes}
        folders |= {tree / parent for parent in {name.rpartition("/")[0] for name in outputs}}
        for folder in sorted(folders):
            folder.mkdir(parents=True, exist_ok=True)

    def encode(self, image: np.ndarray, destination: Destination, name: str, profile: bytes) -> bytes:
        try:
            return encode(image, self.format_of(name), **asdict(self), profile=profile)
        except ValueError as error:
            raise ImageError(f"{name}: cannot be written as {self.format_of(name)}: {error}") from None

    def write(
        self,
        destination: Destination,
        index: int,
        outputs: Sequence[str],
        encoded: Iterable[tuple[int, bytes]],
    ) -> list[str | None]:
        digests: list[str | None] = [None] * len(outputs)
        for position, data in encoded:
            write_file(f"{destination.tree}/{outputs[position]}", data)
            digests[position] = hashlib.sha256(data).hexdigest()
        return digests

    def files(self, destination: Destination, index: int, outputs: Sequence[str]) -> list[Path]:
        return [destination.tree / name for name in outputs]

    def seal(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> None:
        for chunk in chunks:
            for position in chunk.skipped:
                # A file that an earlier attempt wrote and this one skipped.
                (destination.tree / chunk.outputs[position]).unlink(missing_ok=True)
        for file in sorted(destination.source.side_files):
            target = destination.tree / file
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, read_regular(destination.source.root / file))

    def entries(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> Iterator[Entry]:
        return one_file_each(chunks)

    def side_files(self, destination: Destination) -> dict[str, str]:
        files = sorted(destination.source.side_files)
        return {file.as_posix(): sha256_of(destination.tree / file) for file in files}


@WRITERS.register("png", "a PNG file for each image, without loss")
@dataclass(frozen=True)
class PngWriter(FolderWriter):
    """Written by ``images.png``: fast, and a tenth larger than need be."""


@WRITERS.register("webp", "a lossless WebP file for each image, smaller and slower")
@dataclass(frozen=True)
class WebpWriter(FolderWriter):
    """Written by Pillow, with the least effort."""


@WRITERS.register("jpeg", "a JPEG file for each image, with loss")
@dataclass(frozen=True)
class JpegWriter(FolderWriter):
    """Baseline, 4:4:4; quality: from 1 to 100."""

    quality: int = JPEG_QUALITY

    lossless: ClassVar[bool] = False

    def check(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality must be from 1 to 100, not {self.quality}")


@WRITERS.register("same", "each image in the format that its name says, with loss for JPEG; others as PNG")
@dataclass(frozen=True)
class SameWriter(JpegWriter):
    """By the suffix: JPEG, PNG, WebP, TIFF, BMP and PPM stay what they are, WebP without loss."""

    def format_of(self, name: str) -> str:
        return _KEPT.get(f".{name.rpartition('.')[2].lower()}", "png")


def output_names(source: Source, format_of: Callable[[str], str]) -> Sequence[str]:
    """The path of each sample's file in the protected tree, relative to its root.

    The source's name with the suffix of its format; where that would give two files of a folder one name
    (a.jpg, a.png; case is ignored), the suffix is added to the whole name instead (a.jpg.png).
    """
    prefix = f"{source.prefix}/" if source.prefix else ""
    plain = Names(prefix + _with_suffix(sample.name, format_of(sample.name)) for sample in source.samples)
    # Equal names have equal hashes: where there are none, the tables below, which are large, are not needed.
    hashes = np.fromiter((hash(name.casefold()) for name in plain), np.int64, len(plain))
    if len(np.unique(hashes)) == len(plain):
        return plain
    names = [sample.name for sample in source.samples]
    wanted = {name: _with_suffix(name, format_of(name)) for name in names}
    claims = Counter(name.casefold() for name in wanted.values())
    taken = {name.casefold() for name in names if wanted[name] == name}
    taken |= {wish.casefold() for wish in wanted.values() if claims[wish.casefold()] == 1}
    for name in sorted(names):
        if wanted[name] != name and claims[wanted[name].casefold()] > 1:
            suffix = SUFFIX[format_of(name)]
            renamed = name + suffix
            while renamed.casefold() in taken:
                renamed += suffix
            taken.add(renamed.casefold())
            wanted[name] = renamed
    return [prefix + wanted[name] for name in names]


def _with_suffix(name: str, format: str) -> str:
    # Plain text: pathlib takes longer than the filter does.
    suffix = name.rpartition(".")[2]
    return name if _KEPT.get(f".{suffix.lower()}") == format else stem(name) + SUFFIX[format]
