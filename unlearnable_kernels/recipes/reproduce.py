"""Measuring rows of the papers' tables: protect, train, test, and one JSON file for each row.

Read ``reproduce`` first. Rows share what they have in common: a protected set is made once, and of equal
trainings one is run. Both stay in a work folder, where what was interrupted goes on.
"""

import fcntl
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.errors import BusyError, UserError
from unlearnable_kernels.files import writing
from unlearnable_kernels.progress import Notify, Progress, no_progress
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.pipeline.staging import holding
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.recipes.detections import run_detection
from unlearnable_kernels.recipes.effort import extent, on_one_bar, protection_effort, training_effort
from unlearnable_kernels.recipes.jobs import (
    WHERE,
    Job,
    ProtectedSet,
    Scale,
    dataset_names,
    place,
    plan,
    whole_name,
)
from unlearnable_kernels.recipes.papers import ROWS
from unlearnable_kernels.recipes.row import DETECTED, Row
from unlearnable_kernels.recipes.summary import summarise
from unlearnable_kernels.training import train
from unlearnable_kernels.training.processes import is_first_process

_BETWEEN_TRIES = 1.0  # seconds


def reproduce(
    rows: Sequence[Row],
    work: Path,
    results: Path,
    *,
    seeds: int = 1,
    scale: Scale | None = None,
    data: Mapping[str, str] | None = None,
    rank: int = 0,
    world: int = 1,
    progress: Progress = no_progress,
    notify: Notify = lambda message: None,
) -> dict[str, dict[str, Any] | None]:
    """Measure rows, and write what came out.

    Several processes may do so at once in one ``work``: what another one is making is waited for.

    Args:
        rows: None that lacks something.
        work: Folder for protected sets and runs; whatever is finished in it is not done again.
        results: Folder for the JSON files.
        seeds: How many runs a row has, with the seeds from 0 on.
        scale: What to leave out.
        data: Where data sets are, by the names that rows have for them; the name itself by default.
        rank: Which part of the trainings to do; the parts share ``work`` and ``results``.
        world: How many parts there are.
        progress: Called with shares of all that is left to do.
        notify: Takes messages of one line: what is waited for.

    Returns:
        For each row's name what its JSON file holds; None where another part has not finished its trainings.

    Raises:
        UserError: A row cannot be run, a value is out of range, or as ``protect_dataset`` and ``train`` do.
    """
    scale = scale or Scale()
    if seeds < 1:
        raise UserError(f"seeds must be at least 1, not {seeds}")
    if not 0 <= rank < world:
        raise UserError(f"rank must be from 0 to {world - 1}, one of world {world}, not {rank}")
    for row in rows:
        if row.lacking:
            raise UserError(f"{row.name} cannot be run: it needs {row.lacking}")
    names = dataset_names(rows)
    known = sorted({whole_name(name) for name in names | dataset_names(ROWS.values())})
    for name in data or {}:
        if name not in known:
            raise UserError(f"data: no row's data set is called {name!r}; there are {', '.join(known)}")
    places = {name: place(name, {**WHERE, **(data or {})}) for name in names}
    jobs = {row.name: [plan(row, seed, work, places, scale) for seed in range(seeds)] for row in rows}
    run_jobs(jobs, work, rank, world, progress, notify)
    found: dict[str, dict[str, Any] | None] = {}
    for row in rows:
        ready = all(job.finished for job in jobs[row.name])
        found[row.name] = summarise(jobs[row.name], scale, results) if ready else None
    return found


def run_jobs(
    jobs: Mapping[str, Sequence[Job]],
    work: Path,
    rank: int,
    world: int,
    progress: Progress,
    notify: Notify,
) -> None:
    """Do this part of the trainings, each once, and what has to be protected for them."""
    groups: dict[Path, dict[Path, Job]] = {}  # what begins with the same weights stays together
    for job in (job for part in jobs.values() for job in part):
        first = job.pretraining or job
        groups.setdefault(first.folder, {first.folder: first})[job.folder] = job
    mine = [job for group in list(groups.values())[rank::world] for job in group.values()]
    efforts = _efforts(mine)
    for job, effort, report in zip(mine, efforts, on_one_bar(progress, efforts), strict=True):
        for each in _wanted(job):
            protect = functools.partial(_protect, job, each, _told_apart(job, each, report))
            _patiently(protect, f"makes the protected set of {job.title}, {each.place}", notify)
        one = functools.partial(_train, job, work / "locks" / job.folder.name, report)
        _patiently(one, f"does the training of {job.title}, {job.folder}", notify)
        for what in effort:
            report(what, 1, 1)  # even where another process did it


def _efforts(jobs: Sequence[Job]) -> list[dict[str, int]]:
    """What is left to do of each job; a set that several share is that of the first one."""
    sets: set[Path] = set()
    efforts: list[dict[str, int]] = []
    for job in jobs:
        effort: dict[str, int] = {}
        for each in _wanted(job):
            if each.place in sets or each.place.exists():
                continue
            sets.add(each.place)
            method = METHODS.create(each.method)
            of_it = protection_effort(method, job.config.image_size, extent(job.source))
            effort |= {_step(job, each, what): operations for what, operations in of_it.items()}
        if not job.finished and job.row.test != DETECTED:
            effort |= training_effort(job.config, extent(job.source))
        efforts.append(effort)
    return efforts


def _wanted(job: Job) -> tuple[ProtectedSet, ...]:
    """The sets of a job; none where the last one is there and what it was made from is not any more."""
    there = [each.place.exists() for each in job.sets]
    return () if there and there[-1] and not all(there) else job.sets


def _step(job: Job, each: ProtectedSet, what: str) -> str:
    """What is reported of a set, told apart from the same of the set that is made from it."""
    return what if each is job.sets[-1] else f"{what}, before"


def _told_apart(job: Job, each: ProtectedSet, report: Progress) -> Progress:
    return lambda what, done, count: report(_step(job, each, what), done, count)


def _protect(job: Job, each: ProtectedSet, progress: Progress) -> None:
    """Make a protected set of a job. Raises BusyError while another process does."""
    original = open_source(Path(job.source))
    protect_dataset(
        Path(each.source),
        each.place,
        secret=job.key,
        method=METHODS.create(each.method),
        format=each.stored_as or original.lossless_as,
        resize=job.config.image_size,
        dataset_name=original.name,
        progress=progress,
    )


def _train(job: Job, lock: Path, progress: Progress) -> None:
    """Do the training, or the detection, of a job. Raises BusyError while another process does."""
    if job.finished:
        return
    with _alone(lock):
        if job.row.test == DETECTED:
            assert job.protected is not None
            run_detection(Path(job.source), job.protected, job.seed, job.folder)
        else:
            train(job.config, job.folder, progress)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock, which the system frees when this process dies. Raises BusyError where another has it."""
    if not is_first_process():  # of several that train together
        yield
        return
    with ExitStack() as held:
        with writing(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(holding(lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                raise BusyError(f"another process holds {lock}") from None
        yield


def _patiently(action: Callable[[], None], what: str, notify: Notify) -> None:
    """Do what another process may be doing: then wait until it has done it, or died."""
    waiting = False
    while True:
        try:
            action()
            return
        except BusyError:
            if not waiting:
                notify(f"waiting for another process, which {what}")
            waiting = True
            time.sleep(_BETWEEN_TRIES)
