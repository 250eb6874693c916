"""The one way this project takes times: variants interleaved in one process, medians, ratios."""

import ctypes
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

Variants = dict[str, Callable[[], object]]


class Interleaved:
    """Calls every variant once a round, in turn, so that a machine whose speed swings is fair to all."""

    def __init__(self, variants: Variants) -> None:
        self.variants = variants
        self.seconds: dict[str, list[float]] = {name: [] for name in variants}
        for run in variants.values():
            run()

    def round(self) -> None:
        for name, run in self.variants.items():
            time.sleep(0.01)  # until the last variant's threads no longer wait actively
            start = time.perf_counter()
            run()
            self.seconds[name].append(time.perf_counter() - start)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(seconds) for name, seconds in self.seconds.items()}


def fused_multiply_adds(build: Path) -> Callable[[], float]:
    """A function that runs an FMA loop on every thread and returns the floating-point operations done."""
    source = Path(__file__).with_name("roofline.cpp")
    library = build / "roofline.so"
    build.mkdir(parents=True, exist_ok=True)
    command = ["c++", "-O3", "-march=native", "-shared", "-fPIC", "-pthread", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    run = ctypes.CDLL(str(library)).fused_multiply_adds
    run.restype = ctypes.c_double
    return lambda: run(torch.get_num_threads(), ctypes.c_long(2_000_000))
