"""A labelled dataset in memory as one uint8 tensor: what training and testing read from."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearnable_kernels.data.checked import open_checked
from unlearnable_kernels.data.manifest import Manifest, find_manifest, without_tables
from unlearnable_kernels.data.remote import url_of
from unlearnable_kernels.data.source import Sample, Source, load_image
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.progress import Progress, no_progress

_CHUNK = 64  # images a worker takes at a time


@dataclass(frozen=True)
class LabelledImages:
    """A split of a dataset in memory.

    Attributes:
        images: uint8 [N, H, W, 3], RGB.
        labels: int64 [N], in [0, len(classes)).
        classes: Their names.
        names: Names of the images, unique and the same on every machine.
        manifest: The manifest.json that ``protect`` left at the root of the dataset, or None.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    names: list[str]
    manifest: Manifest | None

    def __len__(self) -> int:
        return len(self.names)

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the images, the labels and the class names."""
        digest = hashlib.sha256(json.dumps([list(self.images.shape), self.classes]).encode())
        digest.update(self.labels.numpy().data)
        digest.update(self.images.numpy().data)
        return digest.hexdigest()

    def protection(self) -> dict[str, Any] | None:
        """The manifest without its tables of files: how the dataset was protected, if it was."""
        return None if self.manifest is None else without_tables(self.manifest)

    def protected_flags(self) -> list[bool]:
        """For each image whether the manifest calls it protected; without a manifest none is."""
        if self.manifest is None:
            return [False] * len(self)
        protected = {name for name, entry in self.manifest.samples() if entry.protected}
        return [name in protected for name in self.names]

    def relabelled(self, classes: list[str], name: str) -> "LabelledImages":
        """The same images with labels that index ``classes``.

        Args:
            classes: The new classes in any order, among them the class of every image.
            name: What messages call this dataset.

        Raises:
            UserError: An image is of a class that is not in ``classes``.
        """
        used = [self.classes[index] for index in self.labels.unique().tolist()]
        unknown = [each for each in used if each not in classes]
        if unknown:
            raise UserError(
                f"{name} has the class {unknown[0]!r}, which the training set lacks: "
                "test on the classes that were trained"
            )
        index = torch.tensor([classes.index(each) if each in classes else -1 for each in self.classes])
        return replace(self, labels=index[self.labels], classes=classes)


def load_arrays(
    path: Path,
    split: str = "train",
    image_size: int | None = None,
    *,
    limit_per_class: int | None = None,
    progress: Progress = no_progress,
) -> LabelledImages:
    """Decode a whole split into one array.

    An array that needs more than half of the free memory lives in a temporary file (TMPDIR chooses where).

    Args:
        path: A dataset in any format that ``open_source`` knows.
        split: "train" or "test".
        image_size: Bring every image to this many pixels a side, as ``images.resize`` does; None takes
            images of one size as they are.
        limit_per_class: Take only the first so many images of each class, in name order.
        progress: Told of the images that are decoded.

    Returns:
        The images in the order of the dataset.

    Raises:
        UserError: The dataset cannot be read, has no images, differs from its manifest, or has several sizes
            without ``image_size``.
    """
    source, samples = open_split(path, split, limit_per_class)
    return load_samples(source, samples, path, split, image_size, progress=progress)


def open_split(path: Path, split: str, limit_per_class: int | None) -> tuple[Source, Sequence[Sample]]:
    """A dataset, and which of its samples are wanted, as for ``load_arrays``.

    Raises:
        UserError: It cannot be read, has no images, or differs from its manifest.
    """
    source = open_checked(path, split).source
    samples = source.samples if limit_per_class is None else first_of_each_class(source, limit_per_class)
    if not samples:
        raise UserError(f"{url_of(path)} has no images to {split} on")
    return source, samples


def load_samples(
    source: Source,
    samples: Sequence[Sample],
    path: Path,
    split: str,
    image_size: int | None = None,
    *,
    progress: Progress = no_progress,
) -> LabelledImages:
    """Decode what ``open_split`` gave into one array, as ``load_arrays`` does."""
    height, width, _ = load_image(source, samples[0], image_size).shape
    images = allocate((len(samples), height, width, 3))

    def fill(start: int) -> int:
        chunk = samples[start : start + _CHUNK]
        for row, sample in enumerate(chunk, start):
            image = load_image(source, sample, image_size)
            if image.shape != images.shape[1:]:
                raise UserError(different_size(path, sample, image.shape, samples[0], images.shape[1:]))
            images[row] = image
        return len(chunk)

    # Threads suffice: the decoders release the interpreter's lock.
    with ThreadPoolExecutor(usable_cores()) as pool:
        tasks = [pool.submit(fill, start) for start in range(0, len(samples), _CHUNK)]
        try:
            done = 0
            for task in tasks:
                done += task.result()
                progress(f"reading the {split} set", done, len(samples))
        finally:
            pool.shutdown(cancel_futures=True)
    labels = torch.tensor([sample.label for sample in samples])
    names = [sample.name for sample in samples]
    return LabelledImages(torch.from_numpy(images), labels, list(source.classes), names, find_manifest(path))


def different_size(
    path: Path, sample: Sample, shape: tuple[int, ...], first: Sample, expected: tuple[int, ...]
) -> str:
    """The line for an image of another size than the first; sizes are (H, W, 3)."""
    return (
        f"{url_of(path)}: {sample.name} has {shape[1]}x{shape[0]} px and {first.name} "
        f"{expected[1]}x{expected[0]} px: give an image size that all are brought to"
    )


def fits(shape: tuple[int, ...]) -> bool:
    """Whether an array of bytes takes at most half of the free memory."""
    return int(np.prod(shape, dtype=np.int64)) <= _available_memory() // 2


def first_of_each_class(source: Source, limit: int) -> list[Sample]:
    """The first ``limit`` samples of every class in name order, in the order of the dataset."""
    taken: set[str] = set()
    counts = [0] * len(source.classes)
    for sample in sorted(source.samples, key=lambda sample: sample.name):
        if counts[sample.label] < limit:
            counts[sample.label] += 1
            taken.add(sample.name)
    return [sample for sample in source.samples if sample.name in taken]


def allocate(shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised uint8 array, in an unnamed temporary file if it is large for this machine."""
    if fits(shape):
        return np.empty(shape, np.uint8)
    size = int(np.prod(shape, dtype=np.int64))
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk must show here, not as a bus error
        except OSError as error:
            raise UserError(
                f"the images need {size / 2**30:.1f} GiB, more than half of the free memory, and "
                f"{tempfile.gettempdir()} has no room for them ({error.strerror}): use a smaller "
                "image size or fewer images"
            ) from error
        return np.memmap(file, np.uint8, "r+", shape=shape)


def _available_memory() -> int:
    """Bytes that can be allocated without swapping."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
