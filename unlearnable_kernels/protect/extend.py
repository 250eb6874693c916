"""Growing a protected dataset: new pictures and classes come in, and what is published keeps its bytes."""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from unlearnable_kernels.data.formats.loose import open_training_images
from unlearnable_kernels.data.images import decode
from unlearnable_kernels.data.manifest import MANIFEST_NAME
from unlearnable_kernels.data.named import find
from unlearnable_kernels.data.quality import quality_text
from unlearnable_kernels.data.remote import require_local
from unlearnable_kernels.data.source import Source
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import resumable, write_file
from unlearnable_kernels.progress import Notify, Progress, no_progress
from unlearnable_kernels.protect.growth import Earlier, check_moved, grown, nothing_new, read_earlier
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.notices import (
    notify_about,
    notify_skipped,
    notify_unprotected,
    telling_how_to_resume,
)
from unlearnable_kernels.protect.pipeline.chunk import Chunk, Result
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.pipeline.executors.process import check_process
from unlearnable_kernels.protect.pipeline.job import Job
from unlearnable_kernels.protect.pipeline.plan import Options, Plan, make_plan
from unlearnable_kernels.protect.pipeline.staging import RESTORES_NAME, Staging, destination
from unlearnable_kernels.protect.run import around, check_on_error, check_places


def extend_dataset(
    src: Path,
    dst: Path,
    *,
    secret: Secret,
    prune: bool = False,
    accept_exposure: bool = False,
    labels: Path | None = None,
    workers: int | None = None,
    on_error: str = "raise",
    rehash: bool = False,
    progress: Progress = no_progress,
    notify: Notify | None = None,
) -> Path:
    """Add to a protected dataset what its source has more of by now.

    ``dst`` is whole, old or new, at every moment; what is interrupted goes on when it is called again.

    Args:
        src: The source, with what was protected before and more.
        dst: What ``protect_dataset`` made of it; its manifest says how.
        secret: The key.
        prune: Whether to remove what is gone from the source.
        accept_exposure: Whether to publish in a second way what seems to have moved to another class.
        labels: As for ``protect_dataset``, and so are the others.
        workers: Processes that write images.
        on_error: "raise" or "skip".
        rehash: Whether to look at the pictures even where no name and no size says that anything is new.
        progress: Takes progress.
        notify: Takes messages of one line.

    Returns:
        The path of the manifest.

    Raises:
        UserError: ``dst`` is not whole or cannot grow, a picture was changed or, without ``prune``, is gone,
            or, without ``accept_exposure``, seems to have moved; or as ``protect_dataset`` does.
    """
    check_process()
    check_on_error(on_error)
    executor = Executor(workers=workers)
    notify = notify or logging.getLogger(__name__).info
    dst = _local(dst)
    read_earlier(dst, secret)
    source = _opened(src, dst, labels, on_error)
    notify_about(source, notify)
    with resumable(), Staging(dst, secret) as staging:
        staging.refuse_run(RESTORES_NAME)
        try:
            # Within the lock: another process may have changed it meanwhile.
            earlier = read_earlier(dst, secret)
            plan = grown(make_plan(source, secret, earlier.options, on_error), earlier, prune)
            check_moved(plan, earlier, accept_exposure, notify)
            notify_unprotected(plan, notify)
            if not rehash and nothing_new(plan, earlier):
                staging.remove()
                notify(f"{dst} has all of it already, by names and sizes")
                return dst / MANIFEST_NAME
        except UserError:
            if staging.is_bare:
                staging.remove()
            raise
        # What takes the place of a finished set is worth the hashing.
        job = Job(source, plan, staging, on_error == "skip", progress, rehash=True)
        job.drop_another()
        with telling_how_to_resume(notify):
            with job.leaving_nothing():
                job.begin(notify)
                job.render(executor, notify)
            try:
                kept = keep_published(job.plan, earlier, job.result, staging.tree)
            except UserError:
                staging.remove()
                raise
            manifest = job.finish(secret, replacing=True, kept=kept)
    before, now = earlier.published.keys(), {entry.file for entry in manifest.entries()}
    looks = quality_text(manifest.get("picture_quality"))
    notify(
        f"added {len(now - before)} pictures and removed {len(before - now)}; {dst} has {len(now)}"
        + (f"; {looks}" if looks else "")
    )
    notify_skipped(manifest, notify)
    return dst / MANIFEST_NAME


