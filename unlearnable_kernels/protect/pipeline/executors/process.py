"""What kind of process this is, such as one that imports a script, a copy or a daemon, and what follows."""

import multiprocessing
import os
import sys
from contextlib import suppress

import torch

from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.pipeline.executors.script import imported_script

_imported_in = os.getpid()


def check_process() -> None:
    """Before anything is protected: a script must not do it when it is imported; a copy takes one thread.

    Raises:
        UserError: This process imports a script, as its main one, and would start processes without end.
    """
    guard = "put what it runs under `if __name__ == '__main__':`"
    if script := imported_script():
        raise UserError(
            f"{script} defines what it protects with, so worker processes import it: {guard}, "
            "or give workers=0"
        )
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself asks
        raise UserError(f"{sys.argv[0]} protects when a process that it starts imports it: {guard}")
    if is_copy():
        use_one_thread()


def is_copy() -> bool:
    """Whether this process was forked from one that had imported this package.

    Of that it has neither the threads of OpenMP, for which it would wait for ever, nor the fork server.
    """
    return os.getpid() != _imported_in


def default_workers() -> int:
    """One for each core; none in a daemon, such as a process of ``multiprocessing.Pool``."""
    return 0 if multiprocessing.current_process().daemon else usable_cores()


def check_may_start_workers() -> None:
    """Check that this process is no daemon.

    Raises:
        UserError: It is one.
    """
    if multiprocessing.current_process().daemon:
        raise UserError(
            "a daemon, such as a process of multiprocessing.Pool, cannot start worker processes: "
            "workers must be 0 here, or left out"
        )


def use_one_thread() -> None:
    """Where there are as many processes as cores, or the threads are another process's."""
    torch.set_num_threads(1)
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)
