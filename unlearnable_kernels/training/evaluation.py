"""Testing a network on clean or attacked images, during training and afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.data.arrays import LabelledImages, load_arrays
from unlearnable_kernels.data.augment import to_float
from unlearnable_kernels.data.named import resolve
from unlearnable_kernels.defences import Defence
from unlearnable_kernels.defences.pgd import Pgd
from unlearnable_kernels.device import autocast, pick_device, sent
from unlearnable_kernels.environment import versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import write_jsonl
from unlearnable_kernels.networks import create_network
from unlearnable_kernels.networks.normalise import normalised
from unlearnable_kernels.progress import Progress, no_progress, prefixed
from unlearnable_kernels.training.attacks import Against, AutoAttack, attack_on
from unlearnable_kernels.training.certified import RADII, certified_accuracy
from unlearnable_kernels.training.checkpoint import load_checkpoint
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.processes import Processes
from unlearnable_kernels.training.run_folder import (
    CERTIFICATIONS,
    CHECKPOINT,
    EVALUATIONS,
    plugins_of,
    read_certifications,
    read_evaluations,
    read_run,
)


@dataclass(frozen=True)
class Measurement:
    """What a test showed.

    Attributes:
        loss: Mean cross-entropy.
        correct: How many images of each class were recognised.
        total: How many there were.
    """

    loss: float
    correct: list[int]
    total: list[int]

    @property
    def accuracy(self) -> float:
        """The part of all images that was recognised, in [0, 1]."""
        return sum(self.correct) / sum(self.total)


def evaluate(
    run: Path,
    test: Path,
    attack: Pgd | AutoAttack | None = None,
    progress: Progress = no_progress,
    device: str | None = None,
) -> dict[str, Any]:
    """Test the network of a run folder on a dataset and append the result to its evaluations.jsonl.

    As ``evaluate_attacks``, with one attack or none; returns the one line.
    """
    return evaluate_attacks(run, test, [attack], progress, device)[0]


def evaluate_attacks(
    run: Path,
    test: Path,
    attacks: Sequence[Pgd | AutoAttack | None],
    progress: Progress = no_progress,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Test the network of a run folder under several attacks, each noted in evaluations.jsonl once done.

    Images are brought to the size that the run's configuration names, and to what the run's defences do to
    tested images. Classes are matched by name; some may be missing from ``test``, and the accuracy is that on
    the others.

    Args:
        run: The run folder.
        test: A dataset as ``open_source`` takes it.
        attacks: Each tests on attacked images, and draws from the run's seed what it would draw alone; None
            tests on the images themselves.
        progress: Called with images.
        device: As for ``train``.

    Returns:
        The lines that were written: accuracies in [0, 1], overall and per class, the number of images, the
        epoch of the checkpoint, whether the run was finished, the attack's settings or None, plug-ins and
        versions.

    Raises:
        UserError: ``run`` has no checkpoint or is damaged, ``test`` has other classes or sizes, an attack's
            package is missing, or a line cannot be written.
    """
    one = Processes(0, 1, pick_device(device))
    trained = load_trained(run, one.device)
    model, config = trained.model, trained.config
    earlier = read_evaluations(run)
    data = trained.test_set(test)
    seen = at_test(trained.defences, data)

    def prepared(attack: Pgd | AutoAttack | None) -> Against | None:
        if attack is None:
            return None
        return attack_on(model, attack, len(data.classes), config.precision, config.seed, one.device)

    lines: list[dict[str, Any]] = []
    # All first: a package that is missing is told before hours of another attack.
    for attack, changed in zip(attacks, [prepared(each) for each in attacks], strict=True):
        told = prefixed(progress, f"{attack.name}: ") if attack and len(attacks) > 1 else progress
        result = measure(model, seen, config.batch_size, one, config.precision, changed, told)
        lines.append(_line(trained, test, data, attack, result))
        write_jsonl(run / EVALUATIONS, [*earlier, *lines])
    return lines


def _line(
    trained: "Trained", test: Path, data: LabelledImages, attack: Pgd | AutoAttack | None, result: Measurement
) -> dict[str, Any]:
    """What evaluations.jsonl holds of a test."""
    counts = zip(data.classes, result.correct, result.total, strict=True)
    return {
        "test": resolve(test),
        "sha256": data.digest(),
        "images": len(data),
        "epoch": trained.epoch,
        "status": trained.record["status"],
        "attack": None if attack is None else attack.as_dict(),
        "loss": result.loss,
        "accuracy": result.accuracy,
        "per_class": {name: correct / total for name, correct, total in counts if total},
        "plugins": plugins_of(trained.config),
        "versions": versions(),
    }


