"""The whole path on real images: protect under a fresh key, train on clean and on protected, report both."""

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unlearnable_kernels.data.digits import write_digits
from unlearnable_kernels.data.named import find
from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import writing
from unlearnable_kernels.progress import prefixed, progress
from unlearnable_kernels.protect.keys import create_key_file
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.report import write_report
from unlearnable_kernels.training import DIGITS_DEMO, PHOTO_DEMO, TrainConfig, train

MARK = ".unlearnable-demo"
# All that the demo makes; whatever else lies in its folder is not its own.
MADE = ("digits", "my.key", "protected", "protected.partial", "runs/clean", "runs/protected", "report.html")
SETTINGS = {"digits": DIGITS_DEMO, "cifar10": PHOTO_DEMO}
# On photographs the published zero padding: in a run this short the default, reflect, leaves about half of
# the clean accuracy.
PADDING = {"digits": None, "cifar10": "zeros"}


def run_demo(out: Path, data: str = "digits") -> dict[str, float]:
    """Run the demo in the folder ``out``, made anew.

    Writes ``out``/report.html, the key, the protected images and both run folders; of an earlier demo only
    these are replaced.

    Args:
        out: Where to work.
        data: "digits", scikit-learn's embedded set as 32x32 RGB, or "cifar10", found in the folder that
            UNLEARNABLE_DATA names or downloaded by torchvision.

    Returns:
        The accuracies on clean test images, in [0, 1], by what was trained on: "clean" and "protected".

    Raises:
        UserError: ``out`` holds anything but an earlier demo, is a file or a link, or cannot be written.
    """
    if data not in SETTINGS:
        raise UserError(f"unknown demo data {data!r}: choose one of {', '.join(SETTINGS)}")
    start_anew(out)
    clean = write_digits(out / "digits") if data == "digits" else find("cifar10")
    key = create_key_file(out / "my.key")
    protected = out / "protected"
    with progress() as report:
        protect_dataset(
            clean,
            protected,
            secret=key,
            padding=PADDING[data],
            format=open_source(clean).lossless_as,
            progress=report,
        )
    accuracies = {
        name: train_and_test(images, clean, out / "runs" / name, SETTINGS[data])
        for name, images in (("clean", clean), ("protected", protected))
    }
    page = out / "report.html"
    write_report([out / "runs" / name for name in accuracies], page, f"Protected {data}")
    show(accuracies, key.fingerprint, page)
    return accuracies


def start_anew(out: Path) -> None:
    """Make ``out``, or remove from it what an earlier demo made.

    Raises:
        UserError: It is something else, or cannot be written.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out} is a link or a file; choose a folder with --out")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if not (out / MARK).is_file() and any(out.iterdir()):
            raise UserError(
                f"{out} holds something else than an earlier demo; choose another folder with --out"
            )
        (out / MARK).touch()
        if (out / "runs").is_symlink():
            (out / "runs").unlink()
        for name in MADE:
            remove(out / name)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def train_and_test(images: Path, clean: Path, run: Path, settings: dict[str, Any]) -> float:
    """Train on ``images`` into the run folder; returns the accuracy on the test images of ``clean``."""
    config = TrainConfig(train=str(images), test=str(clean), **settings)
    with progress() as report:
        record = train(config, run, prefixed(report, f"{run.name}: "))
    return float(record["final"]["test_accuracy"])


def show(accuracies: dict[str, float], fingerprint: str, page: Path) -> None:
    """Print the result as a table."""
    table = Table()
    table.add_column("trained on")
    table.add_column("test accuracy", justify="right")
    for name, accuracy in accuracies.items():
        table.add_row(f"{name} images", f"{accuracy:.1%}")
    console = Console()
    console.print(f"Accuracy on clean test images, key {fingerprint[:8]}…", soft_wrap=True)
    console.print(table)
    console.print(f"pictures and learning curves: {page}", soft_wrap=True, markup=False)
