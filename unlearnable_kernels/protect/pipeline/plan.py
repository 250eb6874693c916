"""Everything that is decided before the first image is written: parameters, samples, file names."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlearnable_kernels.data.images import SUFFIX
from unlearnable_kernels.data.manifest import MANIFEST_NAME, SCHEMA_VERSION, canonical
from unlearnable_kernels.data.source import ArraySource, Source, load_image
from unlearnable_kernels.environment import versions
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.protect.keys import Secret, Seed
from unlearnable_kernels.protect.methods.classwise_conv import ClasswiseConv
from unlearnable_kernels.protect.methods.method import Method, Task
from unlearnable_kernels.protect.pipeline.chunk import Chunk

CHUNK_IMAGES = 256
CHUNK_BYTES = 16 * 2**20
_OWN_SUFFIXES = {"jpeg": (".jpg", ".jpeg"), "png": (".png",), "webp": (".webp",)}


@dataclass(frozen=True)
class Options:
    """What the caller asked for, whatever the method; None is the default for the data set."""

    method: Method
    fraction: float = 1.0
    format: str | None = None
    resize: int | None = None
    dataset_name: str | None = None


@dataclass(frozen=True)
class Plan:
    """``header``: the manifest as far as it is known now. ``assignment``: see ``method.Method``."""

    header: dict[str, Any]
    method: Method
    task: Task
    assignment: list[int]
    outputs: list[str]
    chunks: list[Chunk]
    shape: tuple[int, ...] | None
    digest: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Every option with its final value."""
        parameters: dict[str, Any] = self.header["parameters"]
        return parameters

    @property
    def protects_nothing(self) -> str:
        """Why not one image would be protected; empty where some are."""
        if any(assigned >= 0 for assigned in self.assignment):
            return ""
        fraction = f"--fraction {self.parameters['fraction']:g}"
        if isinstance(self.method, ClasswiseConv) and isinstance(self.task.secret, Seed):
            return f"{fraction} of {len(self.outputs)} images left all out, by chance"
        return f"{fraction} of the largest class rounds to 0"


def make_plan(source: Source, secret: Secret, options: Options, on_error: str) -> Plan:
    """Resolve the defaults and decide what becomes of every sample. Raises UserError."""
    check_options(options)
    if not source.samples:
        raise UserError(f"{source.name}: there are no images to protect")
    first = _first_image(source, options.resize, on_error)
    task = make_task(source, secret, options, first)
    method, parameters = options.method, options.method.parameters(task)
    assignment = method.assignment(task, parameters)
    header = {
        "schema": SCHEMA_VERSION,
        "method": method.name,
        "parameters": parameters,
        "dataset_name": task.name,
        "layout": source.layout,
        "split": source.split,
        "prefix": source.prefix,
        "left_out": list(source.left_out),
        "key": {"kind": secret.kind, "fingerprint": secret.fingerprint},
        "classes": list(source.classes),
        "source_listing_sha256": listing_digest(source, with_times=False),
        "versions": versions(),
    }
    as_array = task.format == "npz"
    outputs = task.names if as_array else output_names(source, task.format)
    if not as_array:
        _keep_manifest_free(source, outputs)
    digest = hashlib.sha256(canonical([header, assignment, listing_digest(source, with_times=True)]))
    return Plan(
        header=header,
        method=method,
        task=task,
        assignment=assignment,
        outputs=outputs,
        chunks=make_chunks(source, assignment, outputs),
        shape=first.shape if as_array else None,
        digest=digest.hexdigest(),
    )


def check_options(options: Options) -> None:
    """Raises UserError for what is wrong with any data set."""
    options.method.check()
    if options.format is not None and options.format not in options.method.formats:
        allowed = ", ".join(options.method.formats)
        raise UserError(f"format must be one of {allowed} with {options.method.name}, not {options.format!r}")
    if options.resize is not None and not 1 <= options.resize <= 65535:
        raise UserError(f"resize must be from 1 to 65535 pixels, not {options.resize}")


def make_task(source: Source, secret: Secret, options: Options, image: np.ndarray) -> Task:
    """What the method goes by. Raises UserError for a data set's name that is no Unicode text."""
    name = options.dataset_name or source.name
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the data set's name {name!r} is not UTF-8; give it one with --dataset-name"
        ) from None
    format = options.format or ("npz" if isinstance(source, ArraySource) else "png")
    return Task(source, secret, name, options.fraction, options.resize, format, image)


def output_names(source: Source, format: str) -> list[str]:
    """The path of each sample's file in the protected tree, relative to its root.

    The source's name with the suffix of ``format``; where that would give two files of a folder one name
    (a.jpg, a.png; case is ignored), the suffix is added to the whole name instead (a.jpg.png).
    """
    names = [sample.name for sample in source.samples]
    wanted = {name: _with_suffix(name, format) for name in names}
    claims = Counter(name.casefold() for name in wanted.values())
    taken = {name.casefold() for name in names if wanted[name] == name}
    taken |= {wish.casefold() for wish in wanted.values() if claims[wish.casefold()] == 1}
    for name in sorted(names):
        if wanted[name] != name and claims[wanted[name].casefold()] > 1:
            renamed = name + SUFFIX[format]
            while renamed.casefold() in taken:
                renamed += SUFFIX[format]
            taken.add(renamed.casefold())
            wanted[name] = renamed
    prefix = f"{source.prefix}/" if source.prefix else ""
    return [prefix + wanted[name] for name in names]


def _keep_manifest_free(source: Source, outputs: Sequence[str]) -> None:
    folders = [source.prefix] if source.prefix else source.classes
    for name in (*folders, *outputs, *(file.as_posix() for file in source.side_files)):
        top = name.partition("/")[0]
        if top.casefold() == MANIFEST_NAME:
            raise UserError(f"{source.name}: {top!r} is where the manifest goes; rename it in the source")


def _with_suffix(name: str, format: str) -> str:
    # Plain text: pathlib takes longer than the filter does.
    stem, dot, suffix = name.rpartition(".")
    if f".{suffix.lower()}" in _OWN_SUFFIXES[format]:
        return name
    return (stem if dot and "/" not in suffix else name) + SUFFIX[format]


def make_chunks(source: Source, assignment: Sequence[int], outputs: Sequence[str]) -> list[Chunk]:
    """Runs of at most 256 samples or 16 MiB of files, whichever is less; one sample at least."""
    samples, bounds, size = source.samples, [0], 0
    for position, sample in enumerate(samples):
        # The size of an array's sample is that of its archive.
        added = 0 if isinstance(source, ArraySource) else sample.size
        count = position - bounds[-1]
        if count == CHUNK_IMAGES or (count and size + added > CHUNK_BYTES):
            bounds.append(position)
            size = 0
        size += added
    ranges = zip(bounds, [*bounds[1:], len(samples)], strict=True)
    return [
        Chunk(index, samples[a:b], list(assignment[a:b]), list(outputs[a:b]))
        for index, (a, b) in enumerate(ranges)
    ]


def _first_image(source: Source, resize: int | None, on_error: str) -> np.ndarray:
    for sample in source.samples:
        try:
            return load_image(source, sample, resize)
        except ImageError:
            if on_error != "skip":
                raise
    raise UserError(f"{source.name}: not one of its {len(source.samples)} images can be read")


def listing_digest(source: Source, *, with_times: bool) -> str:
    """SHA-256, in hex, of the samples' names, labels and sizes, and of what was skipped."""
    rows = [[s.name, s.label, s.size, s.mtime_ns if with_times else 0] for s in source.samples]
    return hashlib.sha256(canonical([rows, source.skipped])).hexdigest()
