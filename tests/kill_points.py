"""Kills runs of protect and --extend at every call that changes the disk, and runs them again.

A program of its own, since kill_points.c must be preloaded: it imports once and forks for each kill.
Arguments: the built kill_points.c, an empty folder, and for each case its name, the number of workers, and
the number of calls from one kill to the next. Writes a line of JSON for each case: the number of kills, and
what went wrong.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unlearnable_kernels.data.manifest import MANIFEST_NAME
from unlearnable_kernels.protect.extend import extend_dataset
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.pipeline import plan
from unlearnable_kernels.protect.run import protect_dataset

KEY = Key(bytes(range(32)))
FAILED = 3
ALWAYS: dict[str, Any] = {"secret": KEY, "on_error": "skip", "notify": lambda _: None}
CASES: dict[str, Callable[[Path, int], object]] = {
    "png": lambda folder, workers: protect_dataset(folder / "src", folder / "dst", workers=workers, **ALWAYS),
    "npz": lambda folder, workers: protect_dataset(
        folder / "src", folder / "dst", workers=workers, format="npz", **ALWAYS
    ),
    "webdataset": lambda folder, workers: protect_dataset(
        folder / "src", folder / "dst", workers=workers, format="webdataset:shard_size=2", **ALWAYS
    ),
    "extend": lambda folder, workers: extend_dataset(
        folder / "more", folder / "dst", workers=workers, prune=True, **ALWAYS
    ),
}


def make_sources(folder: Path) -> None:
    """Two classes, one unreadable picture; and the same with a picture less and a class more."""
    for number in range(5):
        place = folder / "src" / "train" / f"c{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    (folder / "src" / "train" / "c0" / "bad.png").write_bytes(b"no picture")
    shutil.copytree(folder / "src", folder / "more")
    (folder / "more" / "train" / "c0" / "0.png").unlink()
    shutil.copytree(folder / "more" / "train" / "c1", folder / "more" / "train" / "b")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_at(number: int, run: Callable[[], object]) -> bool:
    """Run in a process that ends at its ``number``-th call; whether it, or a worker, came to that."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        shim.arm(number)
        with contextlib.suppress(BaseException):
            run()
            os._exit(0)
        os._exit(FAILED)  # its worker was killed
    _, status = os.waitpid(child, 0)
    shim.arm(0)
    return status != 0


def try_all(folder: Path, case: str, workers: int, stride: int) -> dict[str, Any]:
    """Kill at the first call and every ``stride``-th after it."""
    dst, staging = folder / "dst", folder / "dst.partial"
    earlier = folder / "earlier"
    begin = (lambda: shutil.copytree(earlier, dst)) if case == "extend" else (lambda: None)
    run = CASES[case]
    begin()
    run(folder, 0)
    whole = contents(dst)
    wrong: list[str] = []
    kills, number = 0, 1
    while True:
        shutil.rmtree(dst)
        begin()
        before = contents(dst)
        if not killed_at(number, lambda: run(folder, workers)):
            break
        kills += 1
        if contents(dst) not in (before, whole):
            wrong.append(f"{number}: neither old nor new")
        try:
            run(folder, 0)
        except BaseException as error:
            wrong.append(f"{number}: {type(error).__name__}: {error}")
            shutil.rmtree(staging, ignore_errors=True)
            dst.mkdir(exist_ok=True)
        after = contents(dst)
        wrong += [
            f"{number}: {name}" for name in sorted({*whole, *after}) if whole.get(name) != after.get(name)
        ]
        if staging.exists():
            wrong.append(f"{number}: {staging.name} is left")
        number += stride
    shutil.rmtree(dst)
    return {"case": case, "workers": workers, "kills": kills, "wrong": wrong}


def main(folder: Path, *cases: str) -> None:
    plan.CHUNK_IMAGES = 2
    make_sources(folder)
    CASES["png"](folder, 0)
    (folder / "dst").rename(folder / "earlier")
    assert (folder / "earlier" / MANIFEST_NAME).is_file()
    # Processes that import everything anew take seconds; forked ones do what is to be watched all the same.
    forked = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda *_: forked  # type: ignore[assignment,method-assign]
    for name, workers, stride in zip(cases[::3], cases[1::3], cases[2::3], strict=True):
        print(json.dumps(try_all(folder, name, int(workers), int(stride))), flush=True)


if __name__ == "__main__":
    shim = ctypes.CDLL(sys.argv[1])
    main(Path(sys.argv[2]), *sys.argv[3:])
