"""crop_flip on a GPU beside torchvision v2 and kornia, and a device-to-device copy.

torchvision v2 moves a batch as one, with one draw for all its images; a draw for each image takes a loop,
which is timed as well, on 256 images. kornia draws for each image.
"""

from collections.abc import Callable

import pytest
import torch
from timing import InterleavedOnGpu
from torch import Tensor
from torchvision.transforms import v2

from unlearnable_kernels import crop_flip

PADDING, LOOPED, COPIED = 4, 256, 2**28
LAUNCHED = ("torchvision v2 a batch", "torchvision v2 each", "kornia")  # they draw on the host
TARGETS = {"copy": 0.60, "torchvision v2 a batch": 5}


def torchvision_transform(size: int, dtype: torch.dtype) -> v2.Compose:
    return v2.Compose(
        [v2.RandomCrop(size, padding=PADDING), v2.RandomHorizontalFlip(), v2.ToDtype(dtype, scale=True)]
    )


def kornia_transform(size: int) -> Callable[[Tensor], Tensor] | None:
    try:
        from kornia import augmentation
    except ImportError:
        return None
    transform: Callable[[Tensor], Tensor] = augmentation.AugmentationSequential(
        augmentation.RandomCrop((size, size), padding=PADDING), augmentation.RandomHorizontalFlip()
    )
    return transform


def variants_of(
    batch: int, stored: int, size: int, dtype: torch.dtype, device: str, copied: int = COPIED
) -> dict[str, Callable[[int], object]]:
    """Each takes a number that picks one of four shuffled batches out of ``stored`` images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (stored, size, size, 3), generator=generator, dtype=torch.uint8).to(device)
    index = [torch.randperm(stored, generator=generator)[:batch].to(device) for _ in range(4)]
    offsets = [
        torch.randint(0, 2 * PADDING + 1, (batch, 2), generator=generator).to(device) for _ in range(4)
    ]
    flips = [(torch.rand(batch, generator=generator) < 0.5).to(device) for _ in range(4)]
    source, target = (torch.zeros(copied, dtype=torch.uint8, device=device) for _ in range(2))
    tv, kornia = torchvision_transform(size, dtype), kornia_transform(size)

    def ours(i: int) -> Tensor:
        i %= 4
        return crop_flip(images, offsets[i], flips[i], PADDING, index[i], dtype)

    def gathered(i: int, count: int = batch) -> Tensor:
        return images[index[i % 4][:count]].permute(0, 3, 1, 2)

    def looped(i: int) -> Tensor:
        batch = torch.stack([tv(image) for image in gathered(i, min(LOOPED, len(index[0])))])
        return batch.contiguous(memory_format=torch.channels_last)

    variants: dict[str, Callable[[int], object]] = {
        "ours": ours,
        "copy": lambda _: target.copy_(source),
        "torchvision v2 a batch": lambda i: tv(gathered(i)).contiguous(memory_format=torch.channels_last),
        "torchvision v2 each": looped,
    }
    if kornia is not None:
        variants["kornia"] = lambda i: kornia(gathered(i).float().div(255)).to(
            dtype, memory_format=torch.channels_last
        )
    for name in variants.keys() - {"copy"}:
        result = variants[name](0)
        assert isinstance(result, Tensor)
        assert result.dtype == dtype, name
        assert result.shape[1:] == (3, size, size), name
    return variants


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("batch", "stored", "size"), [(16384, 50_000, 32), (512, 2048, 224)])
def test_crop_flip(benchmark, batch, stored, size, dtype, report_figures):
    timed = InterleavedOnGpu(variants_of(batch, stored, size, dtype, "cuda"), 4, LAUNCHED)
    benchmark.pedantic(timed.round, rounds=10, iterations=1)
    medians = timed.medians()
    each = {
        name: seconds / (LOOPED if name == "torchvision v2 each" else batch)
        for name, seconds in medians.items()
        if name != "copy"
    }
    bytes_each = 3 * size**2 * (1 + dtype.itemsize)
    copy_rate = 2 * COPIED / medians["copy"]
    measured = {name: seconds / each["ours"] for name, seconds in each.items() if name != "ours"}
    measured["copy"] = bytes_each / each["ours"] / copy_rate
    report_figures(
        f"crop_flip {dtype}, batch {batch} of {size}x{size}, GPU",
        {name: f"{1 / s:,.0f} images/s, {bytes_each / s / 1e9:,.0f} GB/s" for name, s in each.items()}
        | {"copy": f"{copy_rate / 1e9:,.0f} GB/s"},
        measured,
        TARGETS,
    )
