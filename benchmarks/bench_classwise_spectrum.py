"""classwise_spectrum on the CPU beside its peers, on the same images, interleaved in one process.

Peers, class by class and each in the fastest form found: ``matmul``, the transforms as products with the
cosine basis; ``torch.fft``, each transform by one complex or real FFT of the reordered rows (Makhoul, 1980);
``scipy``, ``scipy.fft.dctn`` on all threads. All end with the same uint8 images, to within 1. ``copy`` is a
plain copy of the bytes. The share of the FMA rate counts each addition, multiplication or multiply-add that
the kernel's sums need as one instruction of that loop, and conversions, loads and transposes as none.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import scipy.fft
import torch
from timing import Interleaved, Variants, fused_multiply_adds
from torch import Tensor

from unlearnable_kernels import classwise_spectrum, cpu_capability
from unlearnable_kernels.ops.cosine_transform import stages

BUILD = Path(__file__).parents[1] / "build"
SINES = 3


@dataclass(frozen=True)
class Case:
    name: str
    count: int
    size: int
    classes: int
    rounds: int
    target: float


CASES = [
    Case("cifar10", 2000, 32, 10, 15, 5),
    Case("tiny-imagenet", 500, 64, 20, 9, 4),
    Case("imagenet", 48, 224, 8, 9, 3),
]

Transform = Callable[[Tensor], Tensor]


def basis(n: int) -> Tensor:
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / (2 * n) * k * (2 * i + 1)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def by_matmul(size: int, device: str = "cpu") -> tuple[Transform, Transform]:
    d = basis(size).to(device)
    return lambda x: d @ x @ d.T, lambda x: d.T @ x @ d


def by_torch_fft(size: int, device: str = "cpu") -> tuple[Transform, Transform]:
    half = size // 2 + 1
    order = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2).flip(0)]).to(device)
    back = order.argsort()
    scale = torch.full((size,), math.sqrt(2 / size), device=device)
    scale[0] /= math.sqrt(2)
    turn = torch.polar(torch.ones(size), -math.pi / (2 * size) * torch.arange(size)).to(device)

    def forward(x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x[..., order])
        turned = spectrum * turn[:half]
        rest = -turned.imag[..., 1 : size - half + 1].flip(-1)  # X[n − k] = −Im of the same product
        return torch.cat([turned.real, rest], -1) * scale

    def inverse(x: Tensor) -> Tensor:
        x = x / scale
        mirrored = torch.cat([torch.zeros_like(x[..., :1]), x.flip(-1)[..., :-1]], -1)
        spectrum = torch.complex(x[..., :half], -mirrored[..., :half]) * turn[:half].conj()
        return torch.fft.irfft(spectrum, size)[..., back]

    def both(one: Transform) -> Transform:
        return lambda x: one(one(x).mT).mT

    return both(forward), both(inverse)


def by_scipy(size: int) -> tuple[Transform, Transform]:
    def with_threads(function: Callable) -> Transform:
        return lambda x: torch.from_numpy(
            function(x.numpy(), axes=(2, 3), norm="ortho", workers=torch.get_num_threads())
        )

    return with_threads(scipy.fft.dctn), with_threads(scipy.fft.idctn)


def unfused(
    images: Tensor,
    members: list[Tensor],
    weights: Tensor,
    curves: Tensor,
    transforms: tuple[Transform, Transform],
) -> Tensor:
    forward, inverse = transforms
    out = torch.empty_like(images)
    for label, indices in enumerate(members):
        x = forward(images[indices].float().div_(255).contiguous())
        matrix = weights[label].permute(2, 3, 0, 1).contiguous()
        mixed = matrix[:, 0] * x[:, :1]
        for d in (1, 2):
            mixed.addcmul_(matrix[:, d], x[:, d : d + 1])
        y = inverse(mixed)
        z = y.clone()
        for f in range(SINES):
            amplitudes, phases = curves[label, :, f, :, None, None].unbind(1)
            z.addcmul_(amplitudes, (y * (1.5 * math.pi * (f + 1))).add_(phases).sin_())
        out[indices] = z.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    return out


def variants_of(case: Case) -> Variants:
    generator = torch.Generator().manual_seed(0)
    shape = (case.count, case.size, case.size, 3)
    stored = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    images, labels = stored.permute(0, 3, 1, 2), torch.arange(case.count) % case.classes
    mixing = torch.randn(case.classes, case.size, case.size, 3, 3, generator=generator)
    weights = torch.eye(3) + 0.1 * mixing
    curves = 0.02 * torch.randn(case.classes, 3, SINES, 2, generator=generator)
    members = [(labels == label).nonzero()[:, 0] for label in range(case.classes)]
    copied, expected = torch.empty_like(stored), classwise_spectrum(images, labels, weights, curves)
    variants: Variants = {
        "ours": lambda: classwise_spectrum(images, labels, weights, curves),
        "copy": lambda: copied.copy_(stored),
    }
    peers = {"matmul": by_matmul, "torch.fft": by_torch_fft, "scipy": by_scipy}
    for name, make in peers.items():
        transforms = make(case.size)
        variants[name] = lambda of=transforms: unfused(images, members, weights, curves, of)
        difference = (variants[name]().int() - expected.int()).abs()
        assert difference.max() <= 1, f"peer {name} computes something else"
    return variants


def operations(size: int) -> float:
    """Instructions of arithmetic that one element takes."""
    terms = 0
    for inverse in (False, True):
        for _, coefficients in stages(size, inverse=inverse):
            counts = (coefficients != 0).sum(0)
            units = (coefficients.abs() == 1).sum(0)
            terms += int((counts - (units > 0).int()).sum())  # a sum's first input costs nothing unscaled
    sine = 3 + 1 + 4 + 2 + 2
    return 2 * terms / size + 4 + SINES * sine + 4


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_classwise_spectrum(benchmark, case, report_figures):
    multiply_adds = fused_multiply_adds(BUILD)
    timed = Interleaved({**variants_of(case), "fma": multiply_adds})
    benchmark.pedantic(timed.round, rounds=case.rounds, iterations=1)
    medians = timed.medians()
    each = {name: seconds / case.count for name, seconds in medians.items() if name != "fma"}
    ratios = {name: seconds / each["ours"] for name, seconds in each.items() if name != "ours"}
    ratios["best"] = min(ratios[name] for name in ("matmul", "torch.fft", "scipy"))
    elements = 3 * case.size**2
    rate = 2 * elements * operations(case.size) / each["ours"]
    ratios["fma"] = rate / (multiply_adds() / medians["fma"])
    benchmark.extra_info["medians"] = medians
    report_figures(
        f"classwise_spectrum {case.name}: {case.count} images of {case.size}x{case.size}, {cpu_capability()}",
        {name: f"{1 / s:,.0f} images/s, {2 * elements / s / 1e9:.2f} GB/s" for name, s in each.items()},
        ratios,
        {"best": case.target},
    )
