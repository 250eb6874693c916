"""The commands that train networks: train and sweep."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer

from unlearnable_kernels.cli.options import Device, Plugin
from unlearnable_kernels.errors import UserError, shown

_HOW, _WHERE = "Optimisation", "Computing"
_WORKERS = "workers="

Network = Annotated[
    str, typer.Option(help="One of those listed below, or timm:NAME, torchvision:NAME: any of theirs.")
]
Epochs = Annotated[int, typer.Option(help="Passes over the training images.", rich_help_panel=_HOW)]
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
    pretrained: Annotated[
        str | None,
        typer.Option(metavar="cache|FILE", help="Begin with ImageNet's weights, or with those of a file."),
    ] = None,
    defence: DefenceOption = None,
    image_size: Annotated[int | None, typer.Option(help="Side to resize to, where sizes are mixed.")] = None,
    seeds: Annotated[
        str,
        typer.Option(
            "--seeds", "--seed", help="Of weights, order and augmentation; of several, each has OUT/seed-N."
        ),
    ] = "0",
    plugin: Plugin = None,
    set: Settings = None,
    epochs: Epochs = 100,
    batch_size: Annotated[
        int, typer.Option(help="Images a step, over all processes.", rich_help_panel=_HOW)
    ] = 512,
    optimizer: Annotated[str, typer.Option(metavar="sgd|adamw", rich_help_panel=_HOW)] = "sgd",
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=_HOW)] = 0.1,
    schedule: Annotated[
        str,
        typer.Option(
            metavar="step|cosine|one-cycle",
            help="Of the rate; the first two after --set warmup=EPOCHS.",
            rich_help_panel=_HOW,
        ),
    ] = "step",
    amp: Annotated[
        str | None,
        typer.Option(metavar="bf16", help="Compute in bfloat16 where that is safe.", rich_help_panel=_WHERE),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile.", rich_help_panel=_WHERE)
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="The same bits whenever it runs; slower.", rich_help_panel=_WHERE
        ),
    ] = False,
    device: Device = None,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="tensorboard", help="Also write metrics to OUT/tensorboard.", rich_help_panel=_WHERE
        ),
    ] = None,
) -> None:
    """Train a network, plainly (ERM) or with defences; with torchrun on several processes.

    The defaults are the recipe of CUDA (Sadasivan et al., CVPR 2023). docs/training.md says more, also on
    mixtures of protected images and their originals (--set clean=DIR --set protected_fraction=0.3).

    Example: unlearnable train --train protected --out run --defence at-linf

    Example: unlearnable train --train protected --test photos --out runs/deit --network deit_tiny
    --optimizer adamw --lr 0.001 --schedule cosine --set warmup=5 --seeds 0,1,2
    """
    from unlearnable_kernels import parsing
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.training import TrainConfig, train_seeds
    from unlearnable_kernels.training.config import parse_settings

    given: dict[str, Any] = {
        "train": str(train),
        "test": None if test is None else str(test),
        "network": network,
        "pretrained": pretrained,
        "defences": defence or [],
        "image_size": image_size,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "schedule": schedule,
        "amp": amp,
        "compile": compile,
        "deterministic": deterministic,
    }
    # No part of the configuration: a run may go on with another number.
    texts = set or []
    workers = parsing.parse_settings(
        [text for text in texts if text.startswith(_WORKERS)], {"workers": int | None}, "training"
    )
    config = TrainConfig(
        **given,
        **parse_settings([text for text in texts if not text.startswith(_WORKERS)], (*given, "seed")),
    )
    with progress() as report:
        records = train_seeds(config, parse_seeds(seeds), out, report, device, log, **workers)
    print_results(records)
    print_spread([record["final"] for record in records.values()])


def parse_seeds(text: str) -> list[int]:
    """The whole numbers of "0,1,2".

    Raises:
        UserError: The text is anything else.
    """
    parts = text.split(",")
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise UserError(f"seeds must be whole numbers of 0 or more, such as 0,1,2, not {text!r}")
    return [int(part) for part in parts]


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
    defence: DefenceOption = None,
    plugin: Plugin = None,
    set: Settings = None,
    epochs: Epochs = 100,
    device: Device = None,
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
        records = sweep_mixtures(given, out, fraction or FRACTIONS, report, device)
    print_results({out / name: record for name, record in records.items()})


def print_results(records: dict[Path, dict[str, Any]]) -> None:
    """Print a line for each run folder, given its run.json; once, however many processes there are."""
    from unlearnable_kernels.training.processes import is_first_process

    for folder, record in records.items() if is_first_process() else ():
        final = record["final"]
        tested = f", test accuracy {final['test_accuracy']:.2%}" if "test_accuracy" in final else ""
        print(f"wrote {shown(str(folder))}: train accuracy {final['train_accuracy']:.2%}{tested}")


def print_spread(finals: list[dict[str, Any]]) -> None:
    """Print mean and standard deviation over several seeds' last epochs, if they were tested."""
    from unlearnable_kernels.training.processes import is_first_process

    tested = [final["test_accuracy"] for final in finals if "test_accuracy" in final]
    if len(tested) > 1 and is_first_process():
        print(f"{len(tested)} seeds: test accuracy {fmean(tested):.2%} ± {stdev(tested):.2%}")
