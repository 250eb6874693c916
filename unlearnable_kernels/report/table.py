"""The table of a report: what was run, on what, and what came out."""

from pathlib import Path
from typing import Any

from unlearnable_kernels.defences.pgd import Pgd
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.report.runs import Run, percent
from unlearnable_kernels.training.config import TrainConfig


def table_rows(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """(heading, one cell for each run) of each row, from what was trained on to what came out."""
    rows = {
        "Training set": [
            f"{run.train_set}, {run.record['train']['images']:,} images{_mixture(run.config)}" for run in runs
        ],
        "Protection": [_protection(run) for run in runs],
        "Key fingerprint": [run.protected_by("key").get("fingerprint", "-") for run in runs],
        "Network": [f"{run.config.network}, {run.record['image_size']} px" for run in runs],
        "Defences": [_defences(run.config) for run in runs],
        "Epochs": [_epochs(run) for run in runs],
        "Training": [_recipe(run.config) for run in runs],
        "Seed": [str(run.config.seed) for run in runs],
        "Accuracy in training": [
            percent(run.metrics[-1]["train_accuracy"]) if run.metrics else "-" for run in runs
        ],
        "Clean-test accuracy": [
            "-" if run.test_accuracy is None else percent(run.test_accuracy) for run in runs
        ],
        "Evaluations": [
            "; ".join(
                f"{Path(line['test']).name}: {percent(line['accuracy'])} of {line['images']:,}{_under(line)}"
                for line in run.evaluations
            )
            or "-"
            for run in runs
        ],
        "Machine": [_machine(run.record["machine"]) for run in runs],
        "Versions": [", ".join(f"{k} {v}" for k, v in run.record["versions"].items()) for run in runs],
    }
    return list(rows.items())


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
        return f" under {Pgd(**line['attack']).name}"
    except (TypeError, UserError) as error:
        raise UserError(f"an evaluation of {line['test']} is damaged: its attack is malformed") from error


def _recipe(config: TrainConfig) -> str:
    schedule = (
        f"x {config.lr_factor:g} every {config.lr_step} epochs" if config.schedule == "step" else "one cycle"
    )
    augmentation = [f"crop {config.crop_padding} px"] if config.crop_padding else []
    augmentation += ["flip"] if config.flip else []
    return (
        f"SGD, batch {config.batch_size}, lr {config.lr:g} ({schedule}), momentum {config.momentum:g}, "
        f"weight decay {config.weight_decay:g}; {' and '.join(augmentation) or 'no augmentation'}; "
        f"{config.precision}{', compiled' if config.compile else ''}"
    )


def _machine(machine: dict[str, Any]) -> str:
    return f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
