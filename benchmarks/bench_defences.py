"""What every defence while training costs beside plain training, and filters beside their published way.

The first benchmark takes one step of ResNet-18 at 32×32 with each defence, interleaved in one process; its
figure is the time beside that of plain training. Those that need further passes of the network are given
beside as many passes as they take: at-* and dat one forward and backward pass for each of 10 steps, and
ueraser:mode=max a forward pass for each of 5 copies.

The second takes the filters and displacements alone. Published ways, written from the papers: rsk and
random-blur convolve image by image with F.conv2d, coin samples image by image, and dat has a layer for every
class and back-propagates through all of them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from timing import Interleaved
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels import cpu_capability
from unlearnable_kernels.data.arrays import LabelledImages
from unlearnable_kernels.defences import DEFENCES, Batch
from unlearnable_kernels.defences.coin import displaced
from unlearnable_kernels.defences.dat import deconvolved
from unlearnable_kernels.device import pick_device
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.training import TrainConfig
from unlearnable_kernels.training.loop import engine_for
from unlearnable_kernels.training.processes import Processes

GPU = torch.cuda.is_available()
BATCH = 512 if GPU else 64
STEPS = 20 if GPU else 1
CLASSES = 10
LIMIT = 1.15  # times plain training

# Forward and backward passes beyond the one of plain training, each counted as a whole step.
PASSES = {"at-linf": 10, "dat": 10, "ueraser:mode=max": 5}
CHEAP = (
    "gaussian",
    "smoothing",
    "mixup",
    "cutmix",
    "cutout",
    "autoaugment",
    "random-blur",
    "orthogonal",
    "ueraser",
    "coin",
    "rsk",
)


def random_images(count: int) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return LabelledImages(images, labels, [str(c) for c in range(CLASSES)], [""] * count, None)


def training(defences: list[str]) -> Callable[[], object]:
    device = pick_device()
    config = TrainConfig(".", batch_size=BATCH, defences=defences, amp="bf16" if GPU else None)
    engine = engine_for(config, random_images(STEPS * BATCH), Processes(0, 1, device))
    generator = torch.Generator(device).manual_seed(0)
    return lambda: engine.train_epoch(0, generator, lambda images: None)


@pytest.mark.parametrize("names", [CHEAP, tuple(PASSES)], ids=["augmentation", "passes"])
def test_defences_beside_plain_training(benchmark, names, report_figures):
    if "UNLEARNABLE_CPU_CAPABILITY" in os.environ:
        pytest.skip("the forced AVX2 path is for the operators' own benchmarks")
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        timed = Interleaved({"plain": training([])} | {name: training([name]) for name in names})
        benchmark.pedantic(timed.round, rounds=5 if names == CHEAP else 3, iterations=1)
    times = timed.medians()
    # 1 and above is within the limit: as many steps as it takes, and 15 % of one for all else.
    measured = {
        name: (PASSES.get(name, 0) + LIMIT) * times["plain"] / seconds
        for name, seconds in times.items()
        if name != "plain"
    }
    benchmark.extra_info["medians"] = times
    where = torch.cuda.get_device_name() if GPU else cpu_capability()
    report_figures(
        f"defences: ResNet-18, batches of {BATCH} of 32x32, {where}; limit / share",
        {name: f"{seconds / times['plain']:.3f} of plain training" for name, seconds in times.items()},
        measured,
        dict.fromkeys(measured, 1.0),
    )


@dataclass(frozen=True)
class Filtering:
    images: Tensor
    filters: Tensor
    offsets: Tensor
    labels: Tensor

    def each(self) -> Tensor:
        return torch.arange(len(self.images), device=self.images.device)


def one_by_one(case: Filtering) -> Tensor:
    """Every image as a batch of its channels, with its own filter."""
    pairs = zip(case.images, case.filters, strict=True)
    return torch.stack([functional.conv2d(x[:, None], f[None, None], padding=1)[:, 0] for x, f in pairs])


def sampled_one_by_one(case: Filtering) -> Tensor:
    """Every image padded by the reach and sampled at its own places."""
    height, width = case.images.shape[2:]
    rows = torch.arange(height, device=case.images.device).float()
    columns = torch.arange(width, device=case.images.device).float()
    places = torch.stack(torch.broadcast_tensors(columns, rows[:, None]), 2)
    sampled = []
    for image, offsets in zip(case.images, case.offsets, strict=True):
        padded = functional.pad(image[None], (3, 3, 3, 3), mode="circular")
        grid = 2 * (places + offsets + 3) / places.new_tensor([width + 5, height + 5]) - 1
        sampled.append(functional.grid_sample(padded, grid[None], mode="bilinear", align_corners=True))
    return torch.cat(sampled)


def layers_by_class(case: Filtering, layers: list[nn.Module]) -> Tensor:
    """Every class's images through the layer of the class, and back to the layers."""
    result = torch.empty_like(case.images)
    for label, layer in enumerate(layers):
        mine = (case.labels == label).nonzero()[:, 0]
        chosen = case.images[mine]
        result[mine] = layer(chosen.flatten(0, 1)[:, None]).view_as(chosen)
    result.square().sum().backward()
    return result


