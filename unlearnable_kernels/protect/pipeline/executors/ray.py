"""Chunks as tasks of Ray Core, on as many machines as its cluster has; they share the source and a folder."""

import fcntl
import os
import re
import socket
from collections.abc import Generator, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.protect.pipeline.chunk import C, Item, R, Work
from unlearnable_kernels.protect.pipeline.executors.local import ATTEMPTS
from unlearnable_kernels.protect.pipeline.executors.process import use_one_thread
from unlearnable_kernels.protect.pipeline.probe import refuse_to_mix
from unlearnable_kernels.protect.pipeline.staging import holding

_AHEAD = 2  # tasks for each core, so that none waits for this process
_PATIENCE = 10.0  # seconds for a machine to answer
_loaded: dict[str, Work[Any, Any]] = {}


def execute(
    rendering: Work[C, R],
    chunks: Iterable[C],
    workers: int | None,
    address: str | None,
    lock: Path | None,
    planned: Mapping[str, str],
) -> Generator[R, None, None]:
    """Render ``chunks``, yielding each result as soon as it is there, in any order.

    Ray itself tries again what a worker or a machine that died was at, ``ATTEMPTS`` times in all.

    Args:
        rendering: What to do with a chunk.
        chunks: What is left to do.
        workers: Tasks at a time; by default as many as the cluster has cores.
        address: Of the cluster; by default the one that RAY_ADDRESS names, otherwise one is started here.
        lock: A file that every task holds a lock of, so that no other run begins while one still lives.
        planned: What each worker compares with its own ``fingerprint()``, unless it is empty.

    Raises:
        UserError: Ray is not installed or not to be reached, a chunk cannot be rendered, workers die of one,
            or one would write other bytes.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before the import, which reads it
    ray = extra_module("ray")
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, workers, address)
    pending: dict[Any, C] = {}
    try:
        # A list, or every task would have its own copy.
        shared = [ray.put(rendering)]
        task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_render)
        left = iter(chunks)
        while True:
            limit = workers or _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while len(pending) < limit and (chunk := next(left, None)) is not None:
                pending[task.remote(shared, chunk, lock, dict(planned))] = chunk
            if not pending:
                return
            done, _ = ray.wait(list(pending))
            for reference in done:
                yield _result(ray, reference, pending.pop(reference))
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def _connect(ray: Any, workers: int | None, address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS") or "local"  # not whatever ran here last
    _refuse_unreachable(address)
    ours = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **ours)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"the Ray cluster at {address} cannot be used: {reason}") from None


def _refuse_unreachable(address: str) -> None:
    """Raise UserError where nobody listens at HOST:PORT, which Ray itself finds out in minutes."""
    if found := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address):
        try:
            socket.create_connection((found[1], int(found[2])), _PATIENCE).close()
        except (OSError, OverflowError, UnicodeError) as error:
            raise UserError(f"the Ray cluster at {address} cannot be used: {error}") from None


def _render(shared: list[Any], chunk: Item, lock: Path | None, planned: dict[str, str]) -> Any:
    """In a worker of the cluster: render a chunk."""
    ray = extra_module("ray")
    name = shared[0].hex()
    if name not in _loaded:
        use_one_thread()
        if planned:
            refuse_to_mix(planned)
        _loaded.clear()
        _loaded[name] = ray.get(shared[0])
    with nullcontext() if lock is None else holding(lock, fcntl.LOCK_SH):
        return _loaded[name].render(chunk)


def _result(ray: Any, reference: Any, chunk: Item) -> Any:
    errors = ray.exceptions
    try:
        return ray.get(reference)
    except errors.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except errors.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"a Ray worker died {ATTEMPTS} times of the same chunk, {chunk.pictures} ({reason}); "
            "run the same command again to resume"
        ) from None
