"""Data sets as they lie on disk, opened as one thing: classes, samples in a fixed order, their bytes."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unlearnable_kernels.data.folder_scan import Scan, has_image_suffix, refuse_case_twins, shown
from unlearnable_kernels.data.formats import cifar, tiny_imagenet
from unlearnable_kernels.data.formats.cifar import CifarFormat
from unlearnable_kernels.data.images import decode, resize
from unlearnable_kernels.errors import ImageError, UserError

SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
LAYOUTS = (
    "class folders of images; train/ beside val/ or test/ with class folders in them; Tiny-ImageNet's "
    "official layout; CIFAR-10/100's official python archives; an .npz that protect wrote"
)
_CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a source.

    ``name``: posix path below the split's folder, suffix included, machine-independent. ``size`` in bytes
    and ``mtime_ns``: what a changed source is recognised by; those of the archive where the image is in one.
    """

    name: str
    label: int
    size: int
    mtime_ns: int


@dataclass
class Source(ABC):
    """A split of a data set, opened.

    ``root`` is what was opened; ``prefix`` where the split lies below it; ``classes`` in
    label order; ``samples`` in data-set order. ``skipped``: (name, reason) of what ``on_error="skip"`` passed
    over. ``side_files``: class metadata that belongs to the layout, relative to ``root``. ``left_out``: other
    splits and folders that were not taken. ``notes``: lines for the user.
    """

    root: Path
    name: str
    layout: str
    split: str
    prefix: str
    classes: list[str]
    samples: list[Sample]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    side_files: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @abstractmethod
    def read(self, sample: Sample) -> bytes | np.ndarray:
        """The file's bytes, or where images are stored as an array, the uint8 ``[H, W, 3]`` image itself.

        Safe from any thread and, as a source can be pickled, any process.

        :raises ImageError: the file is gone, cannot be read, or is not of the size it had when opened.
        """


class FolderSource(Source):
    """Images as files below ``root / prefix``."""

    def read(self, sample: Sample) -> bytes:
        path = f"{self.root}/{self.prefix}/{sample.name}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.read(descriptor, sample.size + 1)
                while len(data) < sample.size and (more := os.read(descriptor, sample.size + 1 - len(data))):
                    data += more
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}") from None
        if len(data) != sample.size:
            raise ImageError(
                f"{path}: had {sample.size} bytes when the data set was opened, and has changed since"
            )
        return data


@dataclass
class ArraySource(Source):
    """Images in one array; each process reads it from ``load`` when it first needs it."""

    load: Callable[[], np.ndarray] = field(kw_only=True)
    _images: np.ndarray | None = field(default=None, kw_only=True, repr=False)
    _positions: dict[str, int] | None = field(default=None, kw_only=True, repr=False)

    def images(self) -> np.ndarray:
        """All of them: uint8 ``[N, H, W, 3]``, in the order of ``samples``, not necessarily contiguous."""
        if self._images is None:
            self._images = self.load()
        return self._images

    def read(self, sample: Sample) -> np.ndarray:
        if self._positions is None:
            self._positions = {s.name: i for i, s in enumerate(self.samples)}
        return np.ascontiguousarray(self.images()[self._positions[sample.name]])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_images": None, "_positions": None}


def open_source(path: Path, split: str = "train", on_error: str = "raise") -> Source:
    """The data set at ``path``, whatever its layout (:data:`LAYOUTS`), without decoding an image.

    :param split: ``train`` or ``test`` where the data set has both; a folder of classes serves for either.
    :param on_error: ``raise``, or ``skip`` to pass over files that cannot be taken and list them.
    :raises UserError: no layout fits, or an entry is refused (``docs/inputs.md``).
    """
    if split not in SPLIT_FOLDERS or on_error not in ("raise", "skip"):
        raise UserError(
            f"split must be train or test and on_error raise or skip, not {split!r} and {on_error!r}"
        )
    path = Path(path).absolute()
    if not path.exists():
        raise UserError(f"{shown(str(path))}: no such file or folder")
    if place := cifar.find_cifar(path):
        return _open_cifar(path, *place, split)
    if path.is_file():
        if path.suffix == ".npz":
            return _open_npz(path, path, "")
        raise UserError(f"{shown(str(path))}: no data set; understood are {LAYOUTS}")
    if any((path / f"{name}.npz").is_file() for name in SPLIT_FOLDERS):
        return _open_npz(path, path / f"{split}.npz", split)
    if whole := tiny_imagenet.whole_of(path):
        path, split = whole
    if tiny_imagenet.is_root(path, split):
        return _open_tiny_imagenet(path, split, on_error)
    return _open_image_folder(path, split, on_error)


