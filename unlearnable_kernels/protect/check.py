"""Looking at a dataset before it is protected: all that is wrong with it at once, and what to expect."""

import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unlearnable_kernels.data.formats.folder import FolderWriter
from unlearnable_kernels.data.formats.loose import open_training_images
from unlearnable_kernels.data.images import LARGEST_SIDE, decode
from unlearnable_kernels.data.named import find
from unlearnable_kernels.data.quality import central, mean_quality
from unlearnable_kernels.data.shards import ShardWriter
from unlearnable_kernels.data.source import Sample, Source, load_image, load_with_profile
from unlearnable_kernels.data.writer import Destination, Writer
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.progress import Progress, no_progress
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.methods.method import Workspace
from unlearnable_kernels.protect.notices import notify_about, notify_unprotected
from unlearnable_kernels.protect.pipeline.plan import Options, Plan, check_options, make_plan, make_writer

SAMPLE = 48  # images that are protected on trial
ALWAYS = r"^a symbolic link|differ only by case"
"""What no ``--on-error skip`` passes over."""

_REMEDIES = (
    (r"transparent", "flatten it onto a background"),
    (r"bits a channel", "convert it to 8 bits a channel"),
    (r"frames", "save the one picture that is meant"),
    (r"not UTF-8|too long|differ only by case|where a folder", "rename it"),
    (r"symbolic link", "put the file itself there"),
    (r"outside the class folders", "move it into a class folder"),
    (r"^not an image(;|$)|^neither a file", "move it out of the dataset"),
    (r"truncated|corrupt", "save it anew from the original, or remove it"),
    (r"cannot be written as", "give --resize, or another --format"),
    (r"one size", "give --resize"),
    (r"class without images", "add pictures, or remove the folder"),
)
_OF_A_FILE = "mend or remove it"


