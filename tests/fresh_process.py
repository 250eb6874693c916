"""Processes that are fresh but for their imports: torch and this package, whose import takes seconds.

They are forked from one that has imported these and done nothing since, so that environment variables which
are read once, threads, memory and whatever else a program sets up are still its own.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

# What the interpreter, the loader and the imports need of the environment; programs bring the rest.
AT_START = (
    "PATH",
    "HOME",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "ASAN_OPTIONS",
    "UBSAN_OPTIONS",
    "OMP_NUM_THREADS",
)
SERVER = """
import json, os, sys, traceback
import torch, unlearnable_kernels

def run(program, arguments, environment, folder, outputs):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["-c", *arguments]
    for number, path in zip((1, 2), outputs):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def _server(start: tuple[tuple[str, str], ...]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SERVER]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen(command, env=dict(start), text=True, **pipes)
    atexit.register(server.communicate)  # its input ends, and with that the server
    return server


def run(
    program: str,
    *arguments: object,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    start: dict[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a program, given as text, as ``subprocess.run`` would; it must succeed.

    Args:
        program: Python.
        *arguments: In sys.argv.
        env: Its environment variables, by default those of this process.
        cwd: Its working folder.
        start: Environment variables that are there already when Python starts and the imports are made.
    """
    env = start or env or dict(os.environ)
    start = start or {name: value for name, value in os.environ.items() if name in AT_START}
    server, words = _server(tuple(start.items())), [str(each) for each in arguments]
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("output", "errors")]
        for path in outputs:
            path.touch()
        order = [program, words, env, str(cwd or Path.cwd()), [str(path) for path in outputs]]
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        output, errors = (path.read_text() for path in outputs)
    assert status == 0, errors
    return subprocess.CompletedProcess([program, *words], status, output, errors)
