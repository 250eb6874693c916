"""Killed at the calls that change the disk: run again, a set has the bytes of an uninterrupted run."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
# (case, workers, calls from one kill to the next by day); `make fuzz` kills at every call.
CASES = [("png", 0, 4), ("npz", 0, 5), ("webdataset", 0, 23), ("extend", 0, 4)]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD and renameat2")
def test_a_kill_at_any_call_that_changes_the_disk_leaves_no_trace(tmp_path: Path) -> None:
    library = tmp_path / "kill_points.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, TESTS / "kill_points.c", "-ldl"],
        check=True,
    )
    all_points = settings.get_current_profile_name() == "night"
    cases = [(name, str(workers), str(1 if all_points else stride)) for name, workers, stride in CASES]
    # In memory where that is possible: every run flushes its file system.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        found = subprocess.run(
            [sys.executable, TESTS / "kill_points.py", library, folder, *(word for c in cases for word in c)],
            stdout=subprocess.PIPE,
            check=True,
            env=os.environ | {"LD_PRELOAD": str(library)},
        )
    results = [json.loads(line) for line in found.stdout.splitlines()]
    for result in results:
        print(result)
    assert [result["wrong"] for result in results] == [[]] * len(CASES)
    assert all(result["kills"] * stride > 45 for result, (*_, stride) in zip(results, CASES, strict=True))
