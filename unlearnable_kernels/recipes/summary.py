"""What the finished runs of a row have shown, as its JSON file says it."""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.quality import picture_quality
from unlearnable_kernels.recipes.detections import summarise_detections
from unlearnable_kernels.recipes.effort import extent
from unlearnable_kernels.recipes.filtered_tests import accuracy_on_filtered
from unlearnable_kernels.recipes.jobs import Job, Scale
from unlearnable_kernels.recipes.results import accuracies, origin, standard_error, write_result
from unlearnable_kernels.recipes.row import CLEAN, DETECTED, Row
from unlearnable_kernels.training import TrainConfig
from unlearnable_kernels.training.run_folder import read_metrics, read_run

_OF_A_RUN = ("train", "test", "clean", "seed")  # settings that are not the row's


def summarise(jobs: Sequence[Job], scale: Scale, results: Path) -> dict[str, Any]:
    """What the finished runs of a row have shown, written as its JSON file.

    Accuracies are in [0, 1]: of the last epoch, which is the row's figure, of the best one, the mean of the
    last five, and those of all epochs, for each seed. Of a detection the last one is the hit rate.
    """
    row, config = jobs[0].row, jobs[0].config
    if row.test == DETECTED:
        measured, records = summarise_detections([job.folder for job in jobs])
    else:
        measured, records = _summarise_trainings(jobs, scale)
    last, images = measured["accuracy"]["last"], measured["test_images"]
    mean = sum(last) / len(last)
    spread = math.sqrt(sum((each - mean) ** 2 for each in last) / (len(last) - 1)) if len(last) > 1 else None
    sets = [job.protected for job in jobs if job.protected is not None]
    result = {
        "row": row.name,
        "published": None if row.published is None else list(row.published),
        "dataset": row.dataset,
        "protection": row.protection,
        "test": row.test,
        "training": measured["training"],
        "data": measured["data"],
        "scaled": measured["scaled"],
        "seeds": [job.seed for job in jobs],
        "accuracy": measured["accuracy"],
        "mean": mean,
        "standard_deviation": spread,
        "test_images": images,
        "standard_error": standard_error(mean, images),
        "quality": [] if config.only_clean else [_quality(config.test, protected) for protected in sets],
        "machine": _machine(records[-1]),
        "runs": [origin(record) for record in records],
        # No secrets: whoever reads this can make the same sets.
        "burnt_keys": [] if row.protection is None else [job.key.material.hex() for job in jobs],
    }
    if row.about:
        result["about"] = True
    if row.stored_as is not None:
        result["stored_as"] = row.stored_as
    if row.upon is not None:
        result["upon"] = row.upon
    if row.pretraining:
        result["pretraining"] = dict(row.pretraining)
    return write_result(result, results)


def _summarise_trainings(jobs: Sequence[Job], scale: Scale) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the JSON file says of the trainings, and their records."""
    config = jobs[0].config
    records: list[dict[str, Any]] = [read_run(job.folder)[1] for job in jobs]
    curves = [_curve(job) for job in jobs]
    summary = {
        "training": _training(config, jobs[0].row),
        "data": {part: _seen(records[-1][part]) for part in ("train", "test")} | {"choice": _choice(config)},
        "scaled": _scaled(scale, jobs[0]),
        "accuracy": accuracies(curves),
        "test_images": records[0]["test"]["images"],
    }
    return summary, records


def _curve(job: Job) -> list[float]:
    """Accuracy by epoch; on filtered images that of the last one alone."""
    if job.row.test == CLEAN:
        return [line["test_accuracy"] for line in read_metrics(job.folder, job.config)]
    assert job.protected is not None
    return [accuracy_on_filtered(job.folder, job.protected, job.key, job.row.test)]


def _training(config: TrainConfig, row: Row) -> dict[str, Any]:
    """The row's settings, without the places of weights and clean images."""
    settings = {name: value for name, value in config.as_dict().items() if name not in _OF_A_RUN}
    places = {"clean", "weights"} if row.pretraining else {"clean"}
    settings["defences"] = [
        {name: value for name, value in each.items() if name not in places} for each in settings["defences"]
    ]
    return settings


def _scaled(scale: Scale, job: Job) -> dict[str, Any] | None:
    """What was left out, with the number of images that there were."""
    scaled, per_class = scale.as_dict(), job.config.limit_per_class
    if scaled is not None and scale.images is not None and per_class is not None:
        scaled["images"] = extent(job.source).images(per_class)
    return scaled


def _seen(data: Mapping[str, Any]) -> dict[str, Any]:
    """A data set of the last seed."""
    return {name: data[name] for name in ("images", "sha256")}


def _choice(config: TrainConfig) -> dict[str, Any]:
    """How images were chosen; nothing is drawn, so there is no seed."""
    return {
        "seed": None,
        "images": "all" if config.limit_per_class is None else "the first of each class, by name",
        "protected": "all" if config.protected_fraction is None else "first in each class by SHA-256 of name",
    }


def _machine(record: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run was trained, without a GPU that it did not use."""
    used: dict[str, Any] = record["machine"]
    return used if record["device"] == "cuda" else used | {"gpu": None}


@functools.cache
def _quality(source: str, protected: Path) -> dict[str, Any]:
    """Once for each set, however many rows share it."""
    return picture_quality(source, protected)
