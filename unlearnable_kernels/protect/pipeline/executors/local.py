"""Chunks over worker processes that never outlive, nor outwrite, the process that started them."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import ModuleType

import torch

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.pipeline.chunk import Chunk, Rendering, Result
from unlearnable_kernels.protect.pipeline.executors.script import import_script, pickled

_AHEAD = 2
# Imported once for all workers; one that is missing is named where an image needs it.
_CODECS = ("cv2", "isal.isal_zlib", "simplejpeg", "PIL.Image")

_rendering: Rendering
_failure: UserError | None = None
_held: list[Connection] = []


def execute(
    rendering: Rendering, chunks: Sequence[Chunk], workers: int, lock: int
) -> Generator[Result, None, None]:
    """Render ``chunks``, yielding each result as soon as it is there, in any order.

    Args:
        rendering: What to do with a chunk.
        chunks: What is left to do.
        workers: Number of processes; 0 renders in this one.
        lock: Descriptor of the staging folder's lock. Workers hold it too, so that no other run begins while
            one of them still lives.

    Raises:
        UserError: A chunk cannot be rendered, a worker died, or one cannot import what it needs.
    """
    if workers == 0:
        yield from map(rendering.render, chunks)
        return
    needed = pickled(rendering)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_CODECS])
    ours, theirs = context.Pipe(duplex=False)
    lock_held = Connection(os.dup(lock))
    pool = ProcessPoolExecutor(workers, context, _start, (*needed, ours, lock_held))
    try:
        yield from _in_flight(pool, chunks, _AHEAD * workers)
    except BrokenProcessPool:
        raise UserError(
            "a worker process died, perhaps for lack of memory; "
            "run the same command again to resume, with fewer workers"
        ) from None
    finally:
        # The workers end when this end of the pipe closes, in the middle of a chunk if need be.
        theirs.close()
        pool.shutdown(cancel_futures=True)
        ours.close()
        lock_held.close()


def _in_flight(pool: ProcessPoolExecutor, chunks: Sequence[Chunk], limit: int) -> Iterator[Result]:
    pending: set[Future[Result]] = set()
    queue = iter(chunks)
    exhausted = False
    while pending or not exhausted:
        while len(pending) < limit and not exhausted:
            chunk = next(queue, None)
            if chunk is None:
                exhausted = True
            else:
                with _without_main(), _uninterrupted():
                    pending.add(pool.submit(_render, chunk))
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


@contextmanager
def _without_main() -> Iterator[None]:
    """Workers started meanwhile do not run the caller's script again, as they otherwise would.

    They seldom need it, see ``script``, so scripts need no guard, and notebooks and standard input work too.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait: a worker that is half started when they come dies with a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(rendering: bytes, script: str | None, parent: Connection, lock: Connection) -> None:
    global _rendering, _failure
    # Kept open until the process ends: that holds the lock.
    _held.append(lock)
    # They end with the process that started them, which says what is to be said.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)
    try:
        if script is not None:
            import_script(script)
        _rendering = pickle.loads(rendering)
    except UserError as error:
        _failure = error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _failure = UserError(f"a worker process cannot import the method or format ({reason})")


def _end_with(parent: Connection) -> None:
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _render(chunk: Chunk) -> Result:
    if _failure is not None:
        raise _failure
    return _rendering.render(chunk)
