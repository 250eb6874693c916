"""One self-contained HTML page about finished and running trainings: figures, curves, pictures."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unlearnable_kernels.defences.pgd import Pgd
from unlearnable_kernels.environment import versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import replacing, writing
from unlearnable_kernels.report.pictures import picture_sets
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.run_folder import read_evaluations, read_metrics, read_run

_COLOURS = ("#2b7fd4", "#e0632b", "#2c9c69", "#a45bd0", "#c79312", "#d04a80", "#14a0b0", "#8a8f2a")
_DOCTYPE = b"<!doctype html"
_INK = "#010203"  # stands for the page's own text colour until the figure is in the page


@dataclass(frozen=True)
class Run:
    """What a run folder holds. ``test_accuracy`` is that of the last finished epoch, in [0, 1]."""

    name: str
    config: TrainConfig
    record: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    @property
    def protection(self) -> dict[str, Any] | None:
        protection: dict[str, Any] | None = self.record["train"]["protection"]
        return protection

    def protected_by(self, part: str) -> dict[str, Any]:
        """An object in the manifest; it may be another's, so nothing in it is relied on."""
        value = (self.protection or {}).get(part)
        return value if isinstance(value, dict) else {}

    @property
    def test_accuracy(self) -> float | None:
        return self.metrics[-1].get("test_accuracy") if self.metrics else None

    @property
    def train_set(self) -> str:
        path = Path(self.config.train)
        return path.parent.name if path.name in ("train", "train.npz") else path.name


def write_report(runs: list[Path], out: Path, title: str = "Training on protected images") -> None:
    """Write one HTML page about the run folders ``runs`` to ``out``, replacing it in one step.

    The page needs nothing besides itself: no network, no other file. Pictures are taken from the training
    sets where their folders are still there. Raises UserError if a folder is no run, if ``out`` exists and
    is no HTML page, and if it cannot be written.
    """
    if not runs:
        raise UserError("a report needs at least one run folder")
    _require_page_or_nothing(out)
    read = [_read(path, name) for path, name in zip(runs, _distinct_names(runs), strict=True)]
    pictures, missing = picture_sets(list(dict.fromkeys(Path(run.config.train) for run in read)))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("unlearnable_kernels.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        summary=_summary(read),
        runs=read,
        bars=[(run.name, run.test_accuracy, _colour(index)) for index, run in enumerate(read)],
        rows=_table(read),
        curves=_learning_curves(read),
        pictures=pictures,
        missing=missing,
        versions=versions(),
    )
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _require_page_or_nothing(out: Path) -> None:
    """Raise UserError if writing ``out`` would replace anything but an HTML page."""
    with writing(out):
        if not out.exists():
            return
        if not out.is_file():
            raise UserError(f"{out} is no regular file: give the report a name of its own")
        with out.open("rb") as file:
            start = file.read(len(_DOCTYPE))
    if start.lower() != _DOCTYPE:
        raise UserError(f"{out} is no HTML report and is left as it is: give the report another name")


def _read(path: Path, name: str) -> Run:
    config, record = read_run(path)
    return Run(name, config, record, read_metrics(path, config), read_evaluations(path))


def _distinct_names(paths: list[Path]) -> list[str]:
    """The folders' names, with as many of their parents as it takes to tell them apart."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise UserError("a run folder is given twice")
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in resolved]


def _summary(runs: list[Run]) -> list[str]:
    """A sentence for every protected run with a clean one, the most alike, tested on the same images."""
    sentences = []
    for run in runs:
        others = [other for other in runs if _comparable(other, run)]
        alike = [len(_differing_fields(other.config, run.config)) for other in others]
        clean = others[alike.index(min(alike))] if others else None
        if clean is None or clean.test_accuracy is None or run.test_accuracy is None:
            continue
        fraction = run.config.protected_fraction or run.protected_by("parameters").get("fraction", 1.0)
        part = "part" if clean.config.only_clean else "images"
        copy = "the protected ones"
        if isinstance(fraction, float) and fraction != 1:
            copy = f"a copy of which {100 * fraction:g} % is protected"
        sentence = (
            f"Trained {_how(clean.config)}on the clean {part} of {clean.train_set}, the network recognises "
            f"{percent(clean.test_accuracy)} of {run.record['test']['images']:,} clean test images; trained "
            f"on {copy}, {percent(run.test_accuracy)}. Guessing would give "
            f"{percent(1 / len(run.record['classes']))}."
        )
        differing = _differing_fields(clean.config, run.config)
        if differing:
            sentence += f" Mind that the two runs also differ in {', '.join(differing)}."
        sentences.append(sentence)
    return sentences


def _how(config: TrainConfig) -> str:
    names = [defence.name for defence in config.make_defences()]
    return f"with {' and '.join(names)} " if names else ""


def _comparable(clean: Run, protected: Run) -> bool:
    tests = [run.record["test"] for run in (clean, protected)]
    return (
        clean.protection is None
        and protected.protection is not None
        and None not in tests
        and tests[0]["sha256"] == tests[1]["sha256"]
        and clean.record["classes"] == protected.record["classes"]
        and (not clean.config.only_clean or _mixed_alike(clean.config, protected.config))
    )


def _mixed_alike(first: TrainConfig, second: TrainConfig) -> bool:
    return (first.train, first.protected_fraction) == (second.train, second.protected_fraction)


def _differing_fields(first: TrainConfig, second: TrainConfig) -> list[str]:
    a, b = first.as_dict(), second.as_dict()
    sets = ("train", "test", "clean", "protected_fraction", "only_clean")
    return [name.replace("_", " ") for name in a if a[name] != b[name] and name not in sets]


def _table(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """(heading, one cell for each run), from what was trained on to what came out."""
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
    told = [f"{name.replace('_', ' ')} {value}" for name, value in shown.items()]
    return f"{run.protection.get('method', 'unknown')}: {', '.join(told)}"


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


def percent(accuracy: float) -> str:
    return f"{100 * accuracy:.1f} %"


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _learning_curves(runs: list[Run]) -> Markup:
    """Accuracy by epoch as an SVG element in the page's own text colour: test solid, training dashed."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif"}):
        figure = Figure(figsize=(6.8, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for index, run in enumerate(runs):
            epochs = [line["epoch"] for line in run.metrics]
            style: dict[str, Any] = {"color": _colour(index), "markersize": 3.5}
            training = [100 * line["train_accuracy"] for line in run.metrics]
            axes.plot(epochs, training, "--", lw=1.2, alpha=0.75, label=f"{run.name}: in training", **style)
            if run.config.test is not None:
                tested = [100 * line["test_accuracy"] for line in run.metrics]
                axes.plot(epochs, tested, "-o", lw=2, label=f"{run.name}: clean test", **style)
        axes.set(xlabel="epoch", ylabel="accuracy in %", ylim=(0, 102))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.2, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
        axes.tick_params(colors=_INK)
        axes.xaxis.label.set_color(_INK)
        axes.yaxis.label.set_color(_INK)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=_INK, fontsize="small")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    return Markup(svg[svg.index("<svg") :].replace(_INK, "currentColor"))
