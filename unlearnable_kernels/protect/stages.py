"""``protect_dataset`` in three steps, for many machines: plan, render a part each, put all together."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from unlearnable_kernels.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from unlearnable_kernels.data.remote import is_remote, url_of
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import resumable
from unlearnable_kernels.progress import Notify, Progress, no_progress
from unlearnable_kernels.protect.keys import Secret, is_signed_by
from unlearnable_kernels.protect.notices import notify_result, telling_how_to_resume
from unlearnable_kernels.protect.pipeline.chunk import Chunk
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.pipeline.executors.process import check_process
from unlearnable_kernels.protect.pipeline.job import Job
from unlearnable_kernels.protect.pipeline.plan import Options
from unlearnable_kernels.protect.pipeline.plan_file import load_plan
from unlearnable_kernels.protect.pipeline.probe import refuse_to_mix
from unlearnable_kernels.protect.pipeline.staging import Staging, destination, staging_folder
from unlearnable_kernels.protect.pipeline.uploads import is_finished_there, refuse_taken
from unlearnable_kernels.protect.run import check_exposure, prepare

_NAMED = 5  # missing chunks that a message names


def plan_dataset(
    src: Path,
    dst: Path,
    options: Options,
    *,
    secret: Secret,
    labels: Path | None = None,
    earlier: Sequence[Path] = (),
    accept_exposure: bool = False,
    on_error: str = "raise",
    progress: Progress = no_progress,
    notify: Notify | None = None,
) -> int:
    """Decide what becomes of every picture, and write it to ``dst``.partial for ``render_dataset``.

    What a method optimises over all pictures is made here, too. A plan that was begun before is gone on with,
    as by ``protect_dataset``, whose arguments these are.

    Returns:
        The number of chunks.

    Raises:
        UserError: As ``protect_dataset``, or ``dst`` is there.
    """
    notify = notify or logging.getLogger(__name__).info
    ready = prepare(src, dst, options, secret, labels, on_error, notify)
    _refuse_finished(ready.dst, secret)
    check_exposure(ready.plan, earlier, accept_exposure, notify)
    with resumable(), Staging(ready.dst, secret) as staging:
        _refuse_finished(ready.dst, secret)
        job = Job(ready.source, ready.plan, staging, on_error == "skip", progress)
        with telling_how_to_resume(notify), job.leaving_nothing():
            job.begin(notify)
    return len(job.plan.chunks)


def render_dataset(
    dst: Path,
    *,
    secret: Secret,
    rank: int = 0,
    world: int = 1,
    executor: Executor | None = None,
    rehash: bool = False,
    progress: Progress = no_progress,
    notify: Notify | None = None,
) -> int:
    """Render every ``world``-th chunk of the plan in ``dst``.partial, from chunk ``rank`` on.

    Interrupted, even killed, it goes on when it is called again. Ranks share nothing but the two folders.

    Args:
        dst: What was given to ``plan_dataset``.
        secret: The key that it was given, too.
        rank: From 0 to ``world`` - 1.
        world: How many ranks there are.
        executor: Where; by default on all cores of this machine.
        rehash: As for ``protect_dataset``.
        progress: Takes progress.
        notify: Takes messages of one line.

    Returns:
        The number of chunks of this rank.

    Raises:
        UserError: There is no plan, or this key did not make it, or this machine would write other bytes; or
            as ``protect_dataset``.
    """
    check_process()
    if world < 1:
        raise UserError(f"world must be 1 or more, not {world}")
    if not 0 <= rank < world:
        raise UserError(f"rank must be from 0 to world - 1, which is {world - 1}, not {rank}")
    notify = notify or logging.getLogger(__name__).info

    def mine(index: int) -> bool:
        return index % world == rank

    with _planned(dst, secret, progress, rehash, mine, shared=True) as job, telling_how_to_resume(notify):
        return job.render(executor or Executor(), notify, mine)


def finish_dataset(
    dst: Path,
    *,
    secret: Secret,
    rehash: bool = False,
    progress: Progress = no_progress,
    notify: Notify | None = None,
) -> Path:
    """Put together what was rendered, write the manifest, and give the set its name.

    Args:
        dst: What was given to ``plan_dataset``.
        secret: The key that it was given, too.
        rehash: As for ``protect_dataset``.
        progress: Takes progress.
        notify: Takes messages of one line.

    Returns:
        The path of the manifest.

    Raises:
        UserError: Chunks are missing, a rank is still at work, there is no plan, or this key did not make it.
    """
    notify = notify or logging.getLogger(__name__).info
    with _planned(dst, secret, progress, rehash) as job, telling_how_to_resume(notify):
        manifest = _finished_before(job, secret)
        if manifest is None:
            _refuse_finished(job.staging.dst, secret)
            refuse_to_mix(job.plan.made_on)  # some formats are put together here
            done = job.done()
            _refuse_missing([chunk for chunk in job.plan.chunks if chunk.index not in done], job)
            manifest = job.finish(secret)
        else:
            job.staging.remove()
    notify_result(manifest, len(job.plan.outputs), notify)
    return job.staging.dst / MANIFEST_NAME


@contextmanager
def _planned(
    dst: Path,
    secret: Secret,
    progress: Progress,
    rehash: bool,
    wanted: Callable[[int], bool] = lambda index: True,
    shared: bool = False,
) -> Iterator[Job]:
    dst = destination(Path(dst))
    with resumable(), Staging(dst, secret, planned=True, shared=shared) as staging:
        plan, skip_bad = load_plan(staging.folder, secret, wanted)
        yield Job(plan.task.source, plan, staging, skip_bad, progress, rehash)


def _refuse_finished(dst: Path, secret: Secret) -> None:
    if is_remote(dst):
        refuse_taken(dst, staging_folder(dst), secret)
    elif dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise UserError(
            f"{dst} is there already: choose another name, or look at it with `unlearnable verify`"
        )


def _finished_before(job: Job, secret: Secret) -> Manifest | None:
    """The manifest of what this plan is to become, where an earlier ``finish`` was killed in tidying up."""
    dst = job.staging.dst
    if not (is_finished_there(dst) if is_remote(dst) else (dst / MANIFEST_NAME).is_file()):
        return None
    manifest = read_manifest(dst)
    same = all(manifest.get(name) == value for name, value in job.plan.header.items())
    return manifest if same and is_signed_by(manifest, secret) else None


def _refuse_missing(missing: Sequence[Chunk], job: Job) -> None:
    if missing:
        named = "; ".join(f"chunk {chunk.index}, {chunk.pictures}" for chunk in missing[:_NAMED])
        more = f"; and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise UserError(
            f"{len(missing)} of {len(job.plan.chunks)} chunks are missing: {named}{more}; render them with "
            f"`unlearnable render {url_of(job.staging.dst)}{' --rehash' if job.rehash else ''}`"
        )


def rank_from(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """The rank and the number of ranks that a launcher gives: torchrun and its like, or a SLURM array.

    Args:
        environment: Variables by name.

    Returns:
        (rank, world), by default (0, 1).

    Raises:
        UserError: A variable is no number or missing, or an array was not submitted as a whole.
    """

    def number_in(name: str, default: str = "") -> int:
        text = environment.get(name, default)
        if not text.strip().isdecimal():
            raise UserError(f"the launcher's variable {name} must be a number, not {text!r}")
        return int(text)

    if "RANK" in environment and "WORLD_SIZE" in environment:
        return number_in("RANK"), number_in("WORLD_SIZE")
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return 0, 1
    number, count = number_in("SLURM_ARRAY_TASK_ID"), number_in("SLURM_ARRAY_TASK_COUNT")
    first, step = number_in("SLURM_ARRAY_TASK_MIN", "0"), number_in("SLURM_ARRAY_TASK_STEP", "1")
    rank, rest = divmod(number - first, step or 1)
    if rest or not 0 <= rank < count:
        raise UserError(
            f"task {number} of a SLURM array of {count} tasks from {first} on has no place among them: "
            "submit the whole array again, or give --rank and --world"
        )
    return rank, count
