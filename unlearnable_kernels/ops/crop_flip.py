"""Random crop and flip: from stored bytes to the network's input, in one pass.

    y[b, c, u, v] = x̄[n, u + i − p, w + j − p, c] / 255      n = index[b], (i, j) = offsets[b]         (C1)

    w = W − 1 − v where flips[b], else v;  x̄ = 0 outside the image                                     (C2)

docs/maths.md numbers the equations. Every draw comes in as a tensor, so the operator itself is no random one.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from unlearnable_kernels.ops.library import define

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MAX_PADDING = 2**30

SCHEMA = (
    "crop_flip(Tensor images, Tensor offsets, Tensor flips, int padding=4, Tensor? index=None,"
    " ScalarType dtype=float32) -> Tensor"
)


def crop_flip(
    images: Tensor,
    offsets: Tensor,
    flips: Tensor,
    padding: int = 4,
    index: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Cut a window out of every zero-padded image, mirror it or not, and cast it to what networks take.

    Args:
        images: uint8 ``[N, H, W, C]``, stored; any strides, but others than contiguous are copied first.
        offsets: int64 ``[B, 2]``: row and column of the window's corner in the image padded by ``padding``
            on every side, each in ``[0, 2·padding]``; ``padding`` itself is the image's own place.
        flips: bool ``[B]``: whether the window is mirrored left to right.
        padding: zeros added on every side before the H×W window is cut out, in ``[0, 2³⁰]``.
        index: int64 ``[B]``, each in ``[0, N)``: the stored image of every batch entry; None: all of them
            in order, B = N. A shuffled batch thus needs no gathered copy.
        dtype: float32, bfloat16, float16 or float64.

    Returns:
        ``[B, C, H, W]`` of ``dtype``, channels-last in memory: byte/255 rounded to float32, then to
        ``dtype``, with 0 outside the image; the same on every backend. Not differentiable.

    Raises:
        RuntimeError: an argument is not as said here; the message names it, its value and what is allowed.
            On a GPU an offset or index out of range stops the kernel instead, and reads nothing.
    """
    result: Tensor = torch.ops.unlearn.crop_flip(images, offsets, flips, padding, index, dtype)
    return result


def check_arguments(
    images: Tensor, offsets: Tensor, flips: Tensor, padding: int, index: Tensor | None, dtype: torch.dtype
) -> None:
    """What can be told without reading a value; ``csrc/cpu/crop_flip.cpp`` refuses the same."""

    def check(condition: bool, message: str) -> None:
        if not condition:
            raise RuntimeError(f"crop_flip: {message}")

    def check_vector(name: str, tensor: Tensor, wanted: torch.dtype, written: str) -> None:
        check(
            tensor.dim() == 1 and tensor.dtype == wanted,
            f"{name} must be {written} [B], got {tensor.dtype} with {tensor.dim()} dimensions",
        )

    check(
        images.dim() == 4 and images.dtype == torch.uint8,
        f"images must be uint8 [N, H, W, C], got {images.dtype} with {images.dim()} dimensions",
    )
    check(
        offsets.dim() == 2 and offsets.dtype == torch.int64,
        f"offsets must be int64 [B, 2], got {offsets.dtype} with {offsets.dim()} dimensions",
    )
    check(
        offsets.shape[1] == 2,
        f"offsets must hold 2 numbers for every batch entry, got {offsets.shape[1]}",
    )
    check_vector("flips", flips, torch.bool, "bool")
    if index is not None:
        check_vector("index", index, torch.int64, "int64")
    batch, named = (images.shape[0], "images") if index is None else (index.shape[0], "entries of index")
    check(
        offsets.shape[0] == batch,
        f"offsets must have a row for each of the {batch} {named}, got {offsets.shape[0]}",
    )
    check(
        flips.shape[0] == batch, f"flips must hold one for each of the {batch} {named}, got {flips.shape[0]}"
    )
    check(0 <= padding <= MAX_PADDING, f"padding must lie in [0, {MAX_PADDING}], got {padding}")
    check(dtype in DTYPES, f"dtype must be float32, bfloat16, float16 or float64, got {dtype}")
    check(
        images.device == offsets.device == flips.device and (index is None or index.device == images.device),
        "images, offsets, flips and index must be on one device",
    )


def check_values(offsets: Tensor, padding: int, index: Tensor | None, stored: int) -> None:
    bad_offsets = (offsets < 0) | (offsets > 2 * padding)
    bad_index = torch.zeros_like(offsets[:, 0]).bool() if index is None else (index < 0) | (index >= stored)
    if offsets.is_cuda:
        torch._assert_async(~bad_offsets.any(), f"crop_flip: offsets must lie in [0, {2 * padding}]")
        torch._assert_async(~bad_index.any(), f"crop_flip: index must lie in [0, {stored})")
        return
    if bad_offsets.any():
        entry, side = bad_offsets.nonzero()[0].tolist()
        raise RuntimeError(
            f"crop_flip: offsets[{entry}, {side}] is {int(offsets[entry, side])}, but must lie in"
            f" [0, {2 * padding}]"
        )
    if index is not None and bad_index.any():
        entry = int(bad_index.nonzero()[0])
        raise RuntimeError(f"crop_flip: index[{entry}] is {int(index[entry])}, but must lie in [0, {stored})")


def empty_result(images: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    _, height, width, channels = images.shape
    shape = (offsets.shape[0], channels, height, width)
    return torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)


def reference(
    images: Tensor,
    offsets: Tensor,
    flips: Tensor,
    padding: int = 4,
    index: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The operator in plain PyTorch, bit for bit what the kernels give; serves where there is none."""
    check_arguments(images, offsets, flips, padding, index, dtype)
    stored, height, width, _ = images.shape
    check_values(offsets, padding, index, stored)
    result = empty_result(images, offsets, dtype)
    if result.numel() == 0:
        return result
    device = images.device
    columns = torch.arange(width, device=device)
    columns = torch.where(flips[:, None], width - 1 - columns, columns) + offsets[:, 1:] - padding  # [B, W]
    rows = torch.arange(height, device=device) + offsets[:, :1] - padding  # [B, H]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    picked = torch.arange(stored, device=device) if index is None else index
    cut = images[
        picked[:, None, None], rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    levels = (torch.arange(256, dtype=torch.float64, device=device) / 255).float()
    return result.copy_(levels[cut.where(inside[..., None], 0).int()].permute(0, 3, 1, 2))


def fake(
    images: Tensor,
    offsets: Tensor,
    flips: Tensor,
    padding: int = 4,
    index: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    check_arguments(images, offsets, flips, padding, index, dtype)
    return empty_result(images, offsets, dtype)


def sample_inputs(device: str = "cpu") -> Iterator[tuple]:
    """Small inputs of every dtype, with and without index, for the tests that walk ``ALL_OPS``."""
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        for picked in (None, torch.tensor([4, 0, 4, 2, 1, 3, 0])):
            for shape, padding in (((5, 9, 7, 3), 2), ((5, 6, 33, 1), 0), ((5, 3, 12, 4), 4)):
                images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
                batch = shape[0] if picked is None else len(picked)
                offsets = torch.randint(2 * padding + 1, (batch, 2), generator=generator)
                flips = torch.randint(2, (batch,), generator=generator).bool()
                index = None if picked is None else picked.to(device)
                yield images.to(device), offsets.to(device), flips.to(device), padding, index, dtype


define(SCHEMA, reference, fake)
