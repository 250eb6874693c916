"""`protect` on the CIFAR-10 tree, JPEG in and PNG out, beside the same pipeline without the filter.

Without it the operator only copies, as it does for images outside the fraction.
"""

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import pytest

from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset

ROUNDS = 3
TARGETS = {"of the speed without the filter": 0.9, "of the cores busy": 0.9}
# So small a fraction protects no image, and all else is the same.
FRACTIONS = {"with the filter": 1.0, "without": 1e-9}


def busy_seconds() -> float:
    """Processor time that the whole machine has spent on anything but waiting."""
    user, nice, system, _idle, _wait, *other = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return sum(map(int, (user, nice, system, *other))) / os.sysconf("SC_CLK_TCK")


def images_per_second(source: Path, key: Key, fraction: float) -> tuple[float, float]:
    """The rate, and how many cores were busy, between the workers' first and last report."""
    reports: list[tuple[int, float, float]] = []
    in_memory = Path("/dev/shm")  # the pipeline is to be measured, not a disk
    scratch = Path(tempfile.mkdtemp(dir=in_memory if in_memory.is_dir() else None))
    try:
        protect_dataset(
            source,
            scratch / "out",
            secret=key,
            fraction=fraction,
            progress=lambda _, done, total: reports.append((done, time.perf_counter(), busy_seconds())),
        )
    finally:
        shutil.rmtree(scratch)
    first, last = next(report for report in reports if report[0] > 0), reports[-1]
    images, seconds, busy = (after - before for before, after in zip(first, last, strict=True))
    return images / seconds, busy / seconds


def test_protect(benchmark, report_figures):
    root = os.environ.get("UNLEARNABLE_DATA")
    if not root:
        pytest.skip("UNLEARNABLE_DATA is not set: no CIFAR-10 tree")
    if "UNLEARNABLE_CPU_CAPABILITY" in os.environ:
        pytest.skip("measured with the best kernels only")
    source, key = Path(root).expanduser() / "cifar10", Key.generate()
    rates: dict[str, list[float]] = {name: [] for name in FRACTIONS}
    cores: list[float] = []

    def one_round() -> None:
        for name, fraction in FRACTIONS.items():
            rate, busy = images_per_second(source, key, fraction)
            rates[name].append(rate)
            cores.append(busy)

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    report_figures(
        "protect, CIFAR-10: 50,000 JPEG in, PNG out, one worker a core",
        {name: f"{rate:,.0f} images/s" for name, rate in medians.items()},
        {
            "of the speed without the filter": medians["with the filter"] / medians["without"],
            "of the cores busy": statistics.median(cores) / usable_cores(),
        },
        TARGETS,
    )
