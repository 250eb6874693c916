"""Rows without a training: how often edge-pixel detection (EPD) tells protected images from clean ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unlearnable_kernels.environment import commit, machine
from unlearnable_kernels.files import read_json, write_json, writing
from unlearnable_kernels.training import evaluate_detection

_FILE = "detection.json"


def detected(folder: Path) -> bool:
    """Whether ``run_detection`` was here."""
    return (folder / _FILE).is_file()


def run_detection(clean: Path, protected: Path, seed: int, folder: Path) -> None:
    """Try to tell the images of two sets apart, unless that was done, and note in ``folder`` how it went.

    Raises:
        UserError: As ``evaluate_detection`` does.
        WriteError: The folder cannot be written to.
    """
    if detected(folder):
        return
    found = evaluate_detection(clean, protected, seed)
    origin = {"commit": commit(), "threads": torch.get_num_threads(), "device": "cpu", "machine": machine()}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _FILE, found | origin)


def summarise_detections(folders: Sequence[Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the JSON file of a row says of its detections, one for each seed, and their records."""
    records = [read_json(folder / _FILE) for folder in folders]
    rates = {"last": "hit_rate"} | {name: name for name in ("clean_as_clean", "protected_as_protected")}
    summary = {
        "training": None,
        "data": {part: {"images": records[-1][part]["images"]} for part in ("clean", "protected")},
        "scaled": None,
        "accuracy": {name: [record[rate] for record in records] for name, rate in rates.items()},
        "test_images": records[0]["images"],
    }
    return summary, records
