"""Testing a network on clean images, during training and afterwards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.data.arrays import LabelledImages, load_arrays
from unlearnable_kernels.data.augment import to_float
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import create_network
from unlearnable_kernels.record import versions, write_jsonl
from unlearnable_kernels.training.checkpoint import load_checkpoint
from unlearnable_kernels.training.run_folder import CHECKPOINT, EVALUATIONS, read_evaluations, read_run


@dataclass(frozen=True)
class Measurement:
    """Mean cross-entropy and, per class, how many images there were and how many were recognised."""

    loss: float
    correct: list[int]
    total: list[int]

    @property
    def accuracy(self) -> float:
        return sum(self.correct) / sum(self.total)


def evaluate(run: Path, test: Path) -> dict[str, Any]:
    """Test the network of the run folder ``run`` on the data set ``test`` and append to evaluations.jsonl.

    Images are brought to the size that the run's configuration names. Classes are matched by name; some may
    be missing from ``test``, and the accuracy is that on the others. Returns the line that was written:
    accuracies in [0, 1], overall and per class, the number of images, the epoch of the checkpoint, and the
    versions. Raises UserError if ``run`` has no checkpoint or is damaged, if ``test`` has other classes or
    sizes, and if the line cannot be written.
    """
    config, record = read_run(run)
    if not (run / CHECKPOINT).is_file():
        raise UserError(f"{run} has no finished epoch yet: train it first")
    earlier = read_evaluations(run)
    data = load_arrays(test, "test", config.image_size).relabelled(record["classes"], str(test))
    require_size(data, record["image_size"], str(test))
    device = pick_device()
    model = create_network(config.network, len(data.classes), record["image_size"])
    epoch = load_checkpoint(run / CHECKPOINT, model)
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    result = measure(model, data, config.batch_size, device)
    counts = zip(data.classes, result.correct, result.total, strict=True)
    line = {
        "test": str(test.resolve()),
        "sha256": data.digest(),
        "images": len(data),
        "epoch": epoch,
        "loss": result.loss,
        "accuracy": result.accuracy,
        "per_class": {name: correct / total for name, correct, total in counts if total},
        "versions": versions(),
    }
    write_jsonl(run / EVALUATIONS, [*earlier, line])
    return line


def measure(model: nn.Module, data: LabelledImages, batch_size: int, device: torch.device) -> Measurement:
    """Loss and accuracy of ``model``, which is put into evaluation mode, on ``data`` without augmentation."""
    model.eval()
    classes = len(data.classes)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros(classes, dtype=torch.int64, device=device)
    with torch.inference_mode():
        for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True):
            labels = labels.to(device)
            logits: Tensor = model(to_float(images.to(device)))
            loss += functional.cross_entropy(logits, labels, reduction="sum")
            correct += torch.bincount(labels[logits.argmax(1) == labels], minlength=classes)
    total = torch.bincount(data.labels, minlength=classes)
    return Measurement(float(loss) / len(data), correct.tolist(), total.tolist())


def require_size(data: LabelledImages, size: int, name: str) -> None:
    """Raise UserError unless the images are ``size`` px high."""
    if data.images.shape[1] != size:
        raise UserError(
            f"{name} has images of {data.images.shape[1]} px, but the network is for {size} px: "
            "give an image size that both sets are brought to"
        )


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
