"""Several command lines in one fresh process."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import fresh_process

PLUGIN = Path(__file__).parent / "plugin"
PROGRAM = """
import contextlib, io, json, sys
from unlearnable_kernels.__main__ import main

sys.path.insert(0, sys.argv.pop(1))  # as PYTHONPATH has it, which was read before
results = []
for arguments in json.loads(sys.argv.pop()):
    sys.argv[1:] = arguments
    status, output, errors = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
    results.append((status, output.getvalue(), errors.getvalue()))
print(json.dumps(results))
"""


class Result(NamedTuple):
    status: int
    output: str
    errors: str


def unlearnable(folder: Path, *commands: str, plugins: Path = PLUGIN) -> list[Result]:
    """Run commands in ``folder``, with the packages in ``plugins`` installed."""
    path = os.pathsep.join([str(plugins), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    words = json.dumps([command.split() for command in commands])
    process = fresh_process.run(PROGRAM, plugins, words, env=os.environ | {"PYTHONPATH": path}, cwd=folder)
    return [Result(*each) for each in json.loads(process.stdout)]
