"""Chunks over worker processes that never outlive, nor outwrite, the process that started them."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import MappingProxyType, ModuleType
from typing import Any, Generic

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.pipeline.chunk import C, Item, R, Work
from unlearnable_kernels.protect.pipeline.executors.process import (
    check_may_start_workers,
    is_copy,
    use_one_thread,
)
from unlearnable_kernels.protect.pipeline.executors.script import import_script, pickled
from unlearnable_kernels.protect.pipeline.probe import refuse_to_mix

ATTEMPTS = 3
# Imported once for all workers; one that is missing is named where an image needs it.
_CODECS = ("cv2", "isal.isal_zlib", "simplejpeg", "PIL.TiffImagePlugin", "PIL.WebPImagePlugin")

_held: list[Connection] = []


def execute(
    rendering: Work[C, R],
    chunks: Iterable[C],
    workers: int,
    lock: int | None,
    planned: Mapping[str, str] = MappingProxyType({}),
) -> Generator[R, None, None]:
    """Render ``chunks``, yielding each result as soon as it is there, in any order.

    A worker that dies is replaced, and its chunk tried again, ``ATTEMPTS`` times in all.

    Args:
        rendering: What to do with a chunk.
        chunks: What is left to do, taken one by one as workers are free.
        workers: Number of processes; 0 renders in this one.
        lock: Descriptor of the staging folder's lock, if there is one. Workers hold it too, so that no other
            run begins while one of them still lives.
        planned: What each worker compares with its own ``fingerprint()``, unless it is empty.

    Raises:
        UserError: A chunk cannot be rendered, workers die of one, one cannot import what it needs, or would
            write other bytes.
    """
    if workers == 0:
        if planned:
            refuse_to_mix(planned)
        yield from map(rendering.render, chunks)
        return
    check_may_start_workers()
    needed = pickled(rendering)
    # On macOS the system's libraries may not survive a fork; the fork server of another process is not ours.
    context: ForkServerContext | SpawnContext
    if sys.platform == "linux" and not is_copy():
        context = multiprocessing.get_context("forkserver")
    else:
        context = multiprocessing.get_context("spawn")
    context.set_forkserver_preload([__name__, *_CODECS])
    ours, theirs = context.Pipe(duplex=False)
    lock_held = None if lock is None else Connection(os.dup(lock))
    pool: _Pool[C, R] = _Pool(context, (*needed, ours, lock_held, dict(planned)))
    try:
        yield from pool.results(chunks, workers)
    finally:
        # The workers end when this end of the pipe closes, in the middle of a chunk if need be.
        theirs.close()
        pool.join()
        ours.close()
        if lock_held is not None:
            lock_held.close()


class _Pool(Generic[C, R]):
    """Worker processes, each with a pipe of its own, so that it is known of which chunk one died."""

    def __init__(self, context: ForkServerContext | SpawnContext, arguments: tuple[Any, ...]) -> None:
        self._context, self._arguments = context, arguments
        self._processes: list[BaseProcess] = []
        self._busy: dict[Connection, C] = {}

    def results(self, chunks: Iterable[C], workers: int) -> Iterator[R]:
        left = iter(chunks)
        deaths: Counter[int] = Counter()
        for chunk in islice(left, workers):
            self._busy[self._start()] = chunk
        for connection, chunk in self._busy.items():
            _send(connection, chunk)
        while self._busy:
            for ready in wait(list(self._busy)):
                assert isinstance(ready, Connection)
                chunk = self._busy.pop(ready)
                answer: R | BaseException | None = _receive(ready)
                following: C | None
                if answer is None:
                    ready.close()
                    deaths[chunk.index] += 1
                    if deaths[chunk.index] == ATTEMPTS:
                        raise _died(chunk)
                    ready, following = self._start(), chunk
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    following = next(left, None)
                # Before the result is dealt with, so that the worker need not wait for that.
                if following is not None:
                    self._busy[ready] = following
                    _send(ready, following)
                if answer is not None:
                    yield answer

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        with _without_main(), _uninterrupted():
            process = self._context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
            process.start()
        theirs.close()
        self._processes.append(process)
        return ours

    def join(self) -> None:
        """Wait until all of them have ended."""
        for process in self._processes:
            process.join()


def _send(connection: Connection, chunk: Item) -> None:
    with suppress(OSError):  # a worker that died meanwhile is noticed when its answer is awaited
        connection.send(chunk)


def _receive(connection: Connection) -> Any:
    """What a worker made of its chunk; None if it died."""
    try:
        answer, trace = connection.recv()
    except (EOFError, OSError):
        return None
    if isinstance(answer, BaseException) and not isinstance(answer, UserError):
        answer.__cause__ = RuntimeError(trace)  # as it was raised there
    return answer


def _died(chunk: Item) -> UserError:
    return UserError(
        f"a worker process died {ATTEMPTS} times of the same chunk, {chunk.pictures}, perhaps for lack of "
        "memory; run the same command again to resume, with fewer workers"
    )


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


def _serve(
    answers: Connection,
    rendering: bytes,
    script: str | None,
    parent: Connection,
    lock: Connection | None,
    planned: dict[str, str],
) -> None:
    # Kept open until the process ends: that holds the lock.
    if lock is not None:
        _held.append(lock)
    # They end with the process that started them, which says what is to be said.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    use_one_thread()
    ready: Work[Any, Any] | None = None
    with suppress(EOFError, OSError):
        while True:
            chunk = answers.recv()
            try:
                ready = ready or _unpickled(rendering, script, planned)
                answer: Any = ready.render(chunk)
            except Exception as error:
                _answer(answers, error, traceback.format_exc())
            else:
                answers.send((answer, ""))


def _answer(answers: Connection, error: Exception, trace: str) -> None:
    try:
        answers.send((error, trace))
    except (pickle.PicklingError, AttributeError, TypeError):
        answers.send((RuntimeError(f"{type(error).__name__}: {error}"), trace))


def _unpickled(rendering: bytes, script: str | None, planned: dict[str, str]) -> Work[Any, Any]:
    if planned:
        refuse_to_mix(planned)
    try:
        if script is not None:
            import_script(script)
        made: Work[Any, Any] = pickle.loads(rendering)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"a worker process cannot import the method or format ({reason})") from None
    return made


def _end_with(parent: Connection) -> None:
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
