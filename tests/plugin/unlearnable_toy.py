"""A package from outside with one thing of each kind: a method, a network, a defence and a format."""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlearnable_kernels.data.formats import FORMATS, WRITERS
from unlearnable_kernels.data.images import encode
from unlearnable_kernels.data.manifest_entries import Entry
from unlearnable_kernels.data.source import FolderSource, Sample, Source
from unlearnable_kernels.data.writer import Destination, Writer, WrittenChunk, one_file_each
from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Defence
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import sha256_of, write_file
from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.protect.methods.method import METHODS, Method, Task, Workspace


@dataclass(frozen=True)
class ClassShift:
    """What is added to the images of each class: int16 [K, 3]."""

    shifts: np.ndarray

    @property
    def outcome(self) -> dict[str, Any]:
        return {}

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        for image, label, place in zip(images, assignment, out, strict=True):
            shift = self.shifts[label] if label >= 0 else 0
            place[...] = np.clip(image.astype(np.int16) + shift, 0, 255)


@METHODS.register("toy-shift", "shifts the colour of each class", "nobody, nowhere")
@dataclass(frozen=True)
class ToyShift(Method):
    """levels: largest shift of a channel, in grey levels."""

    levels: int = 16

    def check(self) -> None:
        if not 1 <= self.levels <= 255:
            raise UserError(f"levels must be from 1 to 255, not {self.levels}")

    def parameters(self, task: Task) -> dict[str, Any]:
        return {
            "levels": self.levels,
            "fraction": task.fraction,
            "resize": task.resize,
            "format": task.format,
        }

    def assignment(self, task: Task, parameters: dict[str, Any]) -> list[int]:
        return task.labels

    def perturbation(
        self, task: Task, parameters: dict[str, Any], assignment: list[int], workspace: Workspace
    ) -> ClassShift:
        classes = len(task.source.classes)
        drawn = np.frombuffer(task.secret.derive("toy", task.name, length=3 * classes), dtype=np.int8)
        return ClassShift(drawn.reshape(classes, 3).astype(np.int16) * self.levels // 128)

    @classmethod
    def heading(cls, parameters: dict[str, Any]) -> str:
        return f"{cls.name}, {parameters['levels']} levels"


@NETWORKS.register("toy-linear", "one linear layer")
def toy_linear(num_classes: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))


@DEFENCES.register("toy-dim", "darkens the images that are trained on", "nobody, nowhere")
@dataclass(frozen=True)
class ToyDim(Defence):
    """factor: what every pixel is multiplied by."""

    factor: float = 0.5

    def prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return (images * self.factor).to(torch.uint8), labels


@FORMATS.register("toy-list", "a list.csv of file names and classes")
def open_list(root: Path, split: str, on_error: str) -> Source | None:
    table = root / "list.csv"
    if not table.is_file():
        return None
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    classes = sorted({name for _, name in rows})
    samples = []
    for file_name, class_name in rows:
        status = (root / file_name).stat()
        samples.append(Sample(file_name, classes.index(class_name), status.st_size, status.st_mtime_ns))
    return FolderSource(root, root.name, "toy-list", "", "", classes, samples)


@WRITERS.register("toy-list", "numbered PNG files and a list.csv")
@dataclass(frozen=True)
class ListWriter(Writer):
    def outputs(self, source: Source) -> list[str]:
        return [f"{number:06d}.png" for number in range(len(source.samples))]

    def prepare(self, destination: Destination, outputs: Sequence[str]) -> None:
        destination.tree.mkdir(parents=True, exist_ok=True)

    def encode(self, image: np.ndarray, destination: Destination, name: str, profile: bytes) -> bytes:
        return encode(image, "png")

    def write(
        self,
        destination: Destination,
        index: int,
        outputs: Sequence[str],
        encoded: Iterable[tuple[int, bytes]],
    ) -> list[str | None]:
        digests: list[str | None] = [None] * len(outputs)
        for position, data in encoded:
            write_file(destination.tree / outputs[position], data)
            digests[position] = hashlib.sha256(data).hexdigest()
        return digests

    def files(self, destination: Destination, index: int, outputs: Sequence[str]) -> list[Path]:
        return [destination.tree / name for name in outputs]

    def seal(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> None:
        with (destination.tree / "list.csv").open("w", newline="") as file:
            table = csv.writer(file)
            for chunk in chunks:
                for position in chunk.skipped:
                    (destination.tree / chunk.outputs[position]).unlink(missing_ok=True)
                for position in chunk.written:
                    class_name = destination.source.classes[chunk.labels[position]]
                    table.writerow([chunk.outputs[position], class_name])

    def entries(self, destination: Destination, chunks: Sequence[WrittenChunk]) -> Iterator[Entry]:
        return one_file_each(chunks)

    def side_files(self, destination: Destination) -> dict[str, str]:
        return {"list.csv": sha256_of(destination.tree / "list.csv")}
