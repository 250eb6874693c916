"""Estimating the originals of a protected set from its key, for the owner who lost them."""

import logging
from contextlib import closing
from pathlib import Path

from unlearnable_kernels.data.formats import WRITERS
from unlearnable_kernels.data.manifest import Manifest, read_manifest
from unlearnable_kernels.data.source import Source, open_source
from unlearnable_kernels.data.writer import Destination, Writer, WrittenChunk
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import writing
from unlearnable_kernels.progress import Notify, Progress, no_progress
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.methods.method import METHODS, Perturbation
from unlearnable_kernels.protect.pipeline.chunk import Rendering
from unlearnable_kernels.protect.pipeline.executors.local import execute
from unlearnable_kernels.protect.pipeline.executors.script import refuse_within_import
from unlearnable_kernels.protect.pipeline.plan import make_chunks
from unlearnable_kernels.protect.pipeline.staging import Staging
from unlearnable_kernels.protect.run import check_places
from unlearnable_kernels.protect.verify import verify_dataset

KNOWN = "estimates, not the originals: what is known of how near they are is in docs/quality.md"
_OWN = {"lock", "rendering", "tree", "parts"}  # what a restoration leaves that was killed


def restore_dataset(
    protected: Path,
    dst: Path,
    *,
    secret: Secret,
    workers: int | None = None,
    progress: Progress = no_progress,
    notify: Notify | None = None,
) -> Path:
    """Write estimates of the originals of a protected set, by least squares from its key.

    They are written without loss, PNG for trees and npz for arrays, to ``dst``.partial, which becomes ``dst``
    when it is whole. Pictures that were left clean are copied. There is no manifest: it is no protected set.

    Args:
        protected: What ``protect_dataset`` made.
        dst: Folder to create.
        secret: The key that it was made with.
        workers: Processes, 0 for none; by default one for each core.
        progress: Takes progress.
        notify: Takes messages of one line; by default they are logged.

    Returns:
        ``dst``, resolved.

    Raises:
        UserError: Another key made it, it was changed since, it cannot be undone, or ``dst`` is taken.
    """
    refuse_within_import()
    notify = notify or logging.getLogger(__name__).info
    protected, dst = check_places(Path(protected), Path(dst))
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise UserError(f"{dst} exists already; choose another name")
    manifest = read_manifest(protected)
    inverse = _inverse(protected, manifest, secret)
    # An empty class folder is of no account: the manifest says what each picture was filtered as.
    source = open_source(protected, on_error="skip")
    labels = {name: entry.label if entry.protected else -1 for name, entry in manifest.samples()}
    try:
        assignment = [labels[sample.name] for sample in source.samples]
    except KeyError as error:
        raise UserError(f"{protected} cannot be restored: its manifest does not list {error}") from None
    with Staging(dst, secret) as staging:
        others = sorted({entry.name for entry in staging.folder.iterdir()} - _OWN)
        if others:
            raise UserError(f"{staging.folder} holds another unfinished run; choose another name")
        try:
            _write(source, assignment, inverse, staging, workers, progress)
        except BaseException:
            staging.remove()
            raise
    size, count = manifest["parameters"].get("resize"), sum(each >= 0 for each in assignment)
    if size is not None:
        notify(f"pictures were brought to {size} pixels before they were protected, and stay at that")
    notify(f"restored {count} of {len(assignment)} pictures: {KNOWN}")
    return dst


def _inverse(protected: Path, manifest: Manifest, secret: Secret) -> Perturbation:
    """What undoes the protection.

    Raises:
        UserError: It cannot be undone, or not safely: under another key it would give noise.
    """
    method = manifest["method"]
    if method not in METHODS:
        raise UserError(f"{protected} cannot be restored: {shown(repr(method))} is no method that is known")
    found = verify_dataset(protected, secret)
    if found.key != "matches":
        reason = "another key made it" if found.key == "another key" else "its manifest has changed"
        raise UserError(f"{protected} cannot be restored: {reason}")
    for kind in ("missing", "changed", "extra"):
        if names := getattr(found, kind):
            raise UserError(f"{protected} cannot be restored: {shown(names[0])} is {kind}")
    # Signed by the key: whatever stands there, we wrote.
    classes = manifest["classes"] if manifest.get("scheme") == 2 else len(manifest["classes"])
    return METHODS[method].inverse(manifest["parameters"], secret, manifest["dataset_name"], classes)


def _write(
    source: Source,
    assignment: list[int],
    inverse: Perturbation,
    staging: Staging,
    workers: int | None,
    progress: Progress,
) -> None:
    """Restore all pictures in the staging folder, and publish them."""
    writer: Writer = WRITERS.create(source.written_as)
    outputs = writer.outputs(source)
    first = source.read(source.samples[0])
    shape = first.shape if hasattr(first, "shape") else (0, 0, 3)
    destination = Destination(staging.tree, staging.parts, source.without_samples(), shape)
    with writing(staging.folder):
        staging.clear()
        staging.tree.mkdir()
        writer.prepare(destination, outputs)
    chunks = make_chunks(source, assignment, outputs)
    rendering = Rendering(source.without_samples(), inverse, writer, destination, None, skip_bad=False)
    count = min(usable_cores() if workers is None else workers, len(chunks))
    written, done = {}, 0
    with closing(execute(rendering, chunks, count if count > 1 else 0, staging.lock)) as results:
        for result in results:
            chunk = chunks[result.index]
            flags = [each >= 0 for each in chunk.assignment]
            labels = [sample.label for sample in chunk.samples]
            written[chunk.index] = WrittenChunk(
                chunk.index, chunk.outputs, labels, flags, frozenset(), result.sha256
            )
            done += len(chunk.samples)
            progress("restoring", done, len(outputs))
    with writing(staging.tree):
        writer.seal(destination, [written[chunk.index] for chunk in chunks])
    staging.publish()
