"""Everything that is decided before the first image is written: parameters, filters, samples, file names."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlearnable_kernels.data.images import JPEG_QUALITY, SUFFIX
from unlearnable_kernels.data.sources import ArraySource, Source
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.ops.classwise_conv import PADDINGS
from unlearnable_kernels.protect.filters import FiltersFrom, SeedCompat, class_filters, default_parameters
from unlearnable_kernels.protect.manifest import MANIFEST_NAME, SCHEMA_VERSION, canonical
from unlearnable_kernels.protect.render import Chunk, load_image
from unlearnable_kernels.protect.selection import choose_protected
from unlearnable_kernels.record import versions

METHODS = ("classwise-conv",)
FORMATS = (*SUFFIX, "npz")
CHUNK_IMAGES = 256
CHUNK_BYTES = 16 * 2**20
_OWN_SUFFIXES = {"jpeg": (".jpg", ".jpeg"), "png": (".png",), "webp": (".webp",)}


@dataclass(frozen=True)
class Options:
    """What the caller asked for; None is the default for the data set."""

    method: str = "classwise-conv"
    kernel_size: int | None = None
    strength: float | None = None
    fraction: float = 1.0
    padding: str | None = None
    format: str | None = None
    quality: int = JPEG_QUALITY
    resize: int | None = None
    dataset_name: str | None = None


@dataclass(frozen=True)
class Plan:
    """``header``: the manifest as far as it is known now. ``filter_labels``: class, or -1 to stay clean."""

    header: dict[str, Any]
    filters: np.ndarray
    filter_labels: list[int]
    outputs: list[str]
    chunks: list[Chunk]
    shape: tuple[int, ...] | None
    digest: str

    @property
    def protects_nothing(self) -> str:
        """Why not one image would be protected; empty where some are."""
        if any(label >= 0 for label in self.filter_labels):
            return ""
        fraction = f"--fraction {self.header['parameters']['fraction']:g}"
        if self.header["key"]["kind"] == SeedCompat.kind:
            return f"{fraction} of {len(self.outputs)} images left all out, by chance"
        return f"{fraction} of the largest class rounds to 0"


def make_plan(source: Source, filters_from: FiltersFrom, options: Options, on_error: str) -> Plan:
    """Resolve the defaults and decide what becomes of every sample. Raises UserError."""
    check_options(options)
    if not source.samples:
        raise UserError(f"{source.name}: there are no images to protect")
    name = data_set_name(source, options)
    first = _first_image(source, options.resize, on_error)
    parameters = resolve(source, filters_from, options, name, min(first.shape[:2]))
    k, strength, count = parameters["kernel_size"], parameters["strength"], len(source.classes)
    filters = class_filters(filters_from, name, count, k, strength).numpy()
    names, labels = [s.name for s in source.samples], [s.label for s in source.samples]
    chosen = choose_protected(
        filters_from,
        name,
        names,
        labels,
        options.fraction,
        num_classes=count,
        kernel_size=k,
        strength=strength,
    )
    filter_labels = np.where(chosen, labels, -1).tolist()
    header = {
        "schema": SCHEMA_VERSION,
        "method": options.method,
        "parameters": parameters,
        "dataset_name": name,
        "layout": source.layout,
        "split": source.split,
        "prefix": source.prefix,
        "left_out": list(source.left_out),
        "key": {"kind": filters_from.kind, "fingerprint": filters_from.fingerprint},
        "classes": list(source.classes),
        "source_listing_sha256": _listing_digest(source, with_times=False),
        "versions": versions(),
    }
    as_array = parameters["format"] == "npz"
    outputs = names if as_array else output_names(source, parameters["format"])
    if not as_array:
        _keep_manifest_free(source, outputs)
    digest = hashlib.sha256(canonical([header, filter_labels, _listing_digest(source, with_times=True)]))
    return Plan(
        header=header,
        filters=filters,
        filter_labels=filter_labels,
        outputs=outputs,
        chunks=make_chunks(source, filter_labels, outputs),
        shape=first.shape if as_array else None,
        digest=digest.hexdigest(),
    )


def check_options(options: Options) -> None:
    """Raises UserError for what is wrong with any data set."""
    if options.method not in METHODS:
        raise UserError(f"method must be one of {', '.join(METHODS)}, not {options.method!r}")
    if options.padding is not None and options.padding not in PADDINGS:
        raise UserError(f"padding must be one of {', '.join(PADDINGS)}, not {options.padding!r}")
    if options.format is not None and options.format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, not {options.format!r}")
    if not 1 <= options.quality <= 100:
        raise UserError(f"quality must be from 1 to 100, not {options.quality}")
    if options.resize is not None and not 1 <= options.resize <= 65535:
        raise UserError(f"resize must be from 1 to 65535 pixels, not {options.resize}")


def data_set_name(source: Source, options: Options) -> str:
    """What the filters derive from. Raises UserError for a name that is no Unicode text."""
    name = options.dataset_name or source.name
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the data set's name {name!r} is not UTF-8; give it one with --dataset-name"
        ) from None
    return name


def resolve(
    source: Source, filters_from: FiltersFrom, options: Options, name: str, shorter_side: int
) -> dict[str, Any]:
    """The ``parameters`` of the manifest: every option with its final value."""
    kernel_size, strength = default_parameters(name, shorter_side)
    format = options.format or ("npz" if isinstance(source, ArraySource) else "png")
    # Zeros darken the border, by which protected images can be told (EPD); the released bytes have it.
    padding = options.padding or ("zeros" if isinstance(filters_from, SeedCompat) else "reflect")
    return {
        "kernel_size": int(kernel_size if options.kernel_size is None else options.kernel_size),
        "strength": float(strength if options.strength is None else options.strength),
        "fraction": float(options.fraction),
        "padding": padding,
        "rescale": "max",
        "resize": options.resize,
        "filter_acts": "on the stored image" if options.resize is None else "after the resize",
        "format": format,
        "quality": options.quality if format == "jpeg" else None,
    }


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


def make_chunks(source: Source, filter_labels: Sequence[int], outputs: Sequence[str]) -> list[Chunk]:
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
        Chunk(index, samples[a:b], list(filter_labels[a:b]), list(outputs[a:b]))
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


def _listing_digest(source: Source, *, with_times: bool) -> str:
    rows = [[s.name, s.label, s.size, s.mtime_ns if with_times else 0] for s in source.samples]
    return hashlib.sha256(canonical([rows, source.skipped])).hexdigest()
