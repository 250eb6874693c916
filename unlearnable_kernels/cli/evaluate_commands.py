"""The commands that show what networks learned: evaluate, report and demo."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unlearnable_kernels.cli.options import Device, Plugin
from unlearnable_kernels.errors import UserError

if TYPE_CHECKING:
    from unlearnable_kernels.training import Pgd


class Norm(str, Enum):
    linf = "linf"
    l2 = "l2"


class DemoData(str, Enum):
    digits = "digits"
    cifar10 = "cifar10"


RunFolders = Annotated[
    list[Path], typer.Argument(help="Run folders of `unlearnable train`, or folders of several seeds.")
]


def evaluate(
    run: Annotated[
        Path, typer.Argument(help="Run folder of `unlearnable train`, or a folder of several seeds.")
    ],
    test: Annotated[Path | None, typer.Option(help="Images to test on.")] = None,
    attack: Annotated[Norm | None, typer.Option(help="Attack the images first (PGD), in this norm.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Of the attack, such as 8/255.  [default: linf 4/255, l2 0.5]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of the attack.  [default: 10]")] = None,
    bayes_error: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two sets, before and after: estimate their Bayes errors in the run's features."),
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="σ of the estimate's kernel.  [default: 0.3]")
    ] = None,
    device: Device = None,
    plugin: Plugin = None,
) -> None:
    """Test a trained network on a dataset, and note the result in its run folder.

    Example: unlearnable evaluate runs/protected --test photos --attack linf --eps 4/255

    Example: unlearnable evaluate runs/clean --bayes-error photos protected
    """
    if test is None and bayes_error is None:
        raise UserError("nothing to evaluate: give --test, --bayes-error, or both")
    if test is None and (attack is not None or eps is not None or steps is not None):
        raise UserError("an attack needs images to attack: give --test")
    if bayes_error is None and bandwidth is not None:
        raise UserError("a bandwidth is that of an estimate: give --bayes-error")
    from unlearnable_kernels.training.config import requested_attack
    from unlearnable_kernels.training.run_folder import run_folders

    pgd = requested_attack(None if attack is None else attack.value, eps, steps)
    for each in run_folders(run):
        if test is not None:
            evaluate_accuracy(each, test, pgd, device)
        if bayes_error is not None:
            evaluate_estimates(each, bayes_error, 0.3 if bandwidth is None else bandwidth, device)


def evaluate_accuracy(run: Path, test: Path, pgd: "Pgd | None", device: str | None) -> None:
    """Test the run's network and print its accuracy."""
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.training import evaluate as run_evaluation

    with progress() as report:
        result = run_evaluation(run, test, pgd, report, device)
    under = "" if pgd is None else f" under {pgd.name}"
    accuracy = f"accuracy {result['accuracy']:.2%} of {result['images']:,} images{under}"
    unfinished = "" if result["status"] == "finished" else ", unfinished"
    print(f"{run}, epoch {result['epoch']}{unfinished}, on {test}: {accuracy}")


def evaluate_estimates(run: Path, sets: tuple[Path, Path], bandwidth: float, device: str | None) -> None:
    """Estimate the Bayes errors of two sets in the run's features and print them."""
    from unlearnable_kernels.training import evaluate_bayes_error

    estimates = evaluate_bayes_error(run, *sets, bandwidth, device)
    for (name, found), path in zip(estimates.items(), sets, strict=True):
        (low, high), (least, most) = found.interval, found.bounds
        print(
            f"{name} ({path}, {found.images:,} images): Bayes error {found.error:.4f}, 95% {low:.4f} to "
            f"{high:.4f}; 1-NN error {found.nearest_neighbour:.4f}, so as images become many, between "
            f"{least:.4f} and {most:.4f} (Cover–Hart)"
        )
    print(f"in the features of {run}, σ {bandwidth}: another network's, or another σ, give other figures")


def report(
    runs: RunFolders,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Of the page.")] = "Training on protected images",
    plugin: Plugin = None,
) -> None:
    """Write one HTML page on several runs: table, learning curves, pictures.

    Example: unlearnable report runs/clean runs/protected --out report.html
    """
    from unlearnable_kernels.report import write_report

    write_report(runs, out, title)
    print(f"wrote {out}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that the demo makes.")] = Path("demo"),
    data: Annotated[DemoData, typer.Option(help="Embedded digits, or real photos.")] = DemoData.digits,
) -> None:
    """Protect a real dataset under a fresh key, train on it and on the clean one, and report both.

    Example: unlearnable demo --data cifar10
    """
    from unlearnable_kernels.demo import run_demo

    run_demo(out, data.value)