def _open_image_folder(root: Path, split: str, on_error: str) -> Source:
    prefix, left_out, notes = _find_split(root, split)
    scan = Scan(root / prefix, root, on_error)
    folders, files = scan.list_folder()
    classes = [entry.name for entry in folders]
    if not classes:
        raise UserError(f"{shown(str(root / prefix))}: no class folders in it; understood are {LAYOUTS}")
    refuse_case_twins(classes, root / prefix)
    for entry in files:
        if has_image_suffix(entry.name):
            scan.refuse(entry.name, "an image outside the class folders")
    samples = []
    for label, name in enumerate(classes):
        images, _ = scan.find_images(name)
        if not images:
            scan.refuse(name, "a class without images")
        samples += [Sample(image.name, label, image.size, image.mtime_ns) for image in images]
    named_split = prefix or root.resolve().name
    return FolderSource(
        root=root,
        name=_dataset_name(root, classes),
        layout="image-folder",
        split={"train": "train", "test": "test", "val": "test"}.get(named_split, ""),
        prefix=prefix,
        classes=classes,
        samples=samples,
        skipped=scan.skipped,
        left_out=left_out,
        notes=notes,
    )


def _find_split(root: Path, split: str) -> tuple[str, list[str], list[str]]:
    """The split's folder ("" where ``root`` itself holds the classes), the other folders, what to tell.

    A folder named train, val or test is a split where it holds folders in turn, a class where it does not.
    """
    folders, _ = Scan(root, root, "skip").list_folder()
    inside = {
        entry.name: {e.name for e in Scan(root / entry.name, root, "skip").list_folder()[0]}
        for entry in folders
        if entry.name in ("train", "val", "test")
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


def _dataset_name(root: Path, classes: list[str]) -> str:
    if classes == _CIFAR10_CLASSES:
        return "cifar10"
    if len(classes) == 100 and classes[:4] == ["apple", "aquarium_fish", "baby", "bear"]:
        return "cifar100"
    if len(classes) in (100, 1000) and all(map(_WORDNET_ID.fullmatch, classes)):
        return "imagenet" if len(classes) == 1000 else "imagenet-100"
    root = root.resolve()
    return root.parent.name if root.name in ("train", "val", "test") else root.name


def _open_tiny_imagenet(root: Path, split: str, on_error: str) -> Source:
    found = tiny_imagenet.read_split(root, split, on_error)
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


def _open_cifar(root: Path, form: CifarFormat, place: Path, split: str) -> Source:
    data = cifar.read_cifar(form, place, split)
    names = [
        f"{data.classes[y]}/{i:05}_{f}"
        for i, (y, f) in enumerate(zip(data.labels, data.filenames, strict=True))
    ]
    _check_names(names, data.classes, place)
    rows = zip(names, data.labels, data.sizes, data.mtimes_ns, strict=True)
    source = ArraySource(
        root=root,
        name=form.dataset,
        layout=form.layout,
        split=split,
        prefix=split,
        classes=data.classes,
        samples=[Sample(*row) for row in rows],
        left_out=[s for s in SPLIT_FOLDERS if s != split],
        load=partial(_cifar_images, form, place, split),
    )
    source._images = data.images
    return source


def _open_npz(root: Path, path: Path, split: str) -> Source:
    arrays = _load_npz(path)
    images, labels, names = arrays["images"], arrays["labels"], arrays["names"].tolist()
    classes = arrays["classes"].tolist()
    _check_names(names, classes, path)
    facts = path.stat()
    dataset = _dataset_name(root if root.is_dir() else root.parent, classes)
    source = ArraySource(
        root=root,
        name=dataset,
        layout="npz",
        split=split,
        prefix=split,
        classes=classes,
        samples=[
            Sample(n, y, facts.st_size, facts.st_mtime_ns)
            for n, y in zip(names, labels.tolist(), strict=True)
        ],
        left_out=[s for s in SPLIT_FOLDERS if s != split and root.is_dir() and (root / f"{s}.npz").is_file()],
        load=partial(_npz_images, path),
    )
    source._images = images
    return source


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path.parent}: holds no {path.name}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("images", "labels", "classes", "names")}
    except Exception as error:  # A damaged zip is met with many kinds of exception.
        raise UserError(f"{path}: no .npz that protect wrote ({error})") from None
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


def _cifar_images(form: CifarFormat, place: Path, split: str) -> np.ndarray:
    return cifar.read_cifar(form, place, split).images


def _npz_images(path: Path) -> np.ndarray:
    return _load_npz(path)["images"]


def _check_names(names: Iterable[str], classes: list[str], path: Path) -> None:
    """Names out of an archive become paths when its images are written as files.

    :raises UserError: one that would leave its folder, or two that are the same.
    """
    seen: set[str] = set()
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
            raise UserError(f"{path}: the name {name!r} is no relative path")
        if name in seen:
            raise UserError(f"{path}: the name {name!r} occurs twice")
        seen.add(name)
    if any(name in ("", ".", "..") or "/" in name or "\\" in name for name in classes):
        raise UserError(f"{path}: a class name is no folder name")
    refuse_case_twins(classes, path)


def load_image(source: Source, sample: Sample, size: int | None) -> np.ndarray:
    """One image, decoded and, unless ``size`` is None, resized: uint8 [H, W, 3]. Raises ImageError."""
    data = source.read(sample)
    image = data if isinstance(data, np.ndarray) else decode(data, sample.name)
    return image if size is None else resize(image, size)