@dataclass(frozen=True)
class Problem:
    """Something that ``protect`` would stop at.

    Attributes:
        file: Its name below the dataset; "" for the dataset as a whole.
        reason: What is wrong.
        remedy: What its owner can do; "" where the reason says so.
        skippable: Whether ``--on-error skip`` passes over it.
    """

    file: str
    reason: str
    remedy: str
    skippable: bool


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    Attributes:
        problems: All of them, files before the dataset.
        images: How many pictures can be protected.
        classes: Of these, how many in each class.
        smallest: (width, height) of the picture with the fewest pixels, after any resize.
        largest: Of the one with the most.
        output_bytes: Expected size of the protected set.
        seconds: Expected time to protect it on this machine's cores.
        psnr: Expected mean in dB; None where it cannot be told before.
        ssim: Likewise.
        sampled: How many pictures were protected on trial.
        notes: What ``protect`` would say of the dataset before it begins.
    """

    problems: list[Problem]
    images: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    output_bytes: int | None = None
    seconds: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    sampled: int = 0
    notes: list[str] = field(default_factory=list)

    def stops(self, on_error: str) -> bool:
        """Whether ``protect`` would stop, with ``on_error`` "raise" or "skip"."""
        return not self.images or any(on_error == "raise" or not each.skippable for each in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def check_dataset(
    src: Path,
    options: Options,
    secret: Secret,
    *,
    labels: Path | None = None,
    growing: bool = False,
    progress: Progress = no_progress,
) -> CheckReport:
    """Decode every picture of a dataset once, list all that ``protect_dataset`` would stop at, and estimate.

    Args:
        src: The dataset, as for ``protect_dataset``.
        options: What would be asked of it.
        secret: Any key: estimates hardly depend on it.
        labels: As for ``protect_dataset``.
        growing: Whether this comes to a set that has protected pictures: then a fraction that selects none of
            these says nothing.
        progress: Takes progress.

    Raises:
        UserError: An option is wrong whatever the dataset, or there is nothing at ``src``.
    """
    check_options(options)
    find(src)
    try:
        source = open_training_images(src, labels, "list")
    except (UserError, OSError) as error:
        return CheckReport([Problem("", str(error), _remedy(str(error), ""), skippable=False)])
    problems = [
        Problem(name, reason, _remedy(reason), skippable=not re.search(ALWAYS, reason))
        for name, reason in source.skipped
    ]
    notes: list[str] = []
    notify_about(source, notes.append)
    sizes, bad = _decode_all(source, make_writer(options, source), options.resize, progress)
    expected: dict[str, Any] = {}
    stop: list[Problem] = []
    if sizes:
        try:
            plan = make_plan(source, secret, options, "skip")
            if not growing:
                notify_unprotected(plan, notes.append)
            expected, unwritten = _trial(plan, sizes)
            bad += unwritten
        except UserError as error:
            skippable = isinstance(error, ImageError)
            stop = [Problem("", str(error), _remedy(str(error), _OF_A_FILE if skippable else ""), skippable)]
    problems += [Problem(name, reason, _remedy(reason), skippable=True) for name, reason in bad]
    named = {problem.file for problem in problems}
    kept = [sample for sample in source.samples if sample.name not in named]
    if not kept:
        return CheckReport(problems + stop, notes=notes)
    counted = Counter(source.classes[sample.label] for sample in kept)
    by_pixels = sorted((sizes[sample.name] for sample in kept), key=lambda size: size[0] * size[1])
    found: dict[str, Any] = {
        "images": len(kept),
        "classes": {name: counted[name] for name in source.classes},
        "smallest": by_pixels[0],
        "largest": by_pixels[-1],
    }
    return CheckReport(problems + stop, notes=notes, **found, **expected)


def _remedy(reason: str, otherwise: str = _OF_A_FILE) -> str:
    return next((what for pattern, what in _REMEDIES if re.search(pattern, reason)), otherwise)


def _reason(error: ImageError, sample: Sample) -> str:
    return str(error).rpartition(f"{sample.name}: ")[2]


def _decode_all(
    source: Source, writer: Writer, resize: int | None, progress: Progress
) -> tuple[dict[str, tuple[int, int]], list[tuple[str, str]]]:
    """(width, height) of each picture by its name, after any resize; why the others cannot be protected."""
    sizes: dict[str, tuple[int, int]] = {}
    bad: list[tuple[str, str]] = []

    def size_of(sample: Sample) -> tuple[int, int] | str:
        try:
            height, width, _ = load_image(source, sample, resize).shape
        except ImageError as error:
            return _reason(error, sample)
        # Any other writer takes what it is given as an array.
        format = writer.format_of(sample.name) if isinstance(writer, FolderWriter | ShardWriter) else ""
        limit = LARGEST_SIDE.get(format, max(width, height))
        if max(width, height) > limit:
            return f"cannot be written as {format}: {width}x{height}, at most {limit} pixels a side"
        return width, height

    with ThreadPoolExecutor(usable_cores()) as pool:
        for number, (sample, found) in enumerate(
            zip(source.samples, pool.map(size_of, source.samples), strict=True), start=1
        ):
            if isinstance(found, str):
                bad.append((sample.name, found))
            else:
                sizes[sample.name] = found
            progress("checking", number, len(source.samples))
    return sizes, bad


def _trial(plan: Plan, sizes: dict[str, tuple[int, int]]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Protect some of ``sizes`` in memory; what that says of all of them, and why some cannot be written."""
    source = plan.task.source
    if len(set(sizes.values())) > 1:
        for part in (plan.writer, plan.method):
            if part.one_size:
                raise UserError(f"pictures differ in size, but {part.name} needs one size")
    if not plan.method.per_image:
        return {}, []
    kept = [sample for sample in source.samples if sample.name in sizes]
    rows = {sample.name: row for row, sample in enumerate(source.samples)}
    chosen = [kept[len(kept) * number // min(SAMPLE, len(kept))] for number in range(min(SAMPLE, len(kept)))]
    quiet = Workspace(Path(), True, lambda _: None, no_progress)
    perturbation = plan.method.perturbation(plan.task, plan.parameters, list(plan.assignment), quiet)
    destination = Destination(Path(), Path(), source.without_samples(), plan.task.image.shape)
    pairs, bad, written, pixels = [], [], 0, 0
    start = time.perf_counter()
    for sample in chosen:
        before, profile = load_with_profile(source, sample, plan.task.resize)
        after = np.empty_like(before)
        perturbation.apply(before[None], [plan.assignment[rows[sample.name]]], after[None])
        try:
            encoded = plan.writer.encode(after, destination, sample.name, profile)
        except ImageError as error:
            bad.append((sample.name, _reason(error, sample)))
            continue
        written += len(encoded)
        if not plan.writer.lossless:
            after = decode(encoded, sample.name)
        pixels += before.shape[0] * before.shape[1]
        if plan.assignment[rows[sample.name]] >= 0:
            pairs.append((central(before), central(after)))
    spent = time.perf_counter() - start
    if not pixels:
        return {}, bad
    looks = mean_quality(pairs)
    whole = sum(width * height for width, height in sizes.values()) / pixels
    return {
        "output_bytes": round(written * whole),
        "seconds": spent * whole / usable_cores(),
        "psnr": looks["psnr"],
        "ssim": looks["ssim"],
        "sampled": len(chosen) - len(bad),
    }, bad
