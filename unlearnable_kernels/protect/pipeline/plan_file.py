"""plan.jsonl: a plan for whoever renders a part of it; a line on the whole, one for each chunk, a signature.

It holds no key: every rank is given that. What it says of files is checked all the same, since a seed, which
may take a key's place, is no secret.
"""

import hashlib
import hmac
import json
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from unlearnable_kernels.data.formats import WRITERS
from unlearnable_kernels.data.formats.loose import open_training_images
from unlearnable_kernels.data.listing import Names, Samples
from unlearnable_kernels.data.remote import url_of
from unlearnable_kernels.data.source import FolderSource, Sample, Source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import open_regular, parse_json, replacing
from unlearnable_kernels.plugins import changed_plugin, describe_plugins
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.methods.method import METHODS, Task
from unlearnable_kernels.protect.pipeline.chunk import Chunk
from unlearnable_kernels.protect.pipeline.plan import Options, Plan, asked_of, listing_digest, make_writer

PLAN_NAME = "plan.jsonl"
_LONGEST_LINE = 2**28
_FOLDER_FIELDS = ("name", "layout", "split", "prefix", "classes", "left_out")
_ASKED = {"method", "settings", "fraction", "format", "resize", "dataset_name"}
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Head:
    """The first line.

    Attributes:
        digest: Of the plan.
        header: The manifest as far as it was known.
        asked: The options as they were given.
        made_on: As ``Plan`` has it.
        origin: Where the source lies, and the list of its classes if there is one.
        skip_bad: Whether bad images are passed over.
        shape: Of the first image.
        folder: The fields of a ``FolderSource``; None where the source is of another kind.
        skipped: (name, reason) of what was passed over when the source was opened.
        chunks: How many there are.
    """

    digest: str
    header: dict[str, Any]
    asked: dict[str, Any]
    made_on: dict[str, str]
    origin: tuple[str, str | None]
    skip_bad: bool
    shape: tuple[int, int, int]
    folder: dict[str, Any] | None
    skipped: list[tuple[str, str]]
    chunks: int

    def __post_init__(self) -> None:
        kinds = (str, dict, dict, dict, tuple, bool, tuple, dict | None, list, int)
        for (name, value), kind in zip(vars(self).items(), kinds, strict=True):
            if not isinstance(value, kind):
                raise TypeError(name)
        texts = self.header["dataset_name"], self.header["source_listing_sha256"], self.origin[0]
        objects = self.header["key"], self.header["parameters"], self.asked["settings"]
        if len(self.origin) != 2 or len(self.shape) != 3 or self.asked.keys() != _ASKED:
            raise ValueError
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(o, dict) for o in objects):
            raise TypeError


def head_of(plan: Plan, skip_bad: bool) -> Head:
    """What the first line says of a plan."""
    source = plan.task.source
    folder = None
    if type(source) is FolderSource:
        folder = {name: getattr(source, name) for name in _FOLDER_FIELDS}
        folder |= {"root": str(source.root), "side_files": [file.as_posix() for file in source.side_files]}
    height, width, channels = plan.task.image.shape
    return Head(
        digest=plan.digest,
        header=plan.header,
        asked=plan.asked,
        made_on=plan.made_on,
        origin=plan.origin,
        skip_bad=skip_bad,
        shape=(height, width, channels),
        folder=folder,
        skipped=source.skipped,
        chunks=len(plan.chunks),
    )


def write_plan(folder: Path, plan: Plan, secret: Secret, skip_bad: bool) -> None:
    """Write ``plan.jsonl`` into ``folder``, in one step.

    Raises:
        WriteError: It cannot be written.
    """
    digest = hashlib.sha256()
    with replacing(folder / PLAN_NAME) as temporary, temporary.open("wb") as file:
        for value in chain([vars(head_of(plan, skip_bad))], map(_row, plan.chunks)):
            line = _line(value)
            digest.update(line)
            file.write(line)
        file.write(_line({"mac": _mac(secret, digest.digest())}))


def _line(value: Any) -> bytes:
    # ASCII: a folder's name need not be UTF-8.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _row(chunk: Chunk) -> list[Any]:
    samples = [[s.name, s.label, s.size, s.mtime_ns] for s in chunk.samples]
    return [chunk.index, chunk.digest, samples, list(chunk.assignment), list(chunk.outputs)]


def _mac(secret: Secret, digest: bytes) -> str:
    return secret.mac(b"plan" + digest)


def _open(folder: Path) -> BinaryIO:
    return open_regular(folder / PLAN_NAME, os.O_NOFOLLOW)


def read_head(folder: Path) -> Head | None:
    """The first line of the plan in ``folder``, whoever signed it; None where there is no plan.

    Raises:
        UserError: It is damaged.
    """
    if not (folder / PLAN_NAME).is_symlink() and not (folder / PLAN_NAME).exists():
        return None
    try:
        with _open(folder) as file:
            return _head(file.readline(_LONGEST_LINE))
    except _DAMAGE:
        raise _damaged(folder) from None


def _damaged(folder: Path) -> UserError:
    return UserError(f"{folder / PLAN_NAME} is damaged; delete {folder} to start over")


def _head(line: bytes) -> Head:
    found = parse_json(line)
    for name in ("origin", "shape"):
        found[name] = tuple(found[name])
    found["skipped"] = [(str(name), str(why)) for name, why in found["skipped"]]
    return Head(**found)


