"""Everything that is decided before the first image is written: parameters, samples, file names."""

import hashlib
from array import array
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from unlearnable_kernels.data.formats import WRITERS
from unlearnable_kernels.data.formats.folder import FolderWriter
from unlearnable_kernels.data.manifest import IN_PARTS, canonical, schema_of
from unlearnable_kernels.data.source import Source, load_image
from unlearnable_kernels.data.writer import Writer
from unlearnable_kernels.environment import installed, versions
from unlearnable_kernels.errors import ImageError, UserError, shown
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.plugins import describe_plugins
from unlearnable_kernels.protect.keys import Key, Secret
from unlearnable_kernels.protect.methods.method import METHODS, Method, Task
from unlearnable_kernels.protect.methods.selection import check_fraction
from unlearnable_kernels.protect.pipeline.chunk import Chunk
from unlearnable_kernels.protect.pipeline.probe import fingerprint, of_rendering

CHUNK_IMAGES = 256
CHUNK_BYTES = 16 * 2**20
_LONGEST_NAME = 255  # bytes, on all usual file systems


@dataclass(frozen=True)
class Options:
    """What the caller asked for, whatever the method; None is the default for the dataset."""

    method: Method
    fraction: float = 1.0
    format: str | None = None
    resize: int | None = None
    dataset_name: str | None = None


@dataclass(frozen=True)
class Plan:
    """What will be written.

    Attributes:
        header: The manifest as far as it is known now.
        method: How images are perturbed.
        task: What the method is given.
        writer: How they are written.
        assignment: From ``Method.assignment``, one for each sample.
        outputs: From ``Writer.outputs``, one for each sample.
        chunks: All samples, in the order of the dataset; where a rank renders, those that it read.
        digest: SHA-256 of all of that.
        asked: The options as they were given: what changes although they are the same, the source changed.
        made_on: As ``probe.fingerprint`` gives it, and the versions of what else this writes with.
        origin: The dataset as it was given, and the list of its classes if there is one.
    """

    header: dict[str, Any]
    method: Method
    task: Task
    writer: Writer
    assignment: Sequence[int]
    outputs: Sequence[str]
    chunks: list[Chunk]
    digest: str
    asked: dict[str, Any]
    made_on: dict[str, str]
    origin: tuple[str, str | None] = ("", None)

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
        return f"--fraction {self.task.fraction:g} selects none of {len(self.outputs)} images"

    @property
    def stands_alone(self) -> bool:
        """Whether what becomes of a picture depends on no other picture."""
        return self.method.growable(self.parameters)

    def cut_as(self, before: Sequence[Chunk]) -> "Plan":
        """The same with chunks that begin where these did: when the source changes, most stay."""
        if not isinstance(self.writer, FolderWriter):
            return self  # others may write by chunks
        starts = {chunk.samples[0].name for chunk in before}
        return self._with_chunks(make_chunks(self.task.source, self.assignment, self.outputs, starts))

    def cut(self) -> "Plan":
        """The same, cut into chunks by its listing alone."""
        return self._with_chunks(make_chunks(self.task.source, self.assignment, self.outputs))

    def _with_chunks(self, chunks: list[Chunk]) -> "Plan":
        """The same plan in these chunks, with their digests."""
        header, classes = self.header, self.task.source.classes
        names = ("method", "parameters", "dataset_name", "key", "plugins")
        common: list[Any] = [
            [header.get(name) for name in names],
            of_rendering(self.made_on),
            self.task.scheme,
        ]
        if not self.stands_alone:
            common.append(self.digest)
        elif self.task.scheme == 1:
            common.append(classes)
        if self.writer.one_size:
            common.append(list(self.task.image.shape))
        start = hashlib.sha256(canonical(common)).hexdigest()
        in_tree = isinstance(self.writer, FolderWriter)

        def digest(chunk: Chunk) -> str:
            rows = [
                [
                    s.name,
                    classes[s.label],
                    None if in_tree else s.label,
                    s.size,
                    assigned >= 0,
                    name,
                ]
                for s, assigned, name in zip(chunk.samples, chunk.assignment, chunk.outputs, strict=True)
            ]
            return hashlib.sha256(canonical([start, rows])).hexdigest()

        return replace(self, chunks=[replace(chunk, digest=digest(chunk)) for chunk in chunks])


def make_plan(source: Source, secret: Secret, options: Options, on_error: str, scheme: int = 2) -> Plan:
    """Resolve the defaults and decide what becomes of every sample, by ``Task.scheme``.

    Raises:
        UserError: An option does not suit this dataset, or none of its images can be read.
    """
    check_options(options)
    if not source.samples:
        raise UserError(f"{source.name}: there are no images to protect")
    image = _first_image(source, options.resize, on_error)
    writer = make_writer(options, source)
    task = make_task(source, secret, options, writer, image, scheme)
    method, parameters = options.method, options.method.parameters(task)
    assignment = method.assignment(task, parameters)
    schema, libraries = schema_of(len(source.samples)), writer.libraries
    if schema == IN_PARTS:
        extra_module("pyarrow.parquet")  # now rather than when all images are rendered
        libraries = (*libraries, "pyarrow")
    header = {
        "schema": schema,
        "method": method.name,
        "parameters": parameters,
        "dataset_name": task.name,
        "layout": source.layout,
        "split": source.split,
        "prefix": source.prefix,
        "left_out": list(source.left_out),
        "key": {"kind": secret.kind, "fingerprint": secret.fingerprint},
        "classes": list(source.classes),
        "source_listing_sha256": listing_digest(source),
        "versions": versions(),
    }
    if task.scheme != 1:
        header["scheme"] = task.scheme
    # A method from outside makes other bytes when its code changes.
    if plugins := describe_plugins([(METHODS, method.name), (WRITERS, writer.name)]):
        header["plugins"] = plugins
    outputs = writer.outputs(source)
    check_names(outputs)
    return Plan(
        header=header,
        method=method,
        task=task,
        writer=writer,
        assignment=array("q", assignment),
        outputs=outputs,
        chunks=[],
        digest=digest_of(header, assignment),
        asked=asked_of(options),
        made_on=fingerprint() | {name: installed(name) for name in libraries},
    ).cut()


