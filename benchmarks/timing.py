"""The one way this project takes times: variants interleaved in one process, medians, ratios."""

import ctypes
import statistics
import subprocess
import time
from collections.abc import Callable, Collection
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


class InterleavedOnGpu(Interleaved):
    """The same between device events. A variant is called with a number that picks one of several inputs.

    A CUDA graph of ``calls`` calls is replayed, so that short kernels are not timed by how fast Python
    launches them; those in ``launched``, which wait for the device or draw on the host, are called instead.
    Enough inputs to rotate among, beyond the size of the L2 cache, are the caller's part.
    """

    def __init__(
        self,
        variants: dict[str, Callable[[int], object]],
        calls: int = 8,
        launched: Collection[str] = (),
    ) -> None:
        self.calls = calls
        super().__init__(
            {name: self._repeated(run, graphed=name not in launched) for name, run in variants.items()}
        )

    def _repeated(self, run: Callable[[int], object], graphed: bool) -> Callable[[], object]:
        def repeat() -> None:
            for number in range(self.calls):
                run(number)

        if not graphed:
            return repeat
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())  # which may still be writing the inputs
        with torch.cuda.stream(side):
            repeat()  # compiles, and fills the allocator's pools
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            repeat()
        return graph.replay

    def round(self) -> None:
        for name, run in self.variants.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            run()
            end.record()
            end.synchronize()
            self.seconds[name].append(start.elapsed_time(end) / 1e3 / self.calls)


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


def fused_multiply_adds_on_gpu(build: Path) -> tuple[Callable[[], object], float]:
    """A function that launches an FMA loop on the whole GPU, and the floating-point operations of a call."""
    source, library = Path(__file__).with_name("roofline.cu"), build / "roofline_gpu.so"
    build.mkdir(parents=True, exist_ok=True)
    major, minor = torch.cuda.get_device_capability()
    command = ["nvcc", "-O3", f"-arch=sm_{major}{minor}", "-shared", "-Xcompiler", "-fPIC", str(source)]
    subprocess.run([*command, "-o", str(library)], check=True)
    launch = ctypes.CDLL(str(library)).fused_multiply_adds
    launch.restype = ctypes.c_int
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    blocks, threads, chains, rounds = 8 * processors, 256, 8, 20_000
    sink = torch.zeros(1, device="cuda")

    def run() -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        error = launch(blocks, threads, rounds, ctypes.c_void_p(sink.data_ptr()), stream)
        if error != 0:
            raise RuntimeError(f"the FMA loop was not launched: CUDA error {error}")

    return run, 2.0 * blocks * threads * chains * rounds
