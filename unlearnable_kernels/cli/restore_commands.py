"""The command restore."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from unlearnable_kernels.cli.config_file import Config
from unlearnable_kernels.cli.options import Plugin
from unlearnable_kernels.cli.protect_options import Insecure, KeyFile, SeedOption, Workers, secret_from
from unlearnable_kernels.errors import shown


def restore(
    protected: Annotated[
        Path, typer.Argument(metavar="SET", help="Folder that `unlearnable protect` wrote.")
    ],
    dst: Annotated[Path, typer.Argument(help="Folder to create; appears when it is whole.")],
    key_file: KeyFile = None,
    seed_compat: SeedOption = None,
    insecure_key_permissions: Insecure = False,
    workers: Workers = None,
    config: Config = None,
    plugin: Plugin = None,
) -> None:
    """Estimate the originals of a set from its key, for an owner who lost them.

    Of classwise-conv and of spectral. They come near and are not the originals; docs/quality.md and
    docs/spectral.md say how near, and where it fails.
    Interrupted, even killed, it resumes when the same command is run again.

    Example: unlearnable restore protected estimates --key-file my.key
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.protect.restore import restore_dataset

    secret = secret_from(key_file, seed_compat, insecure_key_permissions)
    with progress() as report:
        written = restore_dataset(
            protected,
            dst,
            secret=secret,
            workers=workers,
            progress=report,
            notify=lambda message: print(shown(message), file=sys.stderr),
        )
    print(shown(f"wrote {written}"))