def asked_of(options: Options) -> dict[str, Any]:
    """The options as JSON."""
    method = options.method
    settings = {each.name: getattr(method, each.name) for each in fields(method)}
    plain = (str, int, float, bool, type(None))
    return {
        "method": method.name,
        "settings": {k: v if isinstance(v, plain) else repr(v) for k, v in settings.items()},
        "fraction": float(options.fraction),
        "format": options.format,
        "resize": options.resize,
        "dataset_name": options.dataset_name,
    }


def check_names(outputs: Sequence[str]) -> None:
    """Raise UserError for a name that could not be written; better now than in the middle."""
    folders = {parent for name in outputs for parent in _parents(name)}
    for name in outputs:
        if any(len(part.encode()) > _LONGEST_NAME for part in name.split("/")):
            raise UserError(f"{shown(name)}: too long a name, of over {_LONGEST_NAME} bytes with its suffix")
        if name in folders:
            raise UserError(f"{shown(name)}: a picture would lie where a folder is needed")


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def digest_of(header: dict[str, Any], assignment: Sequence[int], *more: Any) -> str:
    """SHA-256, in hex, of all that was decided; the header has the digest of the source's listing."""
    digest = hashlib.sha256(canonical([header, *more]))
    digest.update(array("q", assignment))
    return digest.hexdigest()


def check_options(options: Options) -> None:
    """Check what does not depend on the dataset.

    Raises:
        UserError: An option is wrong for any dataset.
    """
    options.method.check()
    check_fraction(options.fraction)
    if options.format is not None:
        _check_writer(options.method, WRITERS.create(options.format))
    if options.resize is not None and not 1 <= options.resize <= 65535:
        raise UserError(f"resize must be from 1 to 65535 pixels, not {options.resize}")


def make_writer(options: Options, source: Source) -> Writer:
    """The writer that was asked for, otherwise the source's own that suits the method."""
    own = source.lossless_as if options.method.lossless_only else source.written_as
    writer: Writer = WRITERS.create(options.format or own)
    return writer


def _check_writer(method: Method, writer: Writer) -> None:
    writer.check()
    if method.lossless_only and not writer.lossless:
        allowed = ", ".join(entry.name for entry in WRITERS.entries() if entry.item.lossless)
        raise UserError(f"format must be one of {allowed} with {method.name}, not {writer.name!r}")


def make_task(
    source: Source, secret: Secret, options: Options, writer: Writer, image: np.ndarray, scheme: int = 2
) -> Task:
    """What the method is given; a seed knows scheme 1 alone.

    Raises:
        UserError: The name of the dataset is not Unicode text.
    """
    name = options.dataset_name or source.name
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the dataset's name {name!r} is not UTF-8; give it one with --dataset-name"
        ) from None
    return Task(
        source=source,
        secret=secret,
        name=name,
        fraction=options.fraction,
        resize=options.resize,
        format=writer.name,
        format_settings=asdict(writer),
        scheme=scheme if isinstance(secret, Key) else 1,
        image=image,
    )


def make_chunks(
    source: Source, assignment: Sequence[int], outputs: Sequence[str], starts: Collection[str] = ()
) -> list[Chunk]:
    """Cut the samples into runs of at most 256 images or 16 MiB of files; one sample at least.

    Args:
        source: Their dataset.
        assignment: One for each sample.
        outputs: Likewise.
        starts: Names of samples with which a run begins in any case.
    """
    samples, bounds, size = source.samples, [0], 0
    for position, sample in enumerate(samples):
        added = source.bytes_to_read(sample)
        count = position - bounds[-1]
        full = count == CHUNK_IMAGES or size + added > CHUNK_BYTES
        if count and (full or sample.name in starts):
            bounds.append(position)
            size = 0
        size += added
    ranges = zip(bounds, [*bounds[1:], len(samples)], strict=True)
    return [Chunk(index, samples[a:b], assignment[a:b], outputs[a:b]) for index, (a, b) in enumerate(ranges)]


def _first_image(source: Source, resize: int | None, on_error: str) -> np.ndarray:
    for sample in source.samples:
        try:
            return load_image(source, sample, resize)
        except ImageError:
            if on_error != "skip":
                raise
    raise UserError(f"{source.name}: not one of its {len(source.samples)} images can be read")


def listing_digest(source: Source) -> str:
    """SHA-256, in hex, of the samples' names, labels and sizes, and of what was skipped; not of times."""
    digest = hashlib.sha256(b"[[")
    for start in range(0, len(source.samples), CHUNK_IMAGES):
        # The 0 stands where a time once could.
        rows = [[s.name, s.label, s.size, 0] for s in source.samples[start : start + CHUNK_IMAGES]]
        digest.update((b"," if start else b"") + canonical(rows)[1:-1])
    digest.update(b"]," + canonical(source.skipped) + b"]")
    return digest.hexdigest()
