"""The table of a report: what was run, on what, and what came out."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.quality import quality_text
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.report.runs import Entry, Run, percent
from unlearnable_kernels.training.attacks import read_attack
from unlearnable_kernels.training.config import TrainConfig


def table_rows(entries: list[Entry]) -> list[tuple[str, list[str]]]:
    """(heading, one cell for each entry) of each row, from what was trained on to what came out."""
    runs = [entry.first for entry in entries]
    plugins = [_plugins(run) for run in runs]
    quality = [quality_text((run.protection or {}).get("picture_quality")) for run in runs]
    rows = {
        "Training set": [
            f"{run.train_set}, {run.record['train']['images']:,} images{_mixture(run.config)}" for run in runs
        ],
        "Protection": [_protection(run) for run in runs],
        **({"Picture quality": [each or "-" for each in quality]} if any(quality) else {}),
        "Key fingerprint": [run.protected_by("key").get("fingerprint", "-") for run in runs],
        "Network": [f"{run.config.network}, {run.record['image_size']} px{_input(run)}" for run in runs],
        "Defences": [_defences(run.config) for run in runs],
        **({"Plug-ins": [each or "none" for each in plugins]} if any(plugins) else {}),
        "Epochs": [_joined(_epochs(run) for run in entry.runs) for entry in entries],
        "Training": [_recipe(run.config) for run in runs],
        "Seed": [", ".join(str(run.config.seed) for run in entry.runs) for entry in entries],
        "Accuracy in training": [
            _accuracy([run.metrics[-1]["train_accuracy"] for run in entry.measured]) for entry in entries
        ],
        "Clean-test accuracy": [_accuracy(entry.test_accuracies) for entry in entries],
        "Evaluations": [_evaluations(entry) for entry in entries],
        "Machine": [_joined(_machine(run.record) for run in entry.runs) for entry in entries],
        "Versions": [_joined(_versions(run) for run in entry.runs) for entry in entries],
    }
    return list(rows.items())


def _joined(texts: Iterable[str]) -> str:
    """Each text once."""
    return "; ".join(dict.fromkeys(texts))


def _accuracy(values: list[float]) -> str:
    return percent(values) if values else "-"


def _evaluations(entry: Entry) -> str:
    """The tests afterwards, a test that was made of several seeds as one; of repeated ones the last."""
    found: dict[tuple[str, int, str], dict[int, float]] = {}
    for run in entry.runs:
        for line in run.evaluations:
            test = line["test"], line["images"], _under(line)
            found.setdefault(test, {})[run.config.seed] = line["accuracy"]
    told = [
        f"{Path(path).name}: {percent(list(accuracies.values()))} of {images:,}{under}"
        for (path, images, under), accuracies in found.items()
    ]
    return "; ".join(told) or "-"


def _plugins(run: Run) -> str:
    return ", ".join(
        f"{module} (sha256 {str(plugin['sha256'])[:12]})" for module, plugin in run.record["plugins"].items()
    )


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {version}" for name, version in run.record["versions"].items())


def _input(run: Run) -> str:
    """What else the network was given: normalised images, and weights to begin with."""
    config, fresh = run.config, run.record["fresh_tensors"]
    told = f", images normalised by {config.normalise}" if config.normalise else ""
    if config.pretrained:
        left = "" if fresh is None else f" but for {len(fresh)} tensors"
        told += f", pretrained ({Path(config.pretrained).name}){left}"
    return told


def _mixture(config: TrainConfig) -> str:
    if config.protected_fraction is None:
        return ""
    percentage = f"{100 * config.protected_fraction:g} %"
    return (
        f", without its protected {percentage}" if config.only_clean else f", {percentage} of them protected"
    )


def _protection(run: Run) -> str:
    if run.protection is None:
        return "none"
    parameters = run.protected_by("parameters")
    loop = parameters.get("loop")
    if isinstance(loop, dict):
        parameters = {name: value for name, value in parameters.items() if name != "loop"} | loop
    shown = {name: f"{v:g}" if isinstance(v, float) else v for name, v in parameters.items() if v is not None}
    shown_as = [f"{name.replace('_', ' ')} {value}" for name, value in shown.items()]
    return f"{run.protection.get('method', 'unknown')}: {', '.join(shown_as)}"


def _epochs(run: Run) -> str:
    done = len(run.metrics)
    return str(done) if done == run.config.epochs else f"{done} of {run.config.epochs}, unfinished"


def _defences(config: TrainConfig) -> str:
    told = [(defence.name, defence.describe()) for defence in config.make_defences()]
    return "; ".join(f"{name}, {what}" if what else name for name, what in told) or "none: plain (ERM)"


def _under(line: dict[str, Any]) -> str:
    """The attack of an evaluation, which lines of earlier versions do not name."""
    if not line.get("attack"):
        return ""
    try:
        return f" under {read_attack(line['attack']).name}"
    except (TypeError, UserError) as error:
        raise UserError(f"an evaluation of {line['test']} is damaged: its attack is malformed") from error


def _recipe(config: TrainConfig) -> str:
    sgd = config.optimizer == "sgd"
    schedule = {
        "step": f"x {config.lr_factor:g} every {config.lr_step} epochs",
        "cosine": "cosine",
        "one-cycle": "one cycle",
    }[config.schedule]
    schedule += f" after {config.warmup} epochs of warm-up" if config.warmup else ""
    augmentation = [f"crop {config.crop_padding} px"] if config.crop_padding else []
    augmentation += ["flip"] if config.flip else []
    computing = [config.precision]
    computing += ["compiled"] if config.compile else []
    computing += ["deterministic"] if config.deterministic else []
    return (
        f"{'SGD' if sgd else 'AdamW'}, batch {config.batch_size}, lr {config.lr:g} ({schedule}), "
        f"{f'momentum {config.momentum:g}, ' if sgd else ''}weight decay {config.weight_decay:g}; "
        f"{' and '.join(augmentation) or 'no augmentation'}; {', '.join(computing)}"
    )


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    processor = machine["gpu"] if record["device"] == "cuda" else machine["cpu"]
    return f"{processor}, {machine['cores']} cores, {machine['memory_gib']} GiB"
