"""What a run begins with: its datasets, checked against each other, and its record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlearnable_kernels.data.arrays import LabelledImages, load_arrays
from unlearnable_kernels.data.mixture import mix
from unlearnable_kernels.defences import Defence
from unlearnable_kernels.environment import commit, machine, versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.progress import Progress
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.evaluation import require_size
from unlearnable_kernels.training.processes import Processes
from unlearnable_kernels.training.reproducible import derived_seed
from unlearnable_kernels.training.run_folder import plugins_of


def load_sets(config: TrainConfig, progress: Progress) -> tuple[LabelledImages, LabelledImages | None]:
    """The training set and, with labels that index the training set's classes, the test set, if any.

    Raises:
        UserError: A set cannot be used.
    """

    def load(path: str, split: str, limit: int | None) -> LabelledImages:
        return load_arrays(Path(path), split, config.image_size, limit_per_class=limit, progress=progress)

    train_set = load(config.train, "train", config.limit_per_class)
    if config.clean is not None and config.protected_fraction is not None:
        clean_set = load(config.clean, "train", config.limit_per_class)
        train_set = mix(train_set, clean_set, config.protected_fraction, config.only_clean)
    if len(train_set.classes) < 2:
        raise UserError(f"{config.train} has one class only ({train_set.classes[0]}): at least 2 are needed")
    height, width = train_set.images.shape[1:3]
    if height != width:
        raise UserError(f"{config.train} has images of {width}x{height} px: give an image size, for squares")
    if config.crop_padding > height:
        raise UserError(f"crop_padding must be at most the images' {height} px, not {config.crop_padding}")
    if config.test is None:
        return train_set, None
    test_set = load(config.test, "test", config.test_limit_per_class).relabelled(
        train_set.classes, config.test
    )
    require_size(test_set, height, config.test)
    return train_set, test_set


def describe(
    config: TrainConfig, train_set: LabelledImages, test_set: LabelledImages | None, group: Processes
) -> dict[str, Any]:
    """run.json as it stands while the run goes on."""

    def data(path: str, images: LabelledImages) -> dict[str, Any]:
        return {"path": path, "images": len(images), "sha256": images.digest()}

    tested = None if test_set is None or config.test is None else data(config.test, test_set)
    return {
        "status": "unfinished",
        "classes": train_set.classes,
        "image_size": train_set.images.shape[1],
        "train": data(config.train, train_set) | {"protection": train_set.protection()},
        "test": tested,
        "defences": config.as_dict()["defences"],
        "plugins": plugins_of(config),
        "fresh_tensors": None,
        "machine": machine(),
        "device": group.device.type,
        "processes": group.size,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
        "final": None,
    }


def prepare(config: TrainConfig, defences: Sequence[Defence], data: LabelledImages) -> tuple[Tensor, Tensor]:
    """What there is to train on once every defence has prepared it.

    Returns:
        Images uint8 [N, H, W, 3] and labels int64 [N].
    """
    images, labels = data.images, data.labels
    generator = torch.Generator().manual_seed(derived_seed(config.seed, "defences"))
    for defence in defences:
        images, labels = defence.prepare(images, labels, generator)
    return images, labels


def fitting_device(nbytes: int, device: torch.device) -> torch.device:
    """``device`` if so many bytes fill less than half of what is free there, otherwise the CPU."""
    if device.type == "cuda" and nbytes < torch.cuda.mem_get_info(device)[0] // 2:
        return device
    return torch.device("cpu")
