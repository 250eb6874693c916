"""classwise_spectrum on a GPU beside its peers, on the same images, interleaved in one process.

Peers, as on the CPU class by class: ``matmul``, the transforms as products with the cosine basis, and
``torch.fft``; a device-to-device copy of the bytes. Peers take at most 4,096 (32×32) or 256 (224×224) of the
images and end with the same uint8 images, to within 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from bench_classwise_spectrum import SINES, by_matmul, by_torch_fft, unfused
from timing import InterleavedOnGpu

from unlearnable_kernels import classwise_spectrum


@dataclass(frozen=True)
class Case:
    name: str
    count: int
    peer_count: int
    size: int
    classes: int
    targets: dict[str, float]


CASES = [
    Case("cifar10", 50_000, 4096, 32, 10, {"best peer": 5}),
    Case("imagenet", 1024, 256, 224, 10, {"best peer": 3}),
]


def variants_of(case: Case, device: str) -> dict[str, Callable[[int], object]]:
    """Each takes a number that picks one of two sets of images; checked to agree with ours."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(case.count) % case.classes).to(device)
    mixing = torch.randn(case.classes, case.size, case.size, 3, 3, generator=generator)
    weights = (torch.eye(3) + 0.1 * mixing).to(device)
    curves = (0.02 * torch.randn(case.classes, 3, SINES, 2, generator=generator)).to(device)
    shape = (case.count, case.size, case.size, 3)
    stored = [
        torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device) for _ in range(2)
    ]
    images, copies = [each.permute(0, 3, 1, 2) for each in stored], [torch.empty_like(s) for s in stored]
    members = [(labels[: case.peer_count] == label).nonzero()[:, 0] for label in range(case.classes)]
    variants: dict[str, Callable[[int], object]] = {
        "ours": lambda i: classwise_spectrum(images[i % 2], labels, weights, curves),
        "copy": lambda i: copies[i % 2].copy_(stored[i % 2]),
    }
    expected = classwise_spectrum(images[0], labels, weights, curves)[: case.peer_count].int()
    for name, make in {"matmul": by_matmul, "torch.fft": by_torch_fft}.items():
        transforms = make(case.size, device)

        def peer(i: int, of: tuple = transforms) -> torch.Tensor:
            return unfused(images[i % 2][: case.peer_count], members, weights, curves, of)

        assert (peer(0).int() - expected).abs().max() <= 1, f"peer {name} computes something else"
        variants[name] = peer
    return variants


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_classwise_spectrum(benchmark, case, report_figures):
    timed = InterleavedOnGpu(variants_of(case, "cuda"))
    benchmark.pedantic(timed.round, rounds=20, iterations=1)
    elements = 3 * case.size**2
    each = {
        name: seconds / (case.count if name in ("ours", "copy") else case.peer_count)
        for name, seconds in timed.medians().items()
    }
    measured = {name: seconds / each["ours"] for name, seconds in each.items() if name != "ours"}
    measured["best peer"] = min(measured["matmul"], measured["torch.fft"])
    report_figures(
        f"classwise_spectrum {case.name}: {case.count} images of {case.size}x{case.size}, GPU",
        {name: f"{1 / s:,.0f} images/s, {2 * elements / s / 1e9:,.0f} GB/s" for name, s in each.items()},
        measured,
        case.targets,
    )
