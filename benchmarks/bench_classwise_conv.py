"""classwise_conv on the CPU beside its peers, on the same images, interleaved in one process.

Peers, each in the fastest form found: (a) the released program's way, one ``F.conv2d`` an image; (b) one
grouped ``F.conv2d`` over the batch; (c) one ``F.conv2d`` per class, channels-last; (d) OpenCV's ``filter2D``
for each image; (e) a plain copy of the bytes. All but (e) end with the same uint8 images, to within 1.
(a) and (d) take a fixed time for each image, and run on at most 512 of the others' images.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timing import Interleaved, Variants, fused_multiply_adds
from torch import Tensor

from unlearnable_kernels import classwise_conv, cpu_capability

BUILD = Path(__file__).parents[1] / "build"


@dataclass(frozen=True)
class Case:
    name: str
    count: int
    size: int
    k: int
    classes: int
    strength: float
    rounds: int
    peers: str
    targets: dict[str, float] = field(default_factory=dict)


CASES = [
    Case("cifar10", 5000, 32, 3, 10, 0.3, 15, "abcd", {"c": 17, "d": 30, "b": 50, "a": 140, "copy": 0.35}),
    Case("tiny-imagenet", 2000, 64, 9, 100, 0.06, 7, "abcd", {"best of b and c": 5}),
    Case("imagenet", 256, 224, 9, 100, 0.06, 7, "abcd", {"c": 9, "fma": 0.6}),
]
AVX2_CASE = Case("cifar10 avx2", 5000, 32, 3, 10, 0.3, 15, "c", {"c": 5})


def to_bytes(filtered: Tensor) -> Tensor:
    peak = filtered.amax(dim=(-3, -2, -1), keepdim=True)
    return filtered.div_(peak).mul_(255).clamp_(0, 255).to(torch.uint8)


def one_per_image(images: Tensor, labels: list[int], filters: Tensor) -> Tensor:
    k = filters.shape[-1]
    weights = [f.expand(3, 1, k, k).contiguous() for f in filters]
    convolved = (
        F.conv2d(image.float().div_(255)[None], weights[label], padding=k // 2, groups=3)
        for image, label in zip(images, labels, strict=True)
    )
    return torch.cat([to_bytes(y) for y in convolved])


def one_grouped(images: Tensor, labels: Tensor, filters: Tensor) -> Tensor:
    n, c, h, w = images.shape
    x = images.float().div_(255).contiguous().view(1, n * c, h, w)
    weights = filters[labels].repeat_interleave(c, 0)[:, None]
    return to_bytes(F.conv2d(x, weights, padding=filters.shape[-1] // 2, groups=n * c).view(n, c, h, w))


def one_per_class(images: Tensor, labels: Tensor, filters: Tensor) -> Tensor:
    out, k = torch.empty_like(images), filters.shape[-1]
    for label, weight in enumerate(filters):
        members = (labels == label).nonzero()[:, 0]
        x = images[members].float().div_(255).contiguous(memory_format=torch.channels_last)
        out[members] = to_bytes(F.conv2d(x, weight.expand(3, 1, k, k), padding=k // 2, groups=3))
    return out


def opencv(images: np.ndarray, labels: list[int], filters: np.ndarray, out: np.ndarray) -> np.ndarray:
    import cv2

    for image, label, to in zip(images, labels, out, strict=True):
        y = cv2.filter2D(image * np.float32(1 / 255), -1, filters[label], borderType=cv2.BORDER_CONSTANT)
        np.multiply(y, 255 / y.max(), out=to, casting="unsafe")
    return out


def variants_of(case: Case, stored: Tensor) -> Variants:
    generator = torch.Generator().manual_seed(0)
    images, labels = stored.permute(0, 3, 1, 2), torch.arange(case.count) % case.classes
    filters = torch.rand(case.classes, case.k, case.k, generator=generator) * case.strength
    filters[:, 0, 0] = 1
    out, copied, numpy_out = torch.empty_like(images), torch.empty_like(stored), np.empty_like(stored.numpy())
    few = torch.arange(case.count)[:: max(1, case.count // 512)]  # (a) and (d) are linear in the images
    some, some_labels = images[few], labels[few].tolist()
    variants: Variants = {
        "ours": lambda: classwise_conv(images, labels, filters, out=out),
        "copy": lambda: copied.copy_(stored),
        "a": lambda: one_per_image(some, some_labels, filters),
        "b": lambda: one_grouped(images, labels, filters),
        "c": lambda: one_per_class(images, labels, filters),
        "d": lambda: opencv(stored[few].numpy(), some_labels, filters.numpy(), numpy_out[: len(few)]),
    }
    expected = classwise_conv(images, labels, filters)
    rearranged = expected[few].permute(0, 2, 3, 1)
    for peer, mine in (("a", expected[few]), ("b", expected), ("c", expected), ("d", rearranged)):
        difference = (torch.as_tensor(variants[peer]()).int() - mine.int()).abs()
        assert difference.max() <= 1, f"peer {peer} computes something else"
    return {name: run for name, run in variants.items() if name in ("ours", "copy", *case.peers)}


def images_of(case: Case) -> Tensor:
    """Photographs where UNLEARNABLE_DATA has them, scaled to the case's size, else noise."""
    root = os.environ.get("UNLEARNABLE_DATA")
    files = (
        sorted((Path(root).expanduser() / "tiny-imagenet-200" / "val").rglob("*.JPEG"))[:256] if root else []
    )
    if not files:
        generator = torch.Generator().manual_seed(1)
        shape = (case.count, case.size, case.size, 3)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    import cv2

    photos = [cv2.resize(cv2.imread(str(f)), (case.size, case.size)) for f in files]
    return torch.from_numpy(np.stack([photos[i % len(photos)] for i in range(case.count)]))


def seconds_per_image(case: Case, medians: dict[str, float]) -> dict[str, float]:
    few = len(range(0, case.count, max(1, case.count // 512)))
    return {name: s / (few if name in "ad" else case.count) for name, s in medians.items() if name != "fma"}


def figures(case: Case, each: dict[str, float]) -> dict[str, float]:
    """Ours against every peer: how many times as fast, and the fractions of copy and FMA rate reached."""
    ratios = {name: seconds / each["ours"] for name, seconds in each.items() if name != "ours"}
    if "b" in ratios and "c" in ratios:
        ratios["best of b and c"] = min(ratios["b"], ratios["c"])
    return ratios


@pytest.mark.parametrize("case", [*CASES, AVX2_CASE], ids=lambda case: case.name)
def test_classwise_conv(benchmark, case, report_figures):
    used = cpu_capability()
    if (case is AVX2_CASE) != ("UNLEARNABLE_CPU_CAPABILITY" in os.environ):
        pytest.skip("the forced AVX2 path runs in a process of its own, and nothing else there")
    multiply_adds = fused_multiply_adds(BUILD)
    timed = Interleaved({**variants_of(case, images_of(case)), "fma": multiply_adds})
    benchmark.pedantic(timed.round, rounds=case.rounds, iterations=1)
    medians = timed.medians()
    each = seconds_per_image(case, medians)
    measured = figures(case, each)
    elements = 3 * case.size**2
    rate = 2 * elements * case.k**2 / each["ours"]
    measured["fma"] = rate / (multiply_adds() / medians["fma"])
    benchmark.extra_info["medians"] = medians
    report_figures(
        f"classwise_conv {case.name}: {case.count} images of {case.size}x{case.size}, k {case.k}, {used}",
        {name: f"{1 / s:,.0f} images/s, {2 * elements / s / 1e9:.2f} GB/s" for name, s in each.items()},
        measured,
        case.targets,
    )
