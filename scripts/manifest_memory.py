"""Time and memory of planning, resuming, finishing and verifying a tree of very many tiny pictures.

What workers do, which depends on no number of pictures, is left out: links to one picture stand for what
they would write, with the records that they would leave. `render` then finds everything done.

Example: python scripts/manifest_memory.py /tmp/many --json build/manifest-memory.json
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from unlearnable_kernels.data.images import encode
from unlearnable_kernels.environment import machine, versions
from unlearnable_kernels.files import write_json
from unlearnable_kernels.protect.keys import create_key_file, read_key_file
from unlearnable_kernels.protect.pipeline.chunk import Result
from unlearnable_kernels.protect.pipeline.plan_file import read_chunks
from unlearnable_kernels.protect.pipeline.records import Records

CLASSES = 1000
PICTURE = encode(np.full((4, 4, 3), 90, np.uint8), "png")
STEPS = ("plan", "render", "finish", "verify")


def make_tree(root: Path, count: int) -> None:
    """``count`` pictures in ``CLASSES`` class folders below train/, all links to one file a class."""
    for label in range(CLASSES):
        folder = root / "train" / f"n{label:08d}"
        folder.mkdir(parents=True)
        first = folder / f"n{label:08d}_0.JPEG"
        first.write_bytes(PICTURE)
        for number in range(1, count // CLASSES + (label < count % CLASSES)):
            os.link(first, folder / f"n{label:08d}_{number}.JPEG")


def stand_in(partial: Path, key: Path) -> None:
    """What rendering the plan in ``partial`` would have left."""
    secret = read_key_file(key)
    records = Records(partial / "records", secret)
    picture = partial.parent / "picture"
    picture.write_bytes(PICTURE)
    digest = hashlib.sha256(PICTURE).hexdigest()
    for chunk in read_chunks(partial, secret):
        first = partial / "tree" / chunk.outputs[0]
        shutil.copy(picture, first)  # a file has room for some 65,000 links
        for name in chunk.outputs[1:]:
            os.link(first, partial / "tree" / name)
        count = len(chunk.samples)
        records.add(chunk, Result(chunk.index, [digest] * count, {}, [len(PICTURE)] * count))


def memory(process: int) -> int:
    """Bytes that a process and its descendants take, what they share counted once."""
    total = 0
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(memory(int(child)) for child in (task / "children").read_text().split())
    return total


def measure(command: list[str]) -> dict[str, float]:
    """Run a command: processor seconds, the peak of its own process, and of all its processes, in MB."""
    together = 0
    process = subprocess.Popen(command)
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        together = max(together, memory(process.pid))
        time.sleep(1)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return {
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "own_megabytes": round(usage.ru_maxrss * 1024 / 1e6),
        "all_megabytes": round(together / 1e6),
    }


def main(folder: Path, count: int) -> dict[str, Any]:
    make_tree(folder / "src", count)
    create_key_file(folder / "key")
    program = [sys.executable, "-m", "unlearnable_kernels"]
    dst, key = str(folder / "dst"), ["--key-file", str(folder / "key")]
    commands = {
        "plan": ["plan", str(folder / "src"), dst, *key, "--method", "classwise-conv:kernel_size=3"],
        "render": ["render", dst, *key, "--rank", "0", "--world", "1"],
        "finish": ["finish", dst, *key],
        "verify": ["verify", dst, *key],
    }
    found: dict[str, dict[str, float]] = {}
    for step in STEPS:
        if step == "render":
            stand_in(folder / "dst.partial", folder / "key")
        found[step] = measure([*program, *commands[step]])
        print(step, found[step], flush=True)
    size = sum(path.stat().st_size for path in (folder / "dst").glob("manifest*")) / 1e6
    record = {"what": "a tree through manifest_memory.py", "images": count, "manifest_megabytes": round(size)}
    return record | {"machine": machine(), "versions": versions(), "memory": found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="to create, and to delete again")
    parser.add_argument("--count", type=int, default=1_281_167)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args()
    try:
        given.folder.mkdir(parents=True)
    except OSError as error:
        sys.exit(f"manifest_memory: cannot create {given.folder}: {error.strerror}")
    try:
        figures = main(given.folder, given.count)
    finally:
        shutil.rmtree(given.folder, ignore_errors=True)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, figures)
