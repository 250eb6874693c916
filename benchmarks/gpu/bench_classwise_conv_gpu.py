"""classwise_conv on a GPU beside its peers, on the same images, interleaved in one process.

Peers: (b) one grouped ``F.conv2d`` over the batch and (c) one ``F.conv2d`` a class, each eager and under
``torch.compile``, on at most 4,096 (32×32) or 256 (224×224) of the images; a device-to-device copy; a loop of
fused multiply-adds. All peers end with the same uint8 images, to within 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from bench_classwise_conv import one_grouped, one_per_class
from timing import InterleavedOnGpu, fused_multiply_adds_on_gpu

from unlearnable_kernels import classwise_conv

BUILD = Path(__file__).parents[2] / "build"


@dataclass(frozen=True)
class Case:
    name: str
    count: int
    peer_count: int
    size: int
    k: int
    classes: int
    targets: dict[str, float]


CASES = [
    Case("cifar10", 50_000, 4096, 32, 3, 10, {"copy": 0.40, "best peer": 8}),
    Case("imagenet", 1024, 256, 224, 9, 100, {"fma": 0.50, "best peer": 8}),
]


def variants_of(case: Case, device: str, compiled: bool) -> dict[str, Callable[[int], object]]:
    """Each takes a number that picks one of two sets of images; checked to agree with ours."""
    torch._dynamo.reset()  # or the second case's peers would be compiled for any shape
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(case.count) % case.classes).to(device)
    filters = torch.rand(case.classes, case.k, case.k, generator=generator) * (0.3 if case.k == 3 else 0.06)
    filters[:, 0, 0] = 1
    filters = filters.to(device)
    shape = (case.count, case.size, case.size, 3)
    stored = [
        torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device) for _ in range(2)
    ]
    images = [each.permute(0, 3, 1, 2) for each in stored]
    outs, copies = [torch.empty_like(i) for i in images], [torch.empty_like(s) for s in stored]
    few = slice(0, case.peer_count)
    peers: dict[str, Callable] = {"b": one_grouped, "c": one_per_class}
    if compiled:
        peers |= {f"{name} compiled": torch.compile(peer) for name, peer in tuple(peers.items())}

    def peer_variant(peer: Callable) -> Callable[[int], object]:
        return lambda number: peer(images[number % 2][few], labels[few], filters)

    expected = classwise_conv(images[0], labels, filters)[few].int()
    for name, peer in peers.items():
        difference = (peer_variant(peer)(0).int() - expected).abs()  # type: ignore[attr-defined]
        assert difference.max() <= 1, f"peer {name} computes something else"
    return {
        "ours": lambda i: classwise_conv(images[i % 2], labels, filters, out=outs[i % 2]),
        "copy": lambda i: copies[i % 2].copy_(stored[i % 2]),
        **{name: peer_variant(peer) for name, peer in peers.items()},
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_classwise_conv(benchmark, case, report_figures):
    variants = variants_of(case, "cuda", compiled=True)
    loop, operations = fused_multiply_adds_on_gpu(BUILD)
    timed = InterleavedOnGpu({**variants, "fma": lambda _: loop()}, launched=("c", "c compiled"))
    benchmark.pedantic(timed.round, rounds=20, iterations=1)
    medians = timed.medians()
    elements = 3 * case.size**2
    each = {
        name: seconds / (case.count if name in ("ours", "copy") else case.peer_count)
        for name, seconds in medians.items()
        if name != "fma"
    }
    measured = {name: seconds / each["ours"] for name, seconds in each.items() if name != "ours"}
    measured["best peer"] = min(ratio for name, ratio in measured.items() if name != "copy")
    rate, ceiling = 2 * elements * case.k**2 / each["ours"], operations / medians["fma"]
    measured["fma"] = rate / ceiling
    report_figures(
        f"classwise_conv {case.name}: {case.count} images of {case.size}x{case.size}, k {case.k}, GPU",
        {name: f"{1 / s:,.0f} images/s, {2 * elements / s / 1e9:,.0f} GB/s" for name, s in each.items()}
        | {"fma": f"{ceiling / 1e12:.1f} TFLOP/s"},
        measured,
        case.targets,
    )
