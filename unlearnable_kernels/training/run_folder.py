"""A run folder: which files it holds, and when it may be continued.

config.json        the full configuration
metrics.jsonl      one line per finished epoch
checkpoint.safetensors  the state after the last finished epoch
history.csv        the same as a table
run.json           classes, data, defences, plug-ins, machine, threads, versions, commit; at last the result
tensorboard/       the same for TensorBoard, where that was asked for
evaluations.jsonl  one line per test afterwards
certifications.jsonl  one line per certification of the smoothed network
bayes_error.jsonl  one line per Bayes-error estimate afterwards
detections.jsonl   one line per detection of protected images
"""

import csv
from pathlib import Path
from typing import Any, get_type_hints

from unlearnable_kernels.data.named import parse
from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import read_json, read_jsonl, replacing, write_json, writing
from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.plugins import changed_plugin, describe_plugins, require_plugins
from unlearnable_kernels.training.config import LATER, TrainConfig

CONFIG = "config.json"
METRICS = "metrics.jsonl"
HISTORY = "history.csv"
TENSORBOARD = "tensorboard"
CHECKPOINT = "checkpoint.safetensors"
RECORD = "run.json"
SEED = "seed-"  # and the number, of a run folder among those of several seeds
EVALUATIONS = "evaluations.jsonl"
CERTIFICATIONS = "certifications.jsonl"
BAYES_ERROR = "bayes_error.jsonl"
DETECTIONS = "detections.jsonl"

# What readers of a run rely on: a type, or the fields of an object.
_DATA = {"path": str, "images": int, "sha256": str}
_PLUGIN = {"sha256": str | None, "provides": list}
_RECORD = {
    "status": str,
    "classes": list,
    "image_size": int,
    "train": {**_DATA, "protection": dict | None},
    "test": dict | None,
    "plugins": dict,
    "fresh_tensors": list | None,
    "device": str,
    "machine": {"cpu": str, "cores": int, "memory_gib": float, "gpu": str | None},
    "versions": dict,
    "final": dict | None,
}
_CONFIG = get_type_hints(TrainConfig) | {"defences": list}
_METRICS = {"epoch": int, "train_accuracy": float, "train_loss": float}
_TESTED = {"test_accuracy": float}
_EVALUATION = {"test": str, "accuracy": float, "images": int}
_CERTIFICATION = {"test": str, "sigma": float, "accuracies": list, "images": int}


def check_places(out: Path, config: TrainConfig) -> None:
    """Check that ``out`` lies clear of all datasets that are read, neither in nor around them.

    Raises:
        UserError: It does not.
    """
    place = out.resolve()
    sets = (config.train, config.clean, config.test)
    for data in (parse(path).path for path in sets if path is not None):
        if place == data or data in place.parents or place in data.parents:
            raise UserError(f"{out} must lie outside the dataset {data}, and not around it")


def run_folders(path: Path) -> list[Path]:
    """The run folders that ``path`` stands for: itself, or those of several seeds in it, by number."""
    if (path / CONFIG).exists():
        return [path]
    seeds = [found.parent for found in path.glob(f"{SEED}*/{CONFIG}")]
    return sorted(seeds, key=lambda folder: (len(folder.name), folder.name)) or [path]


def find_run(out: Path, config: TrainConfig) -> dict[str, Any] | None:
    """The run.json of an earlier run of ``config`` in ``out``, or None where a new one may begin.

    Raises:
        UserError: ``out`` holds a run with another configuration or other plug-ins, a damaged one, or
            something else; the message names the first field that differs.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: a run needs a folder")
    if (out / CONFIG).is_file():
        before = read_json(out / CONFIG)
        _require_this_version(before, out / CONFIG)
        now = config.as_dict()
        for name in [*now, *before]:
            if before.get(name) != now.get(name):
                raise UserError(
                    f"{out} holds a run with {name} {before.get(name)!r}, not {now.get(name)!r}: "
                    "give the same configuration to continue it, or another folder"
                )
        if not (out / RECORD).is_file():
            return None
        record = _read_record(out)
        changed = changed_plugin(record["plugins"], plugins_of(config))
        if changed is not None:
            raise UserError(f"{out} holds an earlier run: {changed}; use another folder")
        return record
    if out.is_dir():
        other = [child.name for child in out.iterdir() if child.suffix != ".tmp"]
        if other:
            raise UserError(f"{out} holds something else ({sorted(other)[0]}): give an empty or a new folder")
    return None


def plugins_of(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """The plug-ins that a run uses, as ``describe_plugins`` has them."""
    defences = [(DEFENCES, defence["name"]) for defence in config.as_dict()["defences"]]
    return describe_plugins([(NETWORKS, config.network), *defences])


def write_run(out: Path, config: TrainConfig, record: dict[str, Any]) -> None:
    """Write the configuration and run.json into the run folder, made where it is missing.

    Raises:
        WriteError: A file cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_json(out / CONFIG, config.as_dict())
    write_json(out / RECORD, record)


