"""The commands around a protected dataset: keygen, check, protect, verify and preview."""

import sys
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from unlearnable_kernels.cli.check_output import look
from unlearnable_kernels.cli.config_file import Config, typed
from unlearnable_kernels.cli.options import AsJson, Plugin, print_json
from unlearnable_kernels.cli.protect_options import (
    RUNNING,
    AcceptExposure,
    Address,
    DatasetName,
    DryRun,
    Earlier,
    ExecutorOption,
    Extend,
    Format,
    Fraction,
    Insecure,
    Intensity,
    KeyFile,
    Labels,
    MethodOption,
    OnError,
    OnErrorOption,
    Prune,
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
from unlearnable_kernels.data.remote import url_of
from unlearnable_kernels.errors import UserError, shown

_HOW = ("method", "intensity", "fraction", "format", "shard_size", "resize", "dataset_name")


def keygen(
    path: Annotated[Path, typer.Argument(help="File to create, mode 0600; never overwritten.")],
) -> None:
    """Create a private key, 256 random bits.

    Example: unlearnable keygen my.key
    """
    from unlearnable_kernels.protect.keys import create_key_file

    key = create_key_file(path)
    print(f"wrote {shown(str(path))}, fingerprint {key.fingerprint}; keep it secret, and keep a copy")


def protect(
    src: Source,
    dst: Annotated[Path, typer.Argument(help="Folder to create; appears when it is whole.")],
    key_file: KeyFile = None,
    seed_compat: SeedOption = None,
    insecure_key_permissions: Insecure = False,
    method: MethodOption = "classwise-conv",
    intensity: Intensity = None,
    fraction: Fraction = 1.0,
    resize: Resize = None,
    dataset_name: DatasetName = None,
    labels: Labels = None,
    format: Format = None,
    shard_size: ShardSize = None,
    on_error: OnErrorOption = OnError.stop,
    extend: Extend = False,
    prune: Prune = False,
    earlier: Earlier = None,
    accept_exposure: AcceptExposure = False,
    dry_run: DryRun = False,
    workers: Workers = None,
    executor: ExecutorOption = "local",
    address: Address = None,
    rehash: Rehash = False,
    json: AsJson = False,
    config: Config = None,
    plugin: Plugin = None,
) -> None:
    """Write a protected copy of the training images in SRC to DST, with a manifest.

    Interrupted, even killed, it resumes when the same command is run again.

    Example: unlearnable protect photos protected --key-file my.key

    Example: unlearnable protect photos protected --key-file my.key --method classwise-conv:padding=zeros

    Example: unlearnable protect photos protected --key-file my.key --extend

    Example: unlearnable protect photos protected --config unlearnable.toml
    """
    from unlearnable_kernels.data.named import find
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.protect.extend import check_extending, extend_dataset, options_of
    from unlearnable_kernels.protect.methods.method import METHODS
    from unlearnable_kernels.protect.pipeline.plan import Options
    from unlearnable_kernels.protect.run import check_places, check_publishing, protect_dataset

    if extend and typed(*_HOW):
        raise UserError("with --extend, DST's manifest says how it was made: give no option of that")
    method = method_text(method, intensity)
    chosen = METHODS.create(method)
    format = format_text(format, shard_size)
    how: dict[str, Any] = {
        "fraction": fraction,
        "format": format,
        "resize": resize,
        "dataset_name": dataset_name,
    }
    if prune and not extend:
        raise UserError("--prune goes with --extend")
    if extend and earlier:
        raise UserError("--extend goes by DST's own manifest: give no --earlier")
    if extend and (executor, address) != ("local", None):
        raise UserError("--extend works on this machine alone: leave out --executor and --address")
    same: dict[str, Any] = {
        "labels": labels,
        "on_error": "skip" if on_error is OnError.skip else "raise",
        "accept_exposure": accept_exposure,
        "notify": lambda message: print(shown(message), file=sys.stderr),
    }
    if dry_run:
        check_places(find(src), dst)
        known = extend or (key_file, seed_compat) != (None, None)
        secret = secret_from(key_file, seed_compat, insecure_key_permissions) if known else None
        options = Options(chosen, **how)
        if extend and secret is not None:
            with suppress(UserError):  # raised again where it is told with what else is wrong
                options = options_of(dst, secret)
            publishing = partial(check_extending, src, dst, secret=secret, prune=prune, rehash=rehash)
        else:
            publishing = partial(check_publishing, src, dst, options, secret, earlier=earlier or ())
        look(
            src,
            options,
            labels,
            on_error,
            json,
            secret,
            lambda notify, bad: publishing(**same | {"notify": notify} | ({"bad": bad} if extend else {})),
            extend,
        )
        return
    with progress() as report:
        common: dict[str, Any] = {
            "secret": secret_from(key_file, seed_compat, insecure_key_permissions),
            "workers": workers,
            "progress": report,
            **same,
        }
        if extend:
            manifest = extend_dataset(src, dst, prune=prune, rehash=rehash, **common)
        else:
            common |= {"earlier": earlier or (), "executor": executor, "address": address, "rehash": rehash}
            manifest = protect_dataset(src, dst, method=chosen, **how, **common)
    if json:
        print_json(summary_of(manifest))
    else:
        print(shown(f"{url_of(dst)} is whole; its manifest is {url_of(manifest)}"))


def summary_of(manifest: Path) -> dict[str, Any]:
    """What a protected set is, as JSON: its manifest, with the tables of files counted."""
    from unlearnable_kernels.data.manifest import read_manifest, without_tables

    whole = read_manifest(manifest.parent)
    counts = Counter(entry.protected for entry in whole.entries())
    return {
        "folder": url_of(manifest.parent),
        "images": counts.total(),
        "protected": counts[True],
        "skipped": whole.get("skipped", []),
        **without_tables(whole),
    }


def check(
    src: Annotated[Path, typer.Argument(help="As for `unlearnable protect`.")],
    method: MethodOption = "classwise-conv",
    intensity: Intensity = None,
    fraction: Fraction = 1.0,
    format: Format = None,
    shard_size: ShardSize = None,
    labels: Labels = None,
    resize: Resize = None,
    on_error: OnErrorOption = OnError.stop,
    dataset_name: DatasetName = None,
    json: AsJson = False,
    config: Config = None,
    plugin: Plugin = None,
) -> None:
    """Look at all of SRC before it is protected: every problem at once, and what to expect.

    Size, time, PSNR and SSIM are estimated by protecting a few dozen pictures in memory under a key that is
    thrown away; `protect --dry-run` takes yours. Exit status 2 if `protect` would stop.

    Example: unlearnable check photos
    """
    from unlearnable_kernels.protect.methods.method import METHODS
    from unlearnable_kernels.protect.pipeline.plan import Options

    chosen = METHODS.create(method_text(method, intensity))
    options = Options(chosen, fraction, format_text(format, shard_size), resize, dataset_name)
    look(src, options, labels, on_error, json)


def verify(
    dst: Annotated[Path, typer.Argument(help="Folder or URL that `unlearnable protect` wrote.")],
    key_file: KeyFile = None,
    seed_compat: SeedOption = None,
    insecure_key_permissions: Insecure = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes.  [default: none, but threads]", rich_help_panel=RUNNING)
    ] = None,
    executor: ExecutorOption = "local",
    address: Address = None,
    json: AsJson = False,
    config: Config = None,
    plugin: Plugin = None,
) -> None:
    """Check a protected dataset against its manifest, and that it was made with this key.

    Exit status 1 if anything differs.

    Example: unlearnable verify protected --key-file my.key
    """
    from unlearnable_kernels.data.quality import quality_text
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.protect.pipeline.executors.executor import Executor
    from unlearnable_kernels.protect.verify import verify_dataset

    where = Executor(executor, workers, address)
    secret = None
    if key_file is not None or seed_compat is not None:
        secret = secret_from(key_file, seed_compat, insecure_key_permissions)
    with progress("files") as report:
        found = verify_dataset(dst, secret, report, None if where == Executor() else where)
    if json:
        print_json({"ok": found.ok, **asdict(found)})
    else:
        for kind in ("missing", "extra", "changed"):
            for name in getattr(found, kind):
                print(f"{kind}: {shown(name)}")
        looks = quality_text(found.quality)
        verdict = f"{'ok' if found.ok else 'NOT ok'}: {found.checked:,} files checked, key {found.key}"
        print(verdict + (f"; {shown(looks)}" if looks else ""))
    if not found.ok:
        raise typer.Exit(1)