def layers_at_once(case: Filtering, layers: Tensor) -> Tensor:
    """The same by the operator, one filter for each image."""
    weights = functional.one_hot(case.labels, CLASSES).float()
    mine = (weights @ layers).requires_grad_()
    result = deconvolved(case.images, mine)
    (gradient,) = torch.autograd.grad(result.square().sum(), mine)
    return weights.T @ gradient


def filtering_case() -> Filtering:
    device = pick_device()
    generator = torch.Generator(device).manual_seed(0)
    images = torch.rand(BATCH, 3, 32, 32, generator=generator, device=device)
    return Filtering(
        images.contiguous(memory_format=torch.channels_last),
        torch.rand(BATCH, 3, 3, generator=generator, device=device),
        4 * torch.rand(BATCH, 32, 32, 2, generator=generator, device=device) - 2,
        torch.randint(CLASSES, (BATCH,), generator=generator, device=device),
    )


def synchronised(run: Callable[[], object]) -> Callable[[], object]:
    def wait() -> None:
        run()
        if GPU:
            torch.cuda.synchronize()

    return wait


def test_filters_beside_their_published_way(benchmark, report_figures):
    if "UNLEARNABLE_CPU_CAPABILITY" in os.environ:
        pytest.skip("the forced AVX2 path is for the operators' own benchmarks")
    case = filtering_case()
    device = case.images.device
    batch = Batch(
        case.images, case.labels, BATCH, slice(None), torch.Generator(device).manual_seed(0), "fp32", CLASSES
    )
    layers = [nn.ConvTranspose2d(1, 1, 3, padding=1).to(device) for _ in range(CLASSES)]
    stacked = torch.stack(
        [torch.cat([layer.weight.detach().flatten(), layer.bias.detach()]) for layer in layers]
    )

    def filtered() -> Tensor:
        return classwise_conv(case.images, case.each(), case.filters, "zeros", "none")

    torch.testing.assert_close(filtered(), one_by_one(case), msg="the peer filters something else")
    torch.testing.assert_close(
        displaced(case.images, case.offsets), sampled_one_by_one(case), atol=1e-4, rtol=0
    )
    pairs = {
        "rsk, random-blur": (filtered, lambda: one_by_one(case)),
        "coin": (lambda: displaced(case.images, case.offsets), lambda: sampled_one_by_one(case)),
        "dat, one step": (lambda: layers_at_once(case, stacked), lambda: layers_by_class(case, layers)),
    }
    whole = {name: DEFENCES.create(name) for name in ("rsk", "random-blur", "coin")}
    variants = {f"{name}: ours": synchronised(ours) for name, (ours, _) in pairs.items()}
    variants |= {f"{name}: published": synchronised(theirs) for name, (_, theirs) in pairs.items()}
    variants |= {
        f"{name} with its draws": synchronised(lambda defence=defence: defence.augment(batch))
        for name, defence in whole.items()
    }
    timed = Interleaved(variants)
    benchmark.pedantic(timed.round, rounds=15, iterations=1)
    times = timed.medians()
    benchmark.extra_info["medians"] = times
    where = torch.cuda.get_device_name() if GPU else cpu_capability()
    report_figures(
        f"filters of defences: {BATCH} of 32x32, {where}; published / ours",
        {name: f"{1000 * seconds:.2f} ms" for name, seconds in times.items()},
        {name: times[f"{name}: published"] / times[f"{name}: ours"] for name in pairs},
        {},
    )
