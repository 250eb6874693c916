"""The commands that train networks and show what they learned: train, sweep, evaluate, report and demo."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from unlearnable_kernels.errors import UserError


class Precision(str, Enum):
    fp32 = "fp32"
    bf16 = "bf16"


class Norm(str, Enum):
    linf = "linf"
    l2 = "l2"


class DemoData(str, Enum):
    digits = "digits"
    cifar10 = "cifar10"


Network = Annotated[str, typer.Option(help="One of those listed below.")]
Epochs = Annotated[int, typer.Option(help="Passes over the training images.")]
DefenceOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[:SETTING=VALUE,...]",
        help="What the trainer does about the protection; repeatable, applied in order; listed below.",
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="name=value, repeatable; a wrong name lists all.")
]
RunFolders = Annotated[list[Path], typer.Argument(help="Run folders of `unlearnable train`.")]


def train(
    train: Annotated[Path, typer.Option(help="Training images, protected or not.")],
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run in it is resumed.")],
    test: Annotated[Path | None, typer.Option(help="Clean images to test on after every epoch.")] = None,
    network: Network = "resnet18",
    epochs: Epochs = 100,
    batch_size: Annotated[int, typer.Option(help="Images a step, over all processes.")] = 512,
    lr: Annotated[float, typer.Option(help="Highest learning rate of SGD.")] = 0.1,
    defence: DefenceOption = None,
    precision: Annotated[Precision, typer.Option(help="Of the network's arithmetic.")] = Precision.fp32,
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    image_size: Annotated[int | None, typer.Option(help="Side to resize to, where sizes are mixed.")] = None,
    limit_per_class: Annotated[int | None, typer.Option(help="First so many of each class.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    set: Settings = None,
) -> None:
    """Train a network, plainly (ERM) or with defences; with torchrun on several processes.

    The defaults are the recipe of CUDA (Sadasivan et al., CVPR 2023). To train on a mixture of protected
    images and their originals, use --set clean=DIR --set protected_fraction=0.3, and to train on its clean
    part alone --set only_clean=true as well.

    Example: unlearnable train --train protected --out run --defence at-linf
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.training import TrainConfig
    from unlearnable_kernels.training import train as run_training
    from unlearnable_kernels.training.config import parse_settings

    given: dict[str, Any] = {
        "train": str(train),
        "test": None if test is None else str(test),
        "network": network,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "defences": defence or [],
        "precision": precision.value,
        "compile": compile,
        "image_size": image_size,
        "limit_per_class": limit_per_class,
        "seed": seed,
    }
    config = TrainConfig(**given, **parse_settings(set or [], given))
    with progress() as report:
        record = run_training(config, out, report)
    print_results({out: record})


def sweep(
    train: Annotated[Path, typer.Option(help="Protected training images.")],
    clean: Annotated[Path, typer.Option(help="Their originals.")],
    out: Annotated[Path, typer.Option(help="Folder for the run folders; interrupted runs are resumed.")],
    test: Annotated[Path | None, typer.Option(help="Clean images to test on after every epoch.")] = None,
    fraction: Annotated[
        list[float] | None,
        typer.Option(help="Part that is protected; repeatable.  [default: 0.1, 0.2, … 1]"),
    ] = None,
    network: Network = "resnet18",
    epochs: Epochs = 100,
    defence: DefenceOption = None,
    set: Settings = None,
) -> None:
    """Train on mixtures of protected images and their originals, and beside each on its clean part alone.

    This shows what the protected images add to the clean ones where only some are protected.

    Example: unlearnable sweep --train protected --clean photos --test photos --out runs/mixed --fraction 0.3
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.recipes.mixture_sweep import FRACTIONS, sweep_mixtures
    from unlearnable_kernels.training.config import parse_settings

    given: dict[str, Any] = {
        "train": str(train),
        "test": None if test is None else str(test),
        "clean": str(clean),
        "network": network,
        "epochs": epochs,
        "defences": defence or [],
    }
    given |= parse_settings(set or [], (*given, "protected_fraction", "only_clean"))
    with progress() as report:
        records = sweep_mixtures(given, out, fraction or FRACTIONS, report)
    print_results({out / name: record for name, record in records.items()})


def print_results(records: dict[Path, dict[str, Any]]) -> None:
    """Print a line for each run folder, given its run.json; once, however many processes there are."""
    from unlearnable_kernels.training.processes import is_first_process

    for folder, record in records.items() if is_first_process() else ():
        final = record["final"]
        tested = f", test accuracy {final['test_accuracy']:.2%}" if "test_accuracy" in final else ""
        print(f"wrote {folder}: train accuracy {final['train_accuracy']:.2%}{tested}")


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder of `unlearnable train`.")],
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
    if test is not None:
        evaluate_accuracy(run, test, None if attack is None else attack.value, eps, steps)
    if bayes_error is not None:
        evaluate_estimates(run, bayes_error, 0.3 if bandwidth is None else bandwidth)


def evaluate_accuracy(run: Path, test: Path, norm: str | None, eps: str | None, steps: int | None) -> None:
    """Test the run's network and print its accuracy."""
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.training import evaluate as run_evaluation
    from unlearnable_kernels.training.config import requested_attack

    pgd = requested_attack(norm, eps, steps)
    with progress() as report:
        result = run_evaluation(run, test, pgd, report)
    under = "" if pgd is None else f" under {pgd.name}"
    accuracy = f"accuracy {result['accuracy']:.2%} of {result['images']:,} images{under}"
    print(f"{run}, epoch {result['epoch']}, on {test}: {accuracy}")


def evaluate_estimates(run: Path, sets: tuple[Path, Path], bandwidth: float) -> None:
    """Estimate the Bayes errors of two sets in the run's features and print them."""
    from unlearnable_kernels.training import evaluate_bayes_error

    for (name, found), path in zip(evaluate_bayes_error(run, *sets, bandwidth).items(), sets, strict=True):
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
