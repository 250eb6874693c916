"""A run folder: which files it holds, and when it may be continued.

config.json        the full configuration
metrics.jsonl      one line per finished epoch
checkpoint.safetensors  the state after the last finished epoch
run.json           classes, data, machine, versions and, once finished, the result
evaluations.jsonl  one line per test afterwards
"""

import json
from pathlib import Path
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.record import write_json
from unlearnable_kernels.training.config import TrainConfig

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"
RECORD = "run.json"
EVALUATIONS = "evaluations.jsonl"


def find_run(out: Path, config: TrainConfig) -> dict[str, Any] | None:
    """The run.json of an earlier run of ``config`` in ``out``, or None where a new one may begin.

    Raises UserError if ``out`` holds a run with another configuration, naming the first field that differs,
    or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: a run needs a folder")
    if (out / CONFIG).is_file():
        before = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        now = config.as_dict()
        for name in [*now, *before]:
            if before.get(name) != now.get(name):
                raise UserError(
                    f"{out} holds a run with {name} {before.get(name)!r}, not {now.get(name)!r}: "
                    "give the same configuration to continue it, or another folder"
                )
        return json.loads((out / RECORD).read_text(encoding="utf-8")) if (out / RECORD).is_file() else None
    if out.is_dir():
        other = [child.name for child in out.iterdir() if child.suffix != ".tmp"]
        if other:
            raise UserError(f"{out} holds something else ({sorted(other)[0]}): give an empty or a new folder")
    return None


def write_run(out: Path, config: TrainConfig, record: dict[str, Any]) -> None:
    """Write the configuration and run.json into the run folder, made where it is missing."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / CONFIG, config.as_dict())
        write_json(out / RECORD, record)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from None


def read_run(run: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration and run.json of a run folder. Raises UserError if it is none."""
    for name in (CONFIG, RECORD):
        if not (run / name).is_file():
            raise UserError(f"{run} is no run folder: it has no {name}")
    config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    record: dict[str, Any] = json.loads((run / RECORD).read_text(encoding="utf-8"))
    try:
        return TrainConfig(**config), record
    except TypeError as error:
        raise UserError(f"{run / CONFIG} was written by another version: {error}") from error