def read_chunks(
    folder: Path, secret: Secret, wanted: Callable[[int], bool] = lambda index: True
) -> list[Chunk]:
    """The chunks of the plan in ``folder``.

    Args:
        folder: The staging folder.
        secret: What signed it.
        wanted: By its number, whether a chunk is asked for.

    Raises:
        UserError: The plan is damaged, or another key signed it.
    """
    try:
        with _open(folder) as file:
            return _signed_chunks(file, secret, wanted)
    except _DAMAGE:
        raise _damaged(folder) from None


def _signed_chunks(file: BinaryIO, secret: Secret, wanted: Callable[[int], bool]) -> list[Chunk]:
    line = file.readline(_LONGEST_LINE)
    count, digest = _head(line).chunks, hashlib.sha256(line)
    chunks, samples, outputs = list[Chunk](), Samples(), Names()
    for index in range(count):
        line = file.readline(_LONGEST_LINE)
        digest.update(line)
        if wanted(index):
            chunk, start = _chunk(parse_json(line)), len(samples)
            for sample, name in zip(chunk.samples, chunk.outputs, strict=True):
                samples.append(sample)
                outputs.append(name)
            chunks.append(replace(chunk, samples=samples[start:], outputs=outputs[start:]))
    mac = parse_json(file.readline(_LONGEST_LINE))["mac"]
    if file.read(1) or not hmac.compare_digest(mac, _mac(secret, digest.digest())):
        raise ValueError
    return chunks


def _chunk(row: Any) -> Chunk:
    index, digest, samples, assignment, outputs = row
    if not len(samples) == len(assignment) == len(outputs) > 0 or len(digest) != 64:
        raise ValueError
    for name in outputs:
        if name.startswith("/") or not name or ".." in PurePosixPath(name).parts or "\0" in name:
            raise ValueError
    int(digest, 16)
    assigned = array("q", map(int, assignment))
    return Chunk(int(index), [_sample(*each) for each in samples], assigned, outputs, digest)


def _sample(name: Any, *numbers: Any) -> Sample:
    label, size, mtime = map(int, numbers)
    if not isinstance(name, str) or ".." in PurePosixPath(name).parts or name.startswith("/"):
        raise ValueError
    return Sample(name, label, size, mtime)


def load_plan(
    folder: Path, secret: Secret, wanted: Callable[[int], bool] = lambda index: True
) -> tuple[Plan, bool]:
    """The plan in ``folder`` for one who renders chunks of it, or puts all together.

    Args:
        folder: The staging folder.
        secret: The key that it was made with.
        wanted: By its number, whether a chunk is rendered here. The others are left out where a picture does
            not depend on them.

    Returns:
        The plan, and whether bad images are passed over.

    Raises:
        UserError: There is none, it is damaged, or made with another key, or the source has changed.
    """
    head = read_head(folder)
    if head is None:
        raise UserError(f"there is no plan in {folder}: make one with `unlearnable plan`")
    if head.header["key"] != {"kind": secret.kind, "fingerprint": secret.fingerprint}:
        raise UserError(f"the plan in {folder} was made with another key")
    name, settings = head.asked["method"], head.asked["settings"]
    if name not in METHODS or not set(settings) <= set(METHODS.settings(name)):
        raise UserError(f"method {name} is not known here: give its module with --plugin")
    method = METHODS.make(name, settings)  # pictures go by the parameters, whatever could not be asked then
    alone = method.growable(head.header["parameters"])
    chunks = read_chunks(folder, secret, wanted if alone else lambda index: True)
    source = _source(head, Samples(sample for chunk in chunks for sample in chunk.samples), folder)
    if head.folder is None:
        # Its own samples know more than a plan says, such as the shard.
        known_as = {sample.name: sample for sample in source.samples}
        chunks = [
            replace(chunk, samples=[known_as[sample.name] for sample in chunk.samples]) for chunk in chunks
        ]
    options = Options(method, **{k: v for k, v in head.asked.items() if k not in ("method", "settings")})
    writer = make_writer(options, source)
    task = Task(
        source=source,
        secret=secret,
        name=head.header["dataset_name"],
        fraction=options.fraction,
        resize=options.resize,
        format=writer.name,
        format_settings=vars(writer),
        scheme=head.header.get("scheme", 1),
        image=np.zeros(head.shape, np.uint8),
    )
    used = describe_plugins([(METHODS, method.name), (WRITERS, writer.name)])
    if changed := changed_plugin(head.header.get("plugins", {}), used):
        raise UserError(f"{changed} the plan in {folder} was made: plan again, or use what was used then")
    plan = Plan(
        header=head.header,
        method=method,
        task=task,
        writer=writer,
        assignment=array("q", (assigned for chunk in chunks for assigned in chunk.assignment)),
        outputs=Names(name for chunk in chunks for name in chunk.outputs),
        chunks=chunks,
        digest=head.digest,
        asked=asked_of(options),
        made_on=head.made_on,
        origin=head.origin,
    )
    return plan, head.skip_bad


def _source(head: Head, samples: Samples, folder: Path) -> Source:
    if head.folder is not None:
        fields = {name: head.folder[name] for name in _FOLDER_FIELDS}
        side_files = [Path(file) for file in head.folder["side_files"]]
        root = Path(head.folder["root"])
        return FolderSource(root, **fields, samples=samples, skipped=head.skipped, side_files=side_files)
    path, labels = head.origin
    source = open_training_images(
        Path(path), None if labels is None else Path(labels), "skip" if head.skip_bad else "raise"
    )
    if listing_digest(source) != head.header["source_listing_sha256"]:
        raise UserError(f"{url_of(Path(path))} has changed since the plan in {folder} was made: plan again")
    return source
