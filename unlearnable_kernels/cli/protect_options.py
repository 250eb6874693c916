"""Options that the commands around a protected dataset share, and what some of them mean together."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unlearnable_kernels.cli.config_file import typed
from unlearnable_kernels.errors import UserError

if TYPE_CHECKING:
    from unlearnable_kernels.protect.keys import Secret


class OnError(str, Enum):
    stop = "stop"
    skip = "skip"


# Headings in --help.
KEY, HOW, SET = "Key", "What becomes of the pictures", "Source and destination"
RELEASES, RUNNING = "Releases", "Running"

KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="The private key, from `unlearnable keygen`.", rich_help_panel=KEY),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed-compat",
        help="An integer seed, which is not a secret: gives the released program's filters.",
        rich_help_panel=KEY,
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure-key-permissions",
        help="Accept a key file that other users can read.",
        rich_help_panel=KEY,
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        metavar="NAME[:SETTING=VALUE,...]",
        help="How to protect; methods are listed below.",
        rich_help_panel=HOW,
    ),
]
Intensity = Annotated[
    str | None,
    typer.Option(
        metavar="mild|normal|strong",
        help="Of classwise-conv and spectral.  [default: normal]",
        rich_help_panel=HOW,
    ),
]
Fraction = Annotated[
    float, typer.Option(help="Share of each class to protect, chosen by the key.", rich_help_panel=HOW)
]
Resize = Annotated[
    int | None,
    typer.Option(
        help="Shorter side to this many pixels, then the central square, before all else.",
        rich_help_panel=HOW,
    ),
]
DatasetName = Annotated[
    str | None,
    typer.Option(
        help="Name that all secrets derive from.  [default: the dataset's own]", rich_help_panel=HOW
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="CSV with a file,class in each line, where SRC has no class folders.", rich_help_panel=SET
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:SETTING=VALUE,...]",
        help="What to write, see below.  [default: same for trees, npz for archives]",
        rich_help_panel=SET,
    ),
]
ShardSize = Annotated[
    int | None,
    typer.Option(help="Images in a shard, of a format with shards.  [default: 1000]", rich_help_panel=SET),
]
OnErrorOption = Annotated[
    OnError,
    typer.Option(help="On a bad image: stop, or skip it and list it in the manifest.", rich_help_panel=SET),
]
Extend = Annotated[
    bool,
    typer.Option("--extend", help="DST is a finished set: add what is new in SRC.", rich_help_panel=RELEASES),
]
Prune = Annotated[
    bool,
    typer.Option("--prune", help="With --extend: remove what is gone from SRC.", rich_help_panel=RELEASES),
]
Earlier = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="SET",
        help="A set published before; repeatable: says what both would expose.",
        rich_help_panel=RELEASES,
    ),
]
AcceptExposure = Annotated[
    bool,
    typer.Option(
        "--accept-exposure",
        help="Publish pictures in another way than before.",
        rich_help_panel=RELEASES,
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="Processes.  [default: one per core]", rich_help_panel=RUNNING)
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|ray",
        help="Processes here, or tasks of a Ray cluster.",
        rich_help_panel=RUNNING,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Of the Ray cluster.  [default: RAY_ADDRESS, or one is started here]", rich_help_panel=RUNNING
    ),
]
Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash",
        help="Resuming or extending, look at bytes, not only at names and sizes.",
        rich_help_panel=RUNNING,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="As `unlearnable check`, with DST, --earlier and --extend: write nothing.",
        rich_help_panel=RUNNING,
    ),
]

Source = Annotated[
    Path, typer.Argument(help="Class folders or other pictures, CIFAR archives, Tiny-ImageNet, ImageNet.")
]


def secret_from(key_file: Path | None, seed: int | None, insecure: bool) -> "Secret":
    from unlearnable_kernels.protect.keys import Seed, read_key_file

    if key_file is not None and seed is not None and typed("key_file") != typed("seed_compat"):
        key_file, seed = (key_file, None) if typed("key_file") else (None, seed)
    if (key_file is None) == (seed is None):
        raise UserError("give either --key-file (make one with `unlearnable keygen my.key`) or --seed-compat")
    if key_file is not None:
        return read_key_file(key_file, insecure_permissions=insecure)
    assert seed is not None
    return Seed(seed)


def method_text(method: str, intensity: str | None) -> str:
    """``--method`` with ``--intensity`` as one of its settings."""
    if intensity is not None and "intensity=" in method and typed("method") and not typed("intensity"):
        intensity = None
    return method if intensity is None else f"{method}{',' if ':' in method else ':'}intensity={intensity}"


def format_text(format: str | None, shard_size: int | None) -> str | None:
    """``--format`` with ``--shard-size`` as one of its settings."""
    if shard_size is None:
        return format
    if format is None:
        raise UserError("--shard-size goes with --format webdataset or parquet")
    return f"{format}{',' if ':' in format else ':'}shard_size={shard_size}"
