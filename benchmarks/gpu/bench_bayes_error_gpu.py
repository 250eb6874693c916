"""bayes_error with its gradient on a GPU beside chunked products, eager and compiled, and KeOps.

The peers are those of the CPU's benchmark (bench_bayes_error.py), given the same features on the device. Peak
memory is the allocator's, beyond what was there before.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import pytest
import torch
from bench_bayes_error import FEW, Case, chunked, compiled_parts, features_of, keops, ours
from timing import InterleavedOnGpu
from torch import Tensor


@dataclass(frozen=True)
class Size:
    count: int
    depth: int
    targets: dict[str, float]


SIZES = [
    Size(10_000, 512, {}),
    Size(50_000, 512, {"50 ms / ieee": 1, "15 ms / bf16": 1, "1 GB / memory": 1, "compiled": 3, "keops": 10}),
]


def variants_of(size: Size, device: str, compiled: bool) -> dict[str, Callable[[int], tuple[Tensor, Tensor]]]:
    """Value and gradient by each; checked to agree. KeOps computes one FEW-th of the queries."""
    features, labels = (t.to(device) for t in features_of(Case(size.count, size.depth, 1, {})))
    runs: dict[str, Callable] = {p: functools.partial(ours, precision=p) for p in ("ieee", "tf32", "bf16")}
    runs["chunked"] = chunked
    if compiled:
        runs["compiled"] = lambda features, labels: chunked(features, labels, *compiled_parts())
    if find_spec("pykeops"):
        runs["keops"] = keops

    def variant(run: Callable) -> Callable[[int], tuple[Tensor, Tensor]]:
        def call(_: int) -> tuple[Tensor, Tensor]:
            with torch.device(device):
                return run(features, labels)

        return call

    variants = {name: variant(run) for name, run in runs.items()}
    error, _ = variants["ieee"](0)
    for name, run in variants.items():
        found, _ = run(0)
        limit = 1e-4 if name not in ("tf32", "bf16") else 6e-3
        assert (found - error[: len(found)]).abs().max() < limit, f"{name} computes something else"
    return variants


def peak_bytes(run: Callable[[int], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(0)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size.count}x{size.depth}")
def test_bayes_error(benchmark, size, report_figures):
    variants = variants_of(size, "cuda", compiled=True)
    timed = InterleavedOnGpu(variants, calls=1, launched=variants.keys())
    benchmark.pedantic(timed.round, rounds=5, iterations=1)
    seconds = timed.medians()
    if "keops" in seconds:
        seconds["keops"] *= FEW
    memory = peak_bytes(variants["ieee"])
    measured = {name: s / seconds["ieee"] for name, s in seconds.items() if name != "ieee"}
    measured |= {"50 ms / ieee": 0.05 / seconds["ieee"], "15 ms / bf16": 0.015 / seconds["bf16"]}
    measured["1 GB / memory"] = 1e9 / memory
    rates = {
        name: f"{s * 1e3:.1f} ms, {4 * size.count**2 * size.depth / s / 1e12:.1f} TFLOP/s at 4N²D"
        for name, s in seconds.items()
    }
    rates["memory"] = f"{memory / 1e6:.0f} MB more"
    if "keops" not in seconds:
        rates["keops"] = "not measured: pykeops is not installed"
    report_figures(
        f"bayes_error and gradient: N {size.count}, D {size.depth}, GPU",
        {"ours": rates.pop("ieee"), **rates},
        measured,
        {name: target for name, target in size.targets.items() if name in measured},
    )
