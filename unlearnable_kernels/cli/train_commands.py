"""The commands that train networks: train and sweep."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer


class Precision(str, Enum):
    fp32 = "fp32"
    bf16 = "bf16"


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
