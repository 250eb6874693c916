"""`protect` on real JPEGs: CIFAR-10 with and without the filter, and full-size photographs by stage.

Without the filter the operator only copies, as it does for images outside the fraction.
"""

import functools
import hashlib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scratch import in_memory

from unlearnable_kernels import classwise_conv
from unlearnable_kernels.data.images import decode, encode
from unlearnable_kernels.data.images.resizing import resize
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.method import METHODS
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
    with in_memory() as scratch:
        protect_dataset(
            source,
            scratch / "out",
            secret=key,
            fraction=fraction,
            format="png",
            progress=lambda _, done, total: reports.append((done, time.perf_counter(), busy_seconds())),
        )
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


# Format and size; the share of the decoder's own rate that the whole pipeline is to reach.
PHOTOGRAPHS: dict[str, tuple[str, int | None, float]] = {
    "PNG at 224": ("png", 224, 0.50),
    "JPEG at 224": ("jpeg", 224, 0.63),
    "PNG at full size": ("png", None, 0.26),
}


def processor_time(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.process_time()
    result = call(*arguments)
    return time.process_time() - start, result


def by_stage(paths: list[Path], format: str, size: int | None) -> dict[str, float]:
    """Seconds that each stage of the pipeline takes for all pictures, one after the other."""
    filters, label = torch.rand(1, 9, 9), torch.tensor([0])
    spent = dict.fromkeys(("read", "decode", "resize", "filter", "encode", "digest"), 0.0)
    for path in paths:
        seconds, data = processor_time(path.read_bytes)
        spent["read"] += seconds
        seconds, image = processor_time(decode, data, path.name)
        spent["decode"] += seconds
        if size is not None:
            seconds, image = processor_time(resize, image, size)
            spent["resize"] += seconds
        batch = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
        out = buffer(image.shape)
        seconds, _ = processor_time(lambda: classwise_conv(batch, label, filters, out=out))  # noqa: B023
        spent["filter"] += seconds
        seconds, written = processor_time(encode, out[0].permute(1, 2, 0).numpy(), format)
        spent["encode"] += seconds
        spent["digest"] += processor_time(lambda: hashlib.sha256(written).digest())[0]  # noqa: B023
    return spent


@functools.cache
def buffer(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros((1, *shape), dtype=torch.uint8).permute(0, 3, 1, 2)


def whole(source: Path, key: Key, format: str, size: int | None) -> float:
    """Seconds of processor time that `protect` itself takes, in this process."""
    with in_memory() as scratch:
        settings: dict[str, Any] = {"format": format, "resize": size, "workers": 0}
        return processor_time(
            lambda: protect_dataset(source, scratch / "out", secret=key, **settings),
        )[0]


def twice(source: Path, to: Path) -> Path:
    """A tree with every picture of ``source`` two times over, under names of their own."""
    for path in source.rglob("*"):
        if path.is_file():
            for number in range(2):
                copy = to / path.relative_to(source).with_stem(f"{path.stem}-{number}")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
    return to


def in_classes(paths: list[Path], each: int, to: Path) -> Path:
    """A tree of pictures, so many in a class."""
    for number, path in enumerate(paths):
        copy = to / "train" / f"{number // each:04}" / f"{number}{path.suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return to


def photographs() -> Path:
    root = Path(os.environ.get("UNLEARNABLE_DATA", "")).expanduser() / "imagenet-sample"
    if not root.is_dir():
        pytest.skip("UNLEARNABLE_DATA has no imagenet-sample")
    if "UNLEARNABLE_CPU_CAPABILITY" in os.environ:
        pytest.skip("measured with the best kernels only")
    return root


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


BESIDE = ("classwise-conv", "spectral", "spectral:parts=cells+colour+tone")
# Pictures of a class: those of ImageNet, which has 1,300, share what is worked out for it.
OF_A_CLASS = {"thirty pictures a class": 30, "a class for each": 1}


def rendering(source: Path, key: Key, method: str) -> float:
    """Seconds of processor time from the first picture to the last, without what `protect` does once."""
    reports: list[float] = []
    with in_memory() as scratch:
        protect_dataset(
            source,
            scratch / "out",
            secret=key,
            method=METHODS.create(method),
            format="png",
            resize=224,
            workers=0,
            progress=lambda stage, *_: reports.append(time.process_time()) if stage == "protecting" else None,
        )
    return reports[-1] - reports[0]


@pytest.mark.parametrize("classes", OF_A_CLASS)
def test_spectral_beside_convolution(benchmark, report_figures, one_thread, classes):
    key, paths = Key.generate(), sorted(path for path in photographs().rglob("*") if path.is_file())
    times: dict[str, list[float]] = {method: [] for method in BESIDE}

    def one_round(tree: Path) -> None:
        for method in BESIDE:
            times[method].append(rendering(tree, key, method))

    with in_memory() as folder:
        tree = in_classes(paths, OF_A_CLASS[classes], folder)
        benchmark.pedantic(one_round, (tree,), rounds=5, iterations=1, warmup_rounds=1)
    medians = {method: statistics.median(each) / len(paths) for method, each in times.items()}
    rate = f"of class-wise convolution's rate, {classes}"
    report_figures(
        f"protect, {len(paths)} full-size JPEG in, PNG at 224 out, {classes}: processor time",
        {method: f"{1e3 * median:.2f} ms a picture" for method, median in medians.items()},
        {rate: statistics.median(a / b for a, b in zip(times[BESIDE[0]], times[BESIDE[1]], strict=True))},
        {rate: 0.8},
    )


def test_photographs(benchmark, report_figures, one_thread):
    root = photographs()
    key, paths = Key.generate(), sorted(path for path in root.rglob("*") if path.is_file())
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in PHOTOGRAPHS}
    totals: dict[str, list[float]] = {name: [] for name in PHOTOGRAPHS}
    fixed: dict[str, list[float]] = {name: [] for name in PHOTOGRAPHS}

    def one_round(doubled: Path) -> None:
        # What `protect` does once, such as measuring a sample's quality, is not of the rate.
        for name, (format, size, _) in PHOTOGRAPHS.items():
            once = whole(root, key, format, size)
            totals[name].append(whole(doubled, key, format, size) - once)
            fixed[name].append(once - totals[name][-1])
            stages[name].append(by_stage(paths, format, size))

    with in_memory() as folder:
        benchmark.pedantic(one_round, (twice(root, folder / "twice"),), rounds=ROUNDS, iterations=1)
    rates, shares = {}, {}
    for name in PHOTOGRAPHS:
        spent = {stage: statistics.median(each[stage] for each in stages[name]) for stage in stages[name][0]}
        total = statistics.median(totals[name])
        parts = ", ".join(f"{stage} {1e3 * part / len(paths):.2f}" for stage, part in spent.items() if part)
        rates[name] = (
            f"{len(paths) / total:,.0f} images/s a core; {1e3 * total / len(paths):.2f} ms: {parts}; "
            f"once {statistics.median(fixed[name]):.1f} s"
        )
        ratios = [each["decode"] / one for each, one in zip(stages[name], totals[name], strict=True)]
        shares[f"of the decoder's rate, {name}"] = statistics.median(ratios)
    report_figures(
        f"protect, {len(paths)} full-size JPEG in: processor time",
        rates,
        shares,
        {f"of the decoder's rate, {name}": target for name, (_, _, target) in PHOTOGRAPHS.items()},
    )
