"""What `check` and `protect --dry-run` print."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from unlearnable_kernels.cli.options import print_json
from unlearnable_kernels.cli.protect_options import OnError
from unlearnable_kernels.errors import UserError, shown

if TYPE_CHECKING:
    from unlearnable_kernels.progress import Notify
    from unlearnable_kernels.protect.check import CheckReport
    from unlearnable_kernels.protect.keys import Secret
    from unlearnable_kernels.protect.pipeline.plan import Options


def look(
    src: Path,
    options: "Options",
    labels: Path | None,
    on_error: OnError,
    json: bool,
    secret: "Secret | None" = None,
    publishing: "Callable[[Notify, Collection[str]], None]" = lambda notify, bad: None,
    growing: bool = False,
) -> None:
    """Print what ``check_dataset`` finds and, where that goes through, what ``publishing`` says or raises.

    It is told which files are passed over.
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.protect.check import Problem, check_dataset
    from unlearnable_kernels.protect.keys import Key

    how = "skip" if on_error is OnError.skip else "raise"
    with progress() as report:
        found = check_dataset(
            src, options, secret or Key.generate(), labels=labels, growing=growing, progress=report
        )

    def note(message: str) -> None:
        if message not in found.notes:
            found.notes.append(message)

    if not found.stops(how):
        try:
            publishing(note, {problem.file for problem in found.problems})
        except UserError as error:
            found.problems.append(Problem("", str(error), "", skippable=False))
    stops = found.stops(how)
    if json:
        print_json({"stops": stops, **found.as_dict()})
    else:
        print_check(found)
        print("protect would stop" if stops else "protect would go through")
    if stops:
        raise typer.Exit(2)


def print_check(found: "CheckReport") -> None:
    for each in found.problems:
        name = f"{shown(each.file)}: " if each.file else ""
        print(f"{name}{shown(each.reason)}" + (f"; {each.remedy}" if each.remedy else ""))
    for note in found.notes:
        print(shown(note))
    if found.images:
        counts = found.classes.values()
        (w, h), (width, height) = found.smallest or (0, 0), found.largest or (0, 0)
        print(
            f"{found.images:,} pictures from {w}x{h} to {width}x{height} in {len(counts)} classes of "
            f"{min(counts):,} to {max(counts):,}"
        )
    if found.output_bytes is not None and found.seconds is not None:
        quality = "" if found.psnr is None else f", PSNR {found.psnr:.1f} dB"
        quality += "" if found.ssim is None else f", SSIM {found.ssim:.2f}"
        megabytes, seconds = found.output_bytes / 1e6, max(1, round(found.seconds))
        print(f"expected: {megabytes:,.1f} MB in {seconds:,} s{quality} (from {found.sampled} pictures)")
