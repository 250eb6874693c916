"""The command that measures rows of the papers' tables: reproduce."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from unlearnable_kernels.errors import UserError, shown


def reproduce(
    rows: Annotated[
        list[str] | None, typer.Argument(help="Names of rows, patterns such as '*/coin/*', or papers.")
    ] = None,
    list_rows: Annotated[bool, typer.Option("--list", help="List rows and what was measured.")] = False,
    seeds: Annotated[int, typer.Option(help="Runs of each row, with the seeds from 0 on.")] = 1,
    epochs_scale: Annotated[float, typer.Option(help="Factor on the epochs: a scaled row.")] = 1.0,
    limit_train: Annotated[
        int | None, typer.Option(help="Training images in all, as many of each class: a scaled row.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="For every row: scaled rows.")] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="name=value, repeatable, for every row: scaled rows.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH, repeatable: where a data set is.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder for protected sets and runs, to be resumed.")] = Path(
        "reproduced"
    ),
    results: Annotated[Path, typer.Option(help="Folder for a JSON file of each row.")] = Path(
        "results/reproduce"
    ),
    rank: Annotated[int, typer.Option(help="Which part of the trainings to do, from 0.")] = 0,
    world: Annotated[int, typer.Option(help="Into how many parts they are divided.")] = 1,
) -> None:
    """Measure rows of the papers' tables, each with its protection, training and defence.

    Interrupted, it goes on where it was. A scaled row is marked as such and never takes a full one's place.
    Parts may run at the same time, each on the first GPU that CUDA_VISIBLE_DEVICES shows it.

    Example: unlearnable reproduce cuda-cvpr2023/cifar10/erm/cuda --seeds 3
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.recipes.jobs import Scale
    from unlearnable_kernels.recipes.papers import select
    from unlearnable_kernels.recipes.reproduce import reproduce as run_rows
    from unlearnable_kernels.recipes.results import listing, read_results
    from unlearnable_kernels.training.config import parse_settings

    chosen = select(rows or [])
    if list_rows:
        print(listing(chosen, read_results(results)))
        return
    if not rows:
        raise UserError("nothing to reproduce: give rows, patterns or papers, or --list")
    runnable = [row for row in chosen if not row.lacking]
    for row in chosen:
        if row.lacking:
            print(f"left out: {row.name}, which needs {row.lacking}")
    if not runnable:
        raise UserError("no row is left that can be run here")
    taken = ("train", "test", "clean", "network", "epochs", "limit_per_class", "seed", "defences")
    scale = Scale(epochs_scale, limit_train, network, parse_settings(set or [], taken))
    with progress(None) as report:
        found = run_rows(
            runnable,
            work,
            results,
            seeds=seeds,
            scale=scale,
            data=_places(data or []),
            rank=rank,
            world=world,
            progress=report,
            notify=lambda message: print(shown(message), file=sys.stderr, flush=True),
        )
    waiting = [name for name, result in found.items() if result is None]
    print(listing(runnable, [result for result in found.values() if result is not None]))
    if waiting:
        print(f"{len(waiting)} rows wait for other parts: run the same without --rank when these are done")


def _places(texts: list[str]) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    for name, path in pairs.items():
        if not name or not path:
            raise UserError(f"data must be NAME=PATH, such as cifar10=~/data/cifar10, not {name}={path}")
    return pairs