def preview(
    src: Annotated[Path, typer.Argument(help="As for `unlearnable protect`.")],
    key_file: KeyFile = None,
    seed_compat: SeedOption = None,
    insecure_key_permissions: Insecure = False,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("preview.png"),
    protected: Annotated[
        Path | None, typer.Option(help="Show this protected copy of SRC, by any method; needs no key.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME[:SETTING=VALUE,...]", help="As for `protect`.  [default: classwise-conv]"),
    ] = None,
    intensity: Annotated[
        str | None,
        typer.Option(metavar="mild|normal|strong|all", help="As for `protect`, or all three side by side."),
    ] = None,
    resize: Resize = None,
    dataset_name: DatasetName = None,
    labels: Labels = None,
    classes: Annotated[int, typer.Option(help="Show this many classes, the first ones.")] = 10,
    on_error: OnErrorOption = OnError.stop,
    config: Config = None,
    plugin: Plugin = None,
) -> None:
    """Draw clean, difference and protected pictures of each class: protected now, or from a protected copy.

    A method that optimises all images together has nothing to show without a protected copy.

    Example: unlearnable preview photos --key-file my.key

    Example: unlearnable preview photos --key-file my.key --intensity all
    """
    from unlearnable_kernels.protect.methods.filters import INTENSITY_NAMES
    from unlearnable_kernels.protect.methods.method import METHODS
    from unlearnable_kernels.report.contact_sheet import write_comparison, write_preview

    if protected is not None:
        if typed("key_file", "seed_compat", "method", "intensity", "resize", "dataset_name", "on_error"):
            raise UserError(
                "with --protected, the copy's manifest says how it was made: give no key and no option of it"
            )
        print(shown(f"wrote {write_comparison(src, protected, out, labels=labels, classes=classes)}"))
        return
    name = method or "classwise-conv"
    every = INTENSITY_NAMES if intensity == "all" else (intensity,)
    written = write_preview(
        src,
        out,
        secret_from(key_file, seed_compat, insecure_key_permissions),
        method={each or "": METHODS.create(method_text(name, each)) for each in every},
        resize=resize,
        dataset_name=dataset_name,
        labels=labels,
        classes=classes,
        on_error="skip" if on_error is OnError.skip else "raise",
    )
    print(shown(f"wrote {written}"))
