"""bayes_ascent_step on a GPU beside the composition in plain PyTorch, eager and compiled, and our own parts.

The peers are those of the CPU's benchmark (bench_bayes_ascent_step.py), with their tensors on the device.
"""

from collections.abc import Callable

import pytest
import torch
from bench_bayes_ascent_step import CASES, CLASSES, STEP, Case, parts, plain
from timing import InterleavedOnGpu
from torch import Tensor

from unlearnable_kernels import bayes_ascent_step

TARGETS = {"eager": 3, "compiled": 1}


def variants_of(case: Case, device: str, compiled: bool) -> dict[str, Callable[[int], tuple[Tensor, Tensor]]]:
    """The next x and the errors by each; checked to agree."""
    generator = torch.Generator().manual_seed(0)
    origin = torch.rand(case.count, 3, case.size, case.size, generator=generator)
    labels = (torch.arange(case.count) % CLASSES).to(device)
    step, eps = STEP[case.norm]
    noise = torch.rand(origin.shape, generator=generator) - 0.5
    x, origin = (origin + 0.1 * eps * noise).clamp(0, 1).to(device), origin.to(device)
    runs: dict[str, Callable] = {"eager": plain(compiled=False), "parts": parts}
    if compiled:
        runs["compiled"] = plain(compiled=True)

    def variant(run: Callable) -> Callable[[int], tuple[Tensor, Tensor]]:
        def call(_: int) -> tuple[Tensor, Tensor]:
            with torch.device(device):
                return run(x, labels, origin, case)

        return call

    def ours(_: int) -> tuple[Tensor, Tensor]:
        return bayes_ascent_step(x, labels, origin, CLASSES, case.bandwidth, step, eps, case.norm)

    expected, error = ours(0)
    variants = {"ours": ours, **{name: variant(run) for name, run in runs.items()}}
    for name, run in variants.items():
        moved, found = run(0)
        assert (found - error).abs().max() < 1e-3, f"{name} computes something else"
        # A gradient near 0 may have another sign: few pixels may differ by up to two steps.
        assert ((moved - expected).abs() > 1e-3).double().mean() < 0.01, f"{name} computes something else"
    return variants


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bayes_ascent_step(benchmark, case, report_figures):
    variants = variants_of(case, "cuda", compiled=True)
    timed = InterleavedOnGpu(variants, calls=4, launched=variants.keys())
    benchmark.pedantic(timed.round, rounds=10, iterations=1)
    seconds = timed.medians()
    report_figures(
        f"bayes_ascent_step {case.name}: {case.count} of 3x{case.size}x{case.size}, GPU",
        {name: f"{s * 1e3:.3f} ms" for name, s in seconds.items()},
        {name: s / seconds["ours"] for name, s in seconds.items() if name != "ours"},
        TARGETS if case.count == 512 else {},
    )
