"""Estimating the originals of a protected set from its key, for the owner who lost them."""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from unlearnable_kernels.data.formats import WRITERS
from unlearnable_kernels.data.manifest import Manifest, canonical, read_manifest
from unlearnable_kernels.data.remote import is_remote, refuse_misread_url, require_local, url_of
from unlearnable_kernels.data.source import Source, open_source
from unlearnable_kernels.data.writer import Destination, Writer
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import replacing, resumable, write_file, writing
from unlearnable_kernels.progress import Notify, Progress, no_progress
from unlearnable_kernels.protect.keys import Secret, sign
from unlearnable_kernels.protect.methods.method import METHODS, Perturbation
from unlearnable_kernels.protect.notices import telling_how_to_resume
from unlearnable_kernels.protect.pipeline.chunk import Chunk, Rendering
from unlearnable_kernels.protect.pipeline.executors.local import execute
from unlearnable_kernels.protect.pipeline.executors.process import check_process, default_workers
from unlearnable_kernels.protect.pipeline.job import written_chunk
from unlearnable_kernels.protect.pipeline.plan import check_names, make_chunks
from unlearnable_kernels.protect.pipeline.plan_file import PLAN_NAME
from unlearnable_kernels.protect.pipeline.probe import fingerprint
from unlearnable_kernels.protect.pipeline.records import intact
from unlearnable_kernels.protect.pipeline.staging import RESTORES_NAME, Staging, staging_folder
from unlearnable_kernels.protect.run import check_places
from unlearnable_kernels.protect.verify import verify_dataset

KNOWN = "estimates, not the originals: what is known of how near they are is in docs/quality.md"
_CHUNK = 32  # pictures, of which each can take seconds: all that a kill costs


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
    when it is whole: interrupted, even killed, the same call resumes. Pictures that were left clean are
    copied. There is no manifest: it is no protected set.

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
    check_process()
    notify = notify or logging.getLogger(__name__).info
    require_local(Path(protected), "restored")
    refuse_misread_url(Path(dst))
    if is_remote(Path(dst)):
        raise UserError(f"{url_of(Path(dst))}: nothing is restored to a URL: give a folder on this machine")
    protected, dst = check_places(Path(protected), Path(dst))
    taken = dst.exists() and (not dst.is_dir() or any(dst.iterdir()))
    if taken and not _may_be_left(staging_folder(dst)):
        raise UserError(f"{dst} exists already; choose another name")
    manifest = read_manifest(protected)
    if taken:
        _tidy_up(dst, manifest["mac"], secret)
        notify(f"{dst} is complete already")
        return dst
    inverse = _inverse(protected, manifest, secret)
    # An empty class folder is of no account: the manifest says what each picture was filtered as.
    source = open_source(protected, on_error="skip")
    labels = {name: entry.label if entry.protected else -1 for name, entry in manifest.samples()}
    try:
        assignment = [labels[sample.name] for sample in source.samples]
    except KeyError as error:
        raise UserError(f"{protected} cannot be restored: its manifest does not list {error}") from None
    outputs = WRITERS.create(source.lossless_as).outputs(source)
    try:
        check_names(outputs)
    except UserError as error:
        raise UserError(f"{protected} cannot be restored: {error}") from None
    chunks = _chunks(source, assignment, outputs, manifest["mac"])
    with resumable(), Staging(dst, secret) as staging:
        _begin(staging, manifest["mac"])
        with telling_how_to_resume(notify):
            _write(source, chunks, inverse, staging, workers, notify, progress)
    size, count = manifest["parameters"].get("resize"), sum(each >= 0 for each in assignment)
    if size is not None:
        notify(f"pictures were brought to {size} pixels before they were protected, and stay at that")
    notify(f"restored {count} of {len(assignment)} pictures: {KNOWN}")
    return dst


def _begin(staging: Staging, mac: str) -> None:
    """Say in the staging folder whose estimates it holds. Raises UserError if it holds anything else."""
    staging.refuse_run(PLAN_NAME)
    if not _has_begun(staging, mac):
        staging.refuse_run(RESTORES_NAME)
        with replacing(staging.folder / RESTORES_NAME) as temporary:
            write_file(temporary, _head(mac, staging.secret))


def _head(mac: str, secret: Secret) -> bytes:
    return canonical(sign({"restores": mac}, secret))


def _has_begun(staging: Staging, mac: str) -> bool:
    path = staging.folder / RESTORES_NAME
    with writing(path):
        return path.is_file() and path.read_bytes() == _head(mac, staging.secret)


def _tidy_up(dst: Path, mac: str, secret: Secret) -> None:
    """Remove what this restoration left, killed when ``dst`` was whole. Raises UserError if it did not."""
    with Staging(dst, secret) as staging:
        complete = _has_begun(staging, mac) and not staging.tree.exists()
        if complete or [*staging.folder.iterdir()] == [staging.folder / "lock"]:
            staging.remove()
    if not complete:
        raise UserError(f"{dst} exists already; choose another name")


def _may_be_left(folder: Path) -> bool:
    """Whether a restoration may have left this staging folder, killed while it tidied up."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return RESTORES_NAME in names or names <= {"lock"}


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
    chunks: list[Chunk],
    inverse: Perturbation,
    staging: Staging,
    workers: int | None,
    notify: Notify,
    progress: Progress,
) -> None:
    """Restore all pictures in the staging folder, but those that are there already, and publish them."""
    writer: Writer = WRITERS.create(source.lossless_as)
    first = source.read(source.samples[0])
    shape = first.shape if hasattr(first, "shape") else (0, 0, 3)
    destination = Destination(staging.tree, staging.parts, source.without_samples(), shape)
    files = {chunk.index: writer.files(destination, chunk.index, chunk.outputs) for chunk in chunks}
    finished = staging.records.finished(
        chunks, lambda chunk, result: intact(files[chunk.index], result, rehash=True)
    )
    found = {chunk.index: staging.records.read(chunk) for chunk in chunks if chunk.index in finished}
    results = {index: result for index, result in found.items() if result is not None}
    with writing(staging.folder):
        staging.keep_only({str(file) for index in results for file in files[index]})
        staging.tree.mkdir(exist_ok=True)
        writer.prepare(destination, [name for chunk in chunks for name in chunk.outputs])
    left = [chunk for chunk in chunks if chunk.index not in results]
    total = len(source.samples)
    done = total - sum(len(chunk.samples) for chunk in left)
    if done:
        notify(f"resuming: {done} of {total} pictures are done")
    rendering = Rendering(source.without_samples(), inverse, writer, destination, None, skip_bad=False)
    count = min(default_workers() if workers is None else workers, len(left))
    with closing(execute(rendering, left, count if count > 1 else 0, staging.lock)) as new:
        for result in new:
            chunk = chunks[result.index]
            staging.records.add(chunk, result)
            results[result.index] = result
            done += len(chunk.samples)
            progress("restoring", done, total)
    with writing(staging.tree):
        writer.seal(destination, [written_chunk(chunk, results[chunk.index]) for chunk in chunks])
    staging.publish()


def _chunks(source: Source, assignment: list[int], outputs: Sequence[str], mac: str) -> list[Chunk]:
    """All pictures in small chunks, each with a digest of what decides how it comes out."""
    starts = {sample.name for sample in source.samples[::_CHUNK]}
    common = ["restore", mac, fingerprint()]
    return [
        replace(
            chunk, digest=hashlib.sha256(canonical([*common, chunk.index, list(chunk.outputs)])).hexdigest()
        )
        for chunk in make_chunks(source, assignment, outputs, starts)
    ]