def read_run(run: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration and run.json of a run folder.

    Raises:
        UserError: It is not a run folder, a damaged one, or one that needs a plug-in that is not there.
    """
    for name in (CONFIG, RECORD):
        if not (run / name).is_file():
            raise UserError(f"{run} is not a run folder: it has no {name}")
    config = read_json(run / CONFIG)
    _require_this_version(config, run / CONFIG)
    known = {name: kind for name, kind in _CONFIG.items() if name in config or name not in LATER}
    _require(config, known, str(run / CONFIG))
    record = _read_record(run)
    require_plugins(record["plugins"], (NETWORKS, DEFENCES), str(run))
    return TrainConfig(**config), record


def read_metrics(run: Path, config: TrainConfig) -> list[dict[str, Any]]:
    """The finished epochs' metrics, from the first on.

    Raises:
        UserError: The file is damaged.
    """
    lines = read_jsonl(run / METRICS)
    for number, line in enumerate(lines, 1):
        name = f"{run / METRICS}, line {number}"
        _require(line, _METRICS | (_TESTED if config.test is not None else {}), name)
        if line["epoch"] != number:
            raise UserError(f"{name} is damaged: it is that of epoch {line['epoch']}")
    return lines


def write_history(run: Path, metrics: list[dict[str, Any]]) -> None:
    """Write the finished epochs' metrics as a table; the file is replaced in one step.

    Raises:
        WriteError: The file cannot be written.
    """
    with replacing(run / HISTORY) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, metrics[0] if metrics else ())
        table.writeheader()
        table.writerows(metrics)


def read_evaluations(run: Path) -> list[dict[str, Any]]:
    """The tests afterwards, oldest first.

    Raises:
        UserError: The file is damaged.
    """
    return _read_lines(run / EVALUATIONS, _EVALUATION)


def read_certifications(run: Path) -> list[dict[str, Any]]:
    """The certifications of the smoothed network, oldest first.

    Raises:
        UserError: The file is damaged.
    """
    return _read_lines(run / CERTIFICATIONS, _CERTIFICATION)


def _read_lines(path: Path, fields: dict[str, Any]) -> list[dict[str, Any]]:
    lines = read_jsonl(path)
    for number, line in enumerate(lines, 1):
        _require(line, fields, f"{path}, line {number}")
    return lines


def _read_record(run: Path) -> dict[str, Any]:
    record = read_json(run / RECORD)
    name = str(run / RECORD)
    _require(record, _RECORD, name)
    if record["test"] is not None:
        _require(record["test"], _DATA, name, "test.")
    for module in record["plugins"]:
        _require(record["plugins"], {module: _PLUGIN}, name, "plugins.")
    if record["status"] == "finished":
        _require(record["final"], _METRICS, name, "final.")
    if not record["classes"] or not all(isinstance(each, str) for each in record["classes"]):
        raise UserError(f"{name} is damaged: 'classes' is missing or malformed")
    checked: dict[str, Any] = record
    return checked


def _require_this_version(config: Any, path: Path) -> None:
    """Raise UserError if a config.json has a field that there is no more."""
    _require(config, {}, str(path))
    foreign = [f"it has {name!r}" for name in config if name not in _CONFIG]
    if foreign:
        raise UserError(
            f"{path} was written by another version: {foreign[0]}; train again, in another folder"
        )


def _require(value: Any, fields: dict[str, Any], name: str, within: str = "") -> None:
    """Check that ``value`` is an object with all of ``fields``, each of its type.

    Raises:
        UserError: It is not; the message begins with ``name``.
    """
    if not isinstance(value, dict):
        raise UserError(f"{name} is damaged: {within.rstrip('.') or 'it'} is not a JSON object")
    for field, kind in fields.items():
        if isinstance(kind, dict):
            _require(value.get(field), kind, name, f"{within}{field}.")
            continue
        # A whole number is a fraction, too.
        fits = isinstance(value.get(field), kind | int if isinstance(0.0, kind) else kind)
        if field not in value or not fits:
            raise UserError(f"{name} is damaged: {within + field!r} is missing or malformed")
