"""What a run begins with: its datasets, checked against each other, and its record."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlearnable_kernels.data.arrays import LabelledImages, fits, load_arrays, load_samples, open_split
from unlearnable_kernels.data.manifest import find_manifest
from unlearnable_kernels.data.mixture import mix
from unlearnable_kernels.data.source import load_image
from unlearnable_kernels.data.stream import ImageStream, stream
from unlearnable_kernels.defences import Defence
from unlearnable_kernels.environment import commit, machine, usable_cores, versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.progress import Progress
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.evaluation import require_size
from unlearnable_kernels.training.processes import Processes
from unlearnable_kernels.training.reproducible import derived_seed
from unlearnable_kernels.training.run_folder import plugins_of


def load_sets(
    config: TrainConfig, progress: Progress, workers: int | None = None
) -> tuple[LabelledImages, LabelledImages | None]:
    """The training set and, with labels that index the training set's classes, the test set, if any.

    Args:
        config: Says which.
        progress: Takes progress.
        workers: Processes that decode the training set while it is trained on; 0 decodes it now, into memory.
            None does so where it takes at most half of the free memory, otherwise a process for each core
            decodes. A mixture is always in memory, and so is the test set.

    Raises:
        UserError: A set cannot be used.
    """

    def load(path: str, split: str, limit: int | None) -> LabelledImages:
        return load_arrays(Path(path), split, config.image_size, limit_per_class=limit, progress=progress)

    mixed = config.clean is not None
    if workers is not None and (workers < 0 or (mixed and workers)):
        allowed = "0 with a mixture, which is put together in memory" if mixed else "0 or more"
        raise UserError(f"workers must be {allowed}, not {workers}")
    train_set = _load_or_stream(config, progress, 0 if mixed else workers)
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


def _load_or_stream(config: TrainConfig, progress: Progress, workers: int | None) -> LabelledImages:
    path = Path(config.train)
    source, samples = open_split(path, "train", config.limit_per_class)
    if workers is None:
        workers = 0
        image = load_image(source, samples[0], config.image_size)
        if source.is_encoded and not fits((len(samples), *image.shape)):
            # torchrun's processes on one machine share its cores.
            workers = max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if workers:
        return stream(source, samples, config.image_size, workers, find_manifest(path))
    return load_samples(source, samples, path, "train", config.image_size, progress=progress)


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
    if isinstance(images, ImageStream):
        for each in defences:
            if each.overrides("prepare") and getattr(each, "when", "before") == "before":
                raise UserError(
                    f"defence {each.name} changes all images before training, so they have to be in memory: "
                    "give workers 0, and a smaller image size or fewer images if they do not fit"
                )
        return images, labels
    generator = torch.Generator().manual_seed(derived_seed(config.seed, "defences"))
    for defence in defences:
        images, labels = defence.prepare(images, labels, generator)
    return images, labels


def fitting_device(nbytes: int, device: torch.device) -> torch.device:
    """``device`` if so many bytes fill less than half of what is free there, otherwise the CPU."""
    if device.type == "cuda" and nbytes < torch.cuda.mem_get_info(device)[0] // 2:
        return device
    return torch.device("cpu")
