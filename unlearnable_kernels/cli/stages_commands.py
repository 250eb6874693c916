"""The command ``protect`` in three, for many machines: plan, render and finish."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from unlearnable_kernels.cli.config_file import Config
from unlearnable_kernels.cli.options import AsJson, Plugin, print_json
from unlearnable_kernels.cli.protect_commands import summary_of
from unlearnable_kernels.cli.protect_options import (
    AcceptExposure,
    DatasetName,
    Earlier,
    Format,
    Fraction,
    Insecure,
    Intensity,
    KeyFile,
    Labels,
    MethodOption,
    OnError,
    OnErrorOption,
    Rehash,
    Resize,
    SeedOption,
    ShardSize,
    Source,
    Workers,
    format_text,
    method_text,
    secret_from,
)
from unlearnable_kernels.data.remote import is_remote, url_of
from unlearnable_kernels.errors import UserError, shown

Planned = Annotated[Path, typer.Argument(help="As for `unlearnable plan`.")]


def plan(
    src: Source,
    dst: Annotated[Path, typer.Argument(help="Folder that `finish` creates; all ranks share DST.partial.")],
    key_file: KeyFile = None,
    seed_compat: SeedOption = None,
    insecure_key_permissions: Insecure = False,
    method: MethodOption = "classwise-conv",
    intensity: Intensity = None,
    fraction: Fraction = 1.0,
    format: Format = None,
    shard_size: ShardSize = None,
    labels: Labels = None,
    resize: Resize = None,
    on_error: OnErrorOption = OnError.stop,
    dataset_name: DatasetName = None,
    earlier: Earlier = None,
    accept_exposure: AcceptExposure = False,
    config: Config = None,
    plugin: Plugin = None,
) -> None:
    """Decide what becomes of every picture in SRC, for `render` on any number of machines and `finish`.

    The plan holds no key: give each rank the key file.

    Example: unlearnable plan photos protected --key-file my.key
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.protect.methods.method import METHODS
    from unlearnable_kernels.protect.pipeline.plan import Options
    from unlearnable_kernels.protect.pipeline.staging import staging_folder
    from unlearnable_kernels.protect.stages import plan_dataset

    chosen = METHODS.create(method_text(method, intensity))
    options = Options(chosen, fraction, format_text(format, shard_size), resize, dataset_name)
    with progress() as report:
        chunks = plan_dataset(
            src,
            dst,
            options,
            secret=secret_from(key_file, seed_compat, insecure_key_permissions),
            labels=labels,
            earlier=earlier or (),
            accept_exposure=accept_exposure,
            on_error="skip" if on_error is OnError.skip else "raise",
            progress=report,
            notify=_tell,
        )
    folder = staging_folder(dst).name if is_remote(dst) else f"{dst}.partial"
    print(shown(f"planned {chunks} chunks in {folder}"))


def render(
    dst: Planned,
    key_file: KeyFile = None,
    seed_compat: SeedOption = None,
    insecure_key_permissions: Insecure = False,
    rank: Annotated[int | None, typer.Option(help="Number of this process, from 0.")] = None,
    world: Annotated[
        int | None,
        typer.Option(help="How many there are.  [default: as RANK and WORLD_SIZE, or a SLURM array, say]"),
    ] = None,
    workers: Workers = None,
    rehash: Rehash = False,
    config: Config = None,
    plugin: Plugin = None,
) -> None:
    """Render this rank's share of the plan in DST.partial. Interrupted, it resumes when run again.

    Example: unlearnable render protected --key-file my.key --rank 0 --world 2
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.protect.pipeline.executors.executor import Executor
    from unlearnable_kernels.protect.stages import rank_from, render_dataset

    if (rank is None) != (world is None):
        raise UserError("--rank and --world go together")
    if rank is None or world is None:
        rank, world = rank_from()
    with progress() as report:
        count = render_dataset(
            dst,
            secret=secret_from(key_file, seed_compat, insecure_key_permissions),
            rank=rank,
            world=world,
            executor=Executor(workers=workers),
            rehash=rehash,
            progress=report,
            notify=_tell,
        )
    print(f"rank {rank} of {world}: {count} chunks are rendered")


def finish(
    dst: Planned,
    key_file: KeyFile = None,
    seed_compat: SeedOption = None,
    insecure_key_permissions: Insecure = False,
    rehash: Rehash = False,
    json: AsJson = False,
    config: Config = None,
    plugin: Plugin = None,
) -> None:
    """Put together what all ranks rendered, and write the manifest; refuses while chunks are missing.

    Example: unlearnable finish protected --key-file my.key
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.protect.stages import finish_dataset

    secret = secret_from(key_file, seed_compat, insecure_key_permissions)
    with progress() as report:
        manifest = finish_dataset(dst, secret=secret, rehash=rehash, progress=report, notify=_tell)
    if json:
        print_json(summary_of(manifest))
    else:
        print(shown(f"{url_of(dst)} is whole; its manifest is {url_of(manifest)}"))


def _tell(message: str) -> None:
    print(shown(message), file=sys.stderr)
