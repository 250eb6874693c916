"""Random crop and flip: from stored bytes to the network's input, in one pass.

    y[b, c, u, v] = x̄[n, u + i − p, w + j − p, c] / 255      n = index[b], (i, j) = offsets[b]         (C1)

    w = W − 1 − v where flips[b], v otherwise;  x̄ = 0 outside the image                                (C2)

docs/maths.md numbers the equations. Every draw comes in as a tensor, so the operator itself is not random.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unlearnable_kernels.ops.checks import Checks
from unlearnable_kernels.ops.library import define

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MAX_PADDING = 2**30

check = Checks("crop_flip")


class Arguments(NamedTuple):
    """What ``crop_flip`` describes."""

    images: Tensor
    offsets: Tensor
    flips: Tensor
    padding: int = 4
    index: Tensor | None = None  # type: ignore[assignment]  # hides tuple.index
    dtype: torch.dtype = torch.float32


def crop_flip(
    images: Tensor,
    offsets: Tensor,
    flips: Tensor,
    padding: int = 4,
    index: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    out: Tensor | None = None,
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
        out: written to and returned where given: dtype, shape and layout of the result, no memory shared
            with an input. A large result costs more in fresh pages than in work, which a tensor of an
            earlier batch saves.

    Returns:
        ``[B, C, H, W]`` of ``dtype``, channels-last in memory: byte/255 rounded to float32, then to
        ``dtype``, with 0 outside the image; the same on every backend. Not differentiable.

    Raises:
        RuntimeError: an argument is not as said here; the message names it, its value and what is allowed.
            On a GPU an offset or index out of range stops the kernel instead, and reads nothing.
    """
    if out is None:
        result: Tensor = torch.ops.unlearn.crop_flip(images, offsets, flips, padding, index, dtype)
        return result
    torch.ops.unlearn.crop_flip_into(out, images, offsets, flips, padding, index, dtype)
    return out


def check_arguments(call: Arguments) -> None:
    """Refuses what can be told without reading a value."""
    check.typed("images", call.images, torch.uint8, "[N, H, W, C]")
    check.typed("offsets", call.offsets, torch.int64, "[B, 2]")
    check.typed("flips", call.flips, torch.bool, "[B]")
    two = call.offsets.shape[1]
    check(two == 2, f"offsets must hold 2 numbers for every batch entry, got {two}")
    batch, named = call.images.shape[0], "images"
    if call.index is not None:
        check.typed("index", call.index, torch.int64, "[B]")
        batch, named = call.index.shape[0], "entries of index"
    for name, tensor in (("offsets", call.offsets), ("flips", call.flips)):
        count = tensor.shape[0]
        check(count == batch, f"{name} must hold one row for each of the {batch} {named}, got {count}")
    check.within("padding", call.padding, 0, MAX_PADDING)
    check.dtype("dtype", call.dtype, DTYPES)
    check.one_device(images=call.images, offsets=call.offsets, flips=call.flips, index=call.index)


def check_values(call: Arguments) -> None:
    """Refuses offsets and indices out of range."""
    check.values_within("offsets", call.offsets, 0, 2 * call.padding, closed=True)
    if call.index is not None:
        check.values_within("index", call.index, 0, call.images.shape[0])


def empty_result(call: Arguments) -> Tensor:
    """``[B, C, H, W]`` of the dtype asked for, channels-last."""
    _, height, width, channels = call.images.shape
    shape = (call.offsets.shape[0], channels, height, width)
    return torch.empty(shape, dtype=call.dtype, device=call.images.device, memory_format=torch.channels_last)


def check_out(call: Arguments, out: Tensor) -> None:
    """Refuses an ``out`` that is not laid out like the result."""
    _, height, width, channels = call.images.shape
    wanted = [call.offsets.shape[0], channels, height, width]
    check.dtype("out", out.dtype, (call.dtype,))
    check(list(out.shape) == wanted, f"out must be {wanted}, got {list(out.shape)}")
    check(out.is_contiguous(memory_format=torch.channels_last), "out must be channels-last in memory")
    check.one_device(images=call.images, out=out)


def _reference(call: Arguments) -> Tensor:
    """(C1) and (C2) in plain PyTorch, bit for bit what the kernels give."""
    check_values(call)
    result = empty_result(call)
    if result.numel() == 0:
        return result
    device, padding = call.images.device, call.padding
    stored, height, width, _ = call.images.shape
    columns = torch.arange(width, device=device)
    columns = torch.where(call.flips[:, None], width - 1 - columns, columns)  # [B, W]
    columns = columns + call.offsets[:, 1:] - padding
    rows = torch.arange(height, device=device) + call.offsets[:, :1] - padding  # [B, H]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    picked = torch.arange(stored, device=device) if call.index is None else call.index
    from_rows, from_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    cut = call.images[picked[:, None, None], from_rows[:, :, None], from_columns[:, None, :]]
    levels = (torch.arange(256, dtype=torch.float64, device=device) / 255).float()
    return result.copy_(levels[cut.where(inside[..., None], 0).int()].permute(0, 3, 1, 2))


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


OPERATOR = define(
    crop_flip,
    Arguments,
    "Tensor",
    check=check_arguments,
    reference=_reference,
    fake=empty_result,
    sample_inputs=sample_inputs,
    check_out=check_out,
)
reference, reference_into = OPERATOR.reference, OPERATOR.reference_into
