"""Protecting a dataset: source in, protected dataset and manifest out, whole or not at all."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.formats.loose import open_training_images
from unlearnable_kernels.data.manifest import INCIDENTAL, MANIFEST_NAME, Manifest, read_manifest
from unlearnable_kernels.data.named import find, resolve
from unlearnable_kernels.data.remote import check_store, is_remote, list_folder, url_of
from unlearnable_kernels.data.shards import ShardWriter
from unlearnable_kernels.data.source import Source
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import resolved, resumable
from unlearnable_kernels.progress import Notify, Progress, no_progress
from unlearnable_kernels.protect.exposure import exposed
from unlearnable_kernels.protect.growth import obstacle
from unlearnable_kernels.protect.keys import Key, Secret, is_signed_by
from unlearnable_kernels.protect.methods.method import Method, make_method
from unlearnable_kernels.protect.notices import (
    notify_about,
    notify_result,
    notify_unprotected,
    telling_how_to_resume,
)
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.pipeline.executors.process import check_process
from unlearnable_kernels.protect.pipeline.job import Job, check_unfinished
from unlearnable_kernels.protect.pipeline.plan import Options, Plan, check_options, make_plan
from unlearnable_kernels.protect.pipeline.staging import (
    Staging,
    destination,
    differences,
    scheme_at,
    staging_folder,
)
from unlearnable_kernels.protect.pipeline.uploads import is_finished_there, refuse_taken
from unlearnable_kernels.protect.verify import verify_dataset

ON_ERROR = ("raise", "skip")


def protect_dataset(
    src: Path,
    dst: Path,
    *,
    secret: Secret,
    method: str | Method = "classwise-conv",
    fraction: float = 1.0,
    format: str | None = None,
    resize: int | None = None,
    dataset_name: str | None = None,
    labels: Path | None = None,
    earlier: Sequence[Path] = (),
    accept_exposure: bool = False,
    workers: int | None = None,
    executor: str = "local",
    address: str | None = None,
    on_error: str = "raise",
    rehash: bool = False,
    progress: Progress = no_progress,
    notify: Notify | None = None,
    **method_settings: Any,
) -> Path:
    """Write a protected copy of the training split of a dataset.

    The work goes on in ``dst``.partial, which becomes ``dst`` when it is whole: after a kill, a full disk or
    Ctrl-C, the same call resumes, and ends with the bytes of an uninterrupted one. A complete
    ``dst`` of the same call is left as it is. Images outside the fraction are written in the same format,
    so that the format does not betray which are protected.

    Args:
        src: The dataset, as ``open_source`` takes it.
        dst: Folder to create.
        secret: The key, or a seed, that everything secret or random derives from.
        method: A name in ``METHODS``, or a method with its settings.
        fraction: Share of the images to protect, in (0, 1]; exact in every class with a key.
        format: A name in ``WRITERS``, with settings where it has some, such as "jpeg:quality=90". None is
            same for trees and npz for archives; methods that need a lossless format write trees as png.
        resize: Pixels of the shorter side, then the central square; the method acts after it.
        dataset_name: Part of every derivation; the source's own name by default.
        labels: A list of the classes of the pictures in ``src``, as ``open_labelled`` takes it.
        earlier: Sets that were published before, by their folders or manifests: none of their pictures may be
            published in another way, see ``exposed``.
        accept_exposure: Whether to do so nevertheless.
        workers: Processes that write images, 0 for none; by default one for each core.
        executor: Where, a name in ``executor.NAMES``.
        address: Of a Ray cluster.
        on_error: "raise", or "skip" to list images that cannot be processed in the manifest and go on.
        rehash: Whether a run that resumes hashes what is written already; otherwise it looks at sizes.
        progress: Takes progress.
        notify: Takes messages of one line; by default they are logged.
        **method_settings: With a name, fields of the method's class, such as ``ClasswiseConv``; None is the
            default.

    Returns:
        The path of the manifest.

    Raises:
        BusyError: Another process is working on ``dst``.
        UserError: A parameter is bad, the source cannot be read, the disk is full, or ``dst`` holds
            something else, was damaged since, lies within ``src`` or around it.
    """
    check_process()
    options = Options(make_method(method, method_settings), fraction, format, resize, dataset_name)
    where = Executor(executor, workers, address)
    notify = notify or logging.getLogger(__name__).info
    ready = prepare(src, dst, options, secret, labels, on_error, notify)
    dst = ready.dst
    check_exposure(ready.plan, earlier, accept_exposure, notify)
    if _is_complete(ready) and not staging_folder(dst).exists():
        notify(f"{url_of(dst)} is complete already")
        return dst / MANIFEST_NAME
    with resumable(), Staging(dst, secret) as staging:
        # Asked again: another process may have finished it while this one waited.
        if _is_complete(ready):
            staging.remove()
            notify(f"{url_of(dst)} is complete already")
            return dst / MANIFEST_NAME
        job = Job(ready.source, ready.plan, staging, on_error == "skip", progress, rehash)
        with telling_how_to_resume(notify):
            with job.leaving_nothing():
                job.begin(notify)
                job.render(where, notify)
            manifest = job.finish(secret)
    notify_result(manifest, len(ready.plan.outputs), notify)
    return dst / MANIFEST_NAME


@dataclass(frozen=True)
class Ready:
    """A source that is to be protected, and how.

    Attributes:
        source: The dataset.
        plan: What becomes of it.
        dst: Where, resolved.
    """

    source: Source
    plan: Plan
    dst: Path


def prepare(
    src: Path,
    dst: Path,
    options: Options,
    secret: Secret,
    labels: Path | None,
    on_error: str,
    notify: Notify,
) -> Ready:
    """Check all that can be checked before anything is written, and plan. As for ``protect_dataset``."""
    check_options(options)
    check_on_error(on_error)
    _, dst = check_places(find(src), Path(dst))
    if is_remote(dst):
        check_store(dst)
    source = open_training_images(src, labels, on_error)
    check_places(around(src, source), dst)
    notify_about(source, notify)
    plan = make_plan(source, secret, options, on_error, scheme_at(dst))
    if is_remote(dst) and not isinstance(plan.writer, ShardWriter):
        raise UserError(f"format must be webdataset or parquet for {url_of(dst)}, not {plan.writer.name!r}")
    notify_unprotected(plan, notify)
    origin = resolve(src), None if labels is None else str(resolved(labels))
    return Ready(source, replace(plan, origin=origin), dst)


def check_exposure(plan: Plan, earlier: Sequence[Path], accepted: bool, notify: Notify) -> None:
    """Raise UserError if pictures would be exposed and that is not accepted."""
    found: dict[str, None] = {}
    for path in earlier:
        manifest = read_manifest(path.parent if path.name == MANIFEST_NAME else path)
        found |= dict.fromkeys(_exposed(plan, manifest, path))
    if names := list(found):
        told = (
            f"{_such_as(names)} were published in another way before: with both copies, what was done to "
            "them, and to others of their class, can be estimated and undone"
        )
        if not accepted:
            raise UserError(f"{told}; add to that set with --extend, or give --accept-exposure")
        notify(f"warning: {told}")


def _exposed(plan: Plan, manifest: Manifest, path: Path) -> list[str]:
    try:
        return exposed(plan, manifest)
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UserError(f"{url_of(path)}: its manifest is damaged: {error}") from None


def _such_as(names: list[str]) -> str:
    return f"{len(names)} pictures, such as {shown(names[0])},"


def check_publishing(
    src: Path,
    dst: Path,
    options: Options,
    secret: Secret | None,
    *,
    labels: Path | None,
    on_error: str,
    earlier: Sequence[Path],
    accept_exposure: bool,
    notify: Notify,
) -> None:
    """Check ``dst`` and ``earlier`` as ``protect_dataset`` does, with its arguments, and write nothing.

    Without a secret there may be nothing to compare with.

    Raises:
        UserError: As ``protect_dataset`` does, or a key is needed to tell.
    """
    _, dst = check_places(find(src), Path(dst))
    staging = Staging(dst, secret or Key.generate())
    staging.check()
    if secret is None:
        taken = [place for place in (dst, staging_folder(dst)) if _has_something(place)]
        if earlier or taken:
            what = "--earlier" if earlier else f"what is in {url_of(taken[0])}"
            raise UserError(f"{what} can be compared with the key alone: give --key-file")
        return
    ready = prepare(src, dst, options, secret, labels, on_error, notify)
    check_exposure(ready.plan, earlier, accept_exposure, notify)
    if _is_complete(ready):
        notify(f"{url_of(dst)} is complete already")
    else:
        check_unfinished(ready.plan, staging)


def check_on_error(on_error: str) -> None:
    """Raise UserError for a way to treat bad images that there is not."""
    if on_error not in ON_ERROR:
        raise UserError(f"on_error must be one of {', '.join(ON_ERROR)}, not {on_error!r}")


def check_places(src: Path, dst: Path) -> tuple[Path, Path]:
    """Both paths, resolved.

    Raises:
        UserError: They, or the staging folder and the source, do not lie clear of each other.
    """
    src, dst = src if is_remote(src) else resolved(src), destination(dst)
    if not is_remote(src) and not src.exists():
        raise UserError(f"{src}: no such file or folder")
    if not dst.name:
        raise UserError(f"{dst} cannot be replaced by the protected dataset; choose a folder within it")
    for place in (dst, resolved(staging_folder(dst))):
        if place == src or src in place.parents or place in src.parents:
            raise UserError(f"{url_of(place)} must lie outside the source {url_of(src)}, and not around it")
    return src, dst


def around(src: Path, source: Source) -> Path:
    """What of a source a result must not lie in: the picture alone where it is one, otherwise its root.

    A split's folder may have been opened as part of the whole that lies around it.
    """
    return find(src) if source.layout == "pictures" else source.root


def _is_complete(ready: Ready) -> bool:
    """Whether ``dst`` is the whole result of this plan. Raises UserError if it holds anything else."""
    dst, plan, secret = ready.dst, ready.plan, ready.plan.task.secret
    if is_remote(dst):
        return _is_complete_there(ready)
    if not dst.exists():
        return False
    if not dst.is_dir():
        raise UserError(f"{dst} exists and is not a folder; choose another name")
    if dst.is_mount():
        # The last step renames a folder to this name, which a mount point does not allow.
        raise UserError(f"{dst} is a mount point; choose a folder within it")
    if not any(dst.iterdir()):
        return False
    if not (dst / MANIFEST_NAME).is_file():
        raise UserError(f"{dst} holds something else (there is no {MANIFEST_NAME}); choose another name")
    _read_same(dst, plan)
    report = verify_dataset(dst, secret)
    damage = [f"{shown(name)} is missing" for name in report.missing] + [
        f"{shown(name)} has changed" for name in report.changed
    ]
    if report.key != "matches":
        damage.append(f"{MANIFEST_NAME} has changed")
    if damage:
        raise UserError(
            f"{dst} holds this dataset, but {damage[0]}; "
            "delete the folder to start over, or choose another name"
        )
    return True


def _read_same(dst: Path, plan: Plan) -> Manifest:
    """The manifest of a finished set. Raises UserError if another plan made it."""
    manifest = read_manifest(dst)
    before = {name: manifest.get(name) for name in plan.header if name not in INCIDENTAL}
    now = {name: value for name, value in plan.header.items() if name not in INCIDENTAL}
    if changed := differences(before, now):
        names = _exposed(plan, manifest, dst)
        told = (
            f"; going by names, what was done to {_such_as(names)} could be estimated from both"
            if names
            else ""
        )
        grows = not is_remote(dst) and obstacle(manifest) is None
        raise UserError(
            f"{url_of(dst)} holds a dataset that differs in {', '.join(changed)}{told}; "
            f"{'add new pictures with --extend, or ' if grows else ''}choose another name, and give this one "
            "with --earlier if it was published"
        )
    return manifest


def _is_complete_there(ready: Ready) -> bool:
    """``_is_complete`` for a remote set, whose manifest is written last; its shards are not read."""
    dst, plan, secret = ready.dst, ready.plan, ready.plan.task.secret
    if is_finished_there(dst):
        if not is_signed_by(_read_same(dst, plan), secret):
            raise UserError(f"{url_of(dst)} holds this dataset, but {MANIFEST_NAME} has changed")
        return True
    refuse_taken(dst, staging_folder(dst), secret)
    return False


def _has_something(dst: Path) -> bool:
    if not is_remote(dst):
        return dst.exists() and (not dst.is_dir() or any(dst.iterdir()))
    try:
        return any(list_folder(dst, hidden=True))
    except UserError:  # there is no such folder
        return False