def evaluate_certified(
    run: Path,
    test: Path,
    sigma: float,
    radii: Sequence[float] = RADII,
    *,
    samples: int = 10_000,
    images: int | None = None,
    progress: Progress = no_progress,
    device: str | None = None,
) -> dict[str, Any]:
    """Certify the smoothed network of a run folder and append the result to its certifications.jsonl.

    As ``evaluate`` brings images to size, classes to names, and images to what the defences have them be.

    Args:
        run: The run folder.
        test: A dataset as ``open_source`` takes it.
        sigma: Standard deviation of the noise, for images in [0, 1].
        radii: In L2, for images in [0, 1].
        samples: Noisy copies of every image.
        images: Certify so many, at even distances; None takes all.
        progress: Called with images.
        device: As for ``train``.

    Returns:
        The line that was written: what ``certified_accuracy`` returns, the test set, the epoch, whether the
            run was finished, plug-ins and versions.

    Raises:
        UserError: As ``evaluate`` does, and for a setting out of range.
    """
    trained = load_trained(run, pick_device(device))
    earlier = read_certifications(run)
    data = trained.test_set(test)
    result = certified_accuracy(
        trained.model,
        at_test(trained.defences, data),
        sigma,
        radii,
        samples=samples,
        images=images,
        seed=trained.config.seed,
        precision=trained.config.precision,
        progress=progress,
    )
    line = {
        "test": resolve(test),
        "sha256": data.digest(),
        "epoch": trained.epoch,
        "status": trained.record["status"],
        **result,
        "plugins": plugins_of(trained.config),
        "versions": versions(),
    }
    write_jsonl(run / CERTIFICATIONS, [*earlier, line])
    return line


@dataclass(frozen=True)
class Trained:
    """What a run folder holds, to test.

    Attributes:
        model: The network after its last finished epoch, channels-last.
        epoch: How many were finished.
        config: The configuration.
        record: run.json.
        defences: With what they found in the training set.
    """

    model: nn.Module
    epoch: int
    config: TrainConfig
    record: dict[str, Any]
    defences: list[Defence]

    def test_set(self, path: Path) -> LabelledImages:
        """The test split of a dataset, brought to the size and the classes of the run.

        Raises:
            UserError: It cannot be read, or has other classes or sizes.
        """
        data = load_arrays(path, "test", self.config.image_size).relabelled(self.record["classes"], str(path))
        require_size(data, self.record["image_size"], str(path))
        return data


def load_trained(run: Path, device: torch.device) -> Trained:
    """The network of a run folder, on ``device``, and what belongs to it.

    Raises:
        UserError: ``run`` has no checkpoint or is damaged.
    """
    config, record = read_run(run)
    if not (run / CHECKPOINT).is_file():
        raise UserError(f"{run} has no finished epoch yet: train it first")
    model = create_network(config.network, len(record["classes"]), record["image_size"])
    if config.normalise is not None:
        model = normalised(model, config.normalise)
    defences = config.make_defences()
    epoch = load_checkpoint(run / CHECKPOINT, model, defences=defences)
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trained(model, epoch, config, record, defences)


def measure(
    model: nn.Module,
    data: LabelledImages,
    batch_size: int,
    processes: Processes,
    precision: str = "fp32",
    against: Against | None = None,
    progress: Progress = no_progress,
) -> Measurement:
    """Loss and accuracy of ``model``, which is put into evaluation mode, on ``data`` without augmentation.

    Every process takes its part of the images, and all get the whole result.

    Args:
        model: On the processes' device.
        data: The images as they are to be seen.
        batch_size: Images at a time, over all processes.
        processes: This process among those that test together.
        precision: "fp32" or "bf16", of passes through the network.
        against: An attack of ``model`` that comes first.
        progress: Called with images.
    """
    model.eval()
    classes, device = len(data.classes), processes.device
    # Whole numbers as large as there are images are exact in double.
    sums = torch.zeros(1 + classes, dtype=torch.float64, device=device)
    mine = processes.part(len(data))
    size = max(1, batch_size // processes.size)
    batches = zip(data.images[mine].split(size), data.labels[mine].split(size), strict=True)
    for number, (stored, labels) in enumerate(batches):
        images, labels = to_float(sent(stored, device)), sent(labels, device)
        if against is not None:
            images = against(images, labels)
        with torch.inference_mode():
            with autocast(device, precision):
                logits: Tensor = model(images)
            logits = logits.float()
            sums[0] += functional.cross_entropy(logits, labels, reduction="sum")
            sums[1:] += torch.bincount(labels[logits.argmax(1) == labels], minlength=classes)
        progress("testing", min((number + 1) * size * processes.size, len(data)), len(data))
    loss, *correct = processes.sum(sums).tolist()
    total = torch.bincount(data.labels, minlength=classes)
    return Measurement(loss / len(data), [int(each) for each in correct], total.tolist())


def at_test(defences: Sequence[Defence], data: LabelledImages) -> LabelledImages:
    """The images to test on, as the defences have them."""
    images = data.images
    for defence in defences:
        images = defence.at_test(images)
    return replace(data, images=images)


def require_size(data: LabelledImages, size: int, name: str) -> None:
    """Check that the images are ``size`` px high.

    Raises:
        UserError: They are not; the message calls them ``name``.
    """
    if data.images.shape[1] != size:
        raise UserError(
            f"{name} has images of {data.images.shape[1]} px, but the network is for {size} px: "
            "give an image size that both sets are brought to"
        )
