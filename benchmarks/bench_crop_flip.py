"""crop_flip on the CPU beside its peers, on the same stored images, interleaved in one process.

Peers, all from the same stored bytes to a float32 batch: (a) torchvision v2's transforms image by image, as
datasets apply them; (b) the same transforms once on the whole batch, which draws one crop for all images;
(c) kornia's, batched, with a draw for every image, where kornia is installed; (d) one gather by indices from
the padded images; (e) a plain copy of the float32 batch. (a) and (c) run on at most 64 of the images.
"""

from dataclasses import dataclass

import pytest
import torch
from timing import Interleaved, Variants
from torch import Tensor
from torchvision.transforms import v2

from unlearnable_kernels import cpu_capability, crop_flip

try:
    import kornia.augmentation as kornia
except ImportError:
    kornia = None

FEW = 64


@dataclass(frozen=True)
class Case:
    name: str
    batch: int
    size: int
    stored: int
    padding: int


CASES = [
    Case("cifar10", 512, 32, 50_000, 4),
    Case("tiny-imagenet", 256, 64, 10_000, 8),
    Case("imagenet", 64, 224, 1024, 28),
]


def gathered(stored: Tensor, offsets: Tensor, flips: Tensor, padding: int, index: Tensor) -> Tensor:
    images = stored[index]
    batch, height, width, _ = images.shape
    rows = torch.arange(height) + offsets[:, :1]
    columns = torch.arange(width).expand(batch, width)
    columns = torch.where(flips[:, None], width - 1 - columns, columns) + offsets[:, 1:]
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    cut = padded[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).float().div_(255)


def variants_of(case: Case) -> Variants:
    generator = torch.Generator().manual_seed(0)
    shape = (case.stored, case.size, case.size, 3)
    stored = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    index = torch.randint(case.stored, (case.batch,), generator=generator)
    offsets = torch.randint(2 * case.padding + 1, (case.batch, 2), generator=generator)
    flips = torch.randint(2, (case.batch,), generator=generator).bool()
    call = (stored, offsets, flips, case.padding, index)
    transform = v2.Compose(
        [
            v2.RandomCrop(case.size, padding=case.padding),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    few = index[:FEW]
    source = crop_flip(*call)
    target = torch.empty_like(source)
    assert torch.equal(source, gathered(*call)), "peer d computes something else"
    variants: Variants = {
        "ours": lambda: crop_flip(*call),
        "ours bfloat16": lambda: crop_flip(*call, torch.bfloat16),
        "copy": lambda: target.copy_(source),
        "a torchvision": lambda: torch.stack([transform(stored[n].permute(2, 0, 1)) for n in few.tolist()]),
        "b torchvision, one draw": lambda: transform(stored[index].permute(0, 3, 1, 2)),
        "d gather": lambda: gathered(*call),
    }
    if kornia is not None:
        both = torch.nn.Sequential(
            kornia.RandomCrop((case.size, case.size), padding=case.padding), kornia.RandomHorizontalFlip()
        )
        variants["c kornia"] = lambda: both(stored[few].permute(0, 3, 1, 2).float().div_(255))
    return variants


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_crop_flip(benchmark, case, report_figures):
    timed = Interleaved(variants_of(case))
    benchmark.pedantic(timed.round, rounds=15, iterations=1)
    medians = timed.medians()
    few = ("a torchvision", "c kornia")
    each = {name: s / (FEW if name in few else case.batch) for name, s in medians.items()}
    measured = {name: s / each["ours"] for name, s in each.items() if not name.startswith(("ours", "copy"))}
    values = 3 * case.size**2
    copied = 8 * values / each["copy"]
    measured["copy rate"] = 5 * values / each["ours"] / copied
    measured["copy rate, bfloat16"] = 3 * values / each["ours bfloat16"] / copied
    benchmark.extra_info["medians"] = medians
    missing = "" if kornia is not None else "; kornia is not installed, so peer c is left out"
    report_figures(
        f"crop_flip {case.name}: {case.batch} of {case.size}x{case.size}, {cpu_capability()}{missing}",
        {name: f"{1 / s:,.0f} images/s" for name, s in each.items()},
        measured,
        {},
    )