def options_of(dst: Path, secret: Secret) -> Options:
    """What a finished set was made with, and so grows with. Raises UserError as ``extend_dataset`` does."""
    return read_earlier(_local(dst), secret).options


def check_extending(
    src: Path,
    dst: Path,
    *,
    secret: Secret,
    prune: bool,
    accept_exposure: bool,
    labels: Path | None,
    on_error: str,
    rehash: bool,
    bad: Collection[str],
    notify: Notify,
) -> None:
    """Tell what ``extend_dataset`` with these arguments would add and remove, and write nothing.

    Pictures that were changed under their names are found when they are protected again, not here, but for
    those that are ``bad`` by now: names of the source's files that cannot be protected.

    Raises:
        UserError: As ``extend_dataset`` does.
    """
    dst = _local(dst)
    source, earlier = _opened(src, dst, labels, on_error), read_earlier(dst, secret)
    plan = grown(make_plan(source, secret, earlier.options, on_error), earlier, prune)
    staging = Staging(dst, secret)
    staging.check()
    staging.refuse_run(RESTORES_NAME)
    check_moved(plan, earlier, accept_exposure, notify)
    notify_unprotected(plan, notify)
    before = earlier.published.keys()
    spoilt = {out for name, out in zip(plan.task.names, plan.outputs, strict=True) if name in bad}
    if before & spoilt and (rehash or not nothing_new(plan, earlier)):
        raise _another_original(min(before & spoilt))
    now = set(plan.outputs) - (spoilt - before)
    notify(f"would add {len(now - before)} pictures and remove {len(before - now)}")


def _local(dst: Path) -> Path:
    require_local(Path(dst), "extended")
    return destination(Path(dst))


def _opened(src: Path, dst: Path, labels: Path | None, on_error: str) -> Source:
    check_places(find(src), dst)
    source = open_training_images(src, labels, on_error)
    check_places(around(src, source), dst)
    return source


def keep_published(
    plan: Plan, earlier: Earlier, result_of: Callable[[Chunk], Result], tree: Path
) -> dict[int, Result]:
    """Put the earlier set's own bytes into the new tree.

    Args:
        plan: As ``grown`` gave it.
        earlier: The set that grows.
        result_of: What was rendered of a chunk.
        tree: Where it lies.

    Returns:
        For chunks with other bytes than were rendered, by their numbers, the results with their digests.

    Raises:
        UserError: A picture of the source has changed since.
    """
    published = earlier.published
    kept: dict[int, Result] = {}
    for chunk in plan.chunks:
        result = result_of(chunk)
        digests = list(result.sha256)
        for position, name in enumerate(chunk.outputs):
            if name in published and digests[position] != published[name]:
                _put_back(earlier.dst / name, tree / name, name)
                digests[position] = published[name]
        if digests != result.sha256:
            kept[chunk.index] = replace(result, sha256=digests)
    return kept


def _put_back(before: Path, new: Path, name: str) -> None:
    data = before.read_bytes()
    # Another version of a library may write the same pixels in other bytes.
    if not new.is_file() or not np.array_equal(decode(data, name), decode(new.read_bytes(), name)):
        raise _another_original(name)
    write_file(new, data)


def _another_original(name: str) -> UserError:
    return UserError(
        f"{shown(name)} has another original now than when it was published, and two versions of one "
        "picture can give its filter away: bring the old one back, or add the new one under another name"
    )
