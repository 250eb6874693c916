"""Equations (C1) and (C2) of docs/maths.md: random crop and flip of stored bytes, in one pass.

A program writes a tile of rows × values of one output image, [H, W·C] in memory, so that a column's place,
the one thing that takes divisions, is worked out once for all rows of the tile. Its threads write 16 bytes
side by side. 1 byte is read and one value written for each value; 17 bytes more for a tile's draws.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unlearnable_kernels.ops import crop_flip as contract

TILE = 2048
VALUES_A_WARP = 512
HIGH = tl.constexpr(257 / 65536)  # 1/255 = HIGH + LOW, and a byte times HIGH is exact
LOW = tl.constexpr(1 / 255 / 65536)


@triton.jit(do_not_specialize=["stored", "padding"])
def crop_flip_kernel(
    images,  # uint8 [N, H, W, C]
    offsets,  # int64 [B, 2]
    flips,  # uint8 [B]: 0 or 1
    index,  # int64 [B]; not read without HAS_INDEX
    out,  # [B, H, W, C] in memory: float16, bfloat16, float32 or float64
    stored,
    padding,
    HAS_INDEX: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    VALUES: tl.constexpr,
):
    """(C1) and (C2) of one tile of ROWS × VALUES; grid (B · tiles of an image,)."""
    ROW: tl.constexpr = WIDTH * CHANNELS
    across: tl.constexpr = (ROW + VALUES - 1) // VALUES
    tiles: tl.constexpr = across * ((HEIGHT + ROWS - 1) // ROWS)
    program = tl.program_id(0)
    b = (program // tiles).to(tl.int64)
    padding = padding.to(tl.int64)  # twice 2³⁰ is beyond int32
    tile = program % tiles

    n = tl.load(index + b) if HAS_INDEX else b
    i = tl.load(offsets + 2 * b)
    j = tl.load(offsets + 2 * b + 1)
    in_range = (n >= 0) & (n < stored) & (i >= 0) & (i <= 2 * padding) & (j >= 0) & (j <= 2 * padding)
    tl.device_assert(in_range, "crop_flip: offsets must lie in [0, 2 * padding] and index in [0, N)")

    u = (tile // across) * ROWS + tl.arange(0, ROWS)
    e = (tile % across) * VALUES + tl.arange(0, VALUES)  # of a row
    v, c = e // CHANNELS, e % CHANNELS
    from_row = u + (i - padding)
    from_column = tl.where(tl.load(flips + b) != 0, WIDTH - 1 - v, v) + (j - padding)
    row_inside = (from_row >= 0) & (from_row < HEIGHT) & in_range
    column_inside = (from_column >= 0) & (from_column < WIDTH) & (e < ROW)

    image = images + n * (HEIGHT * ROW)
    source = image + from_row[:, None] * ROW + (from_column * CHANNELS + c)[None, :]
    byte = tl.load(source, mask=row_inside[:, None] & column_inside[None, :], other=0).to(tl.float32)
    level = byte * HIGH + byte * LOW

    target = out + b * (HEIGHT * ROW) + u.to(tl.int64)[:, None] * ROW + e[None, :]
    tl.store(target, level.to(out.dtype.element_ty), mask=(u < HEIGHT)[:, None] & (e < ROW)[None, :])


def tile_of(height: int, row: int) -> tuple[int, int]:
    """Rows and values of a tile: the width that wastes least of a row's last tile, then the widest."""
    values = min((32, 64, 128), key=lambda width: (triton.cdiv(row, width) * width, -width))
    return min(triton.next_power_of_2(height), TILE // values), values


def crop_flip(*arguments: Any, **named: Any) -> Tensor:
    """``torch.ops.unlearn.crop_flip`` for CUDA tensors. Compiled anew for every H, W and C."""
    call = contract.Arguments(*arguments, **named)
    contract.check_arguments(call)
    out = contract.empty_result(call)
    _launch(call, out)
    return out


def crop_flip_into(out: Tensor, *arguments: Any) -> None:
    """``torch.ops.unlearn.crop_flip_into`` for CUDA tensors."""
    call = contract.Arguments(*arguments)
    contract.check_arguments(call)
    contract.check_out(call, out)
    inputs = {name: value for name, value in call._asdict().items() if isinstance(value, Tensor)}
    contract.check.separate("out", out, **inputs)
    _launch(call, out)


def _launch(call: contract.Arguments, out: Tensor) -> None:
    stored, height, width, channels = call.images.shape
    if out.numel() == 0:
        return
    rows, values = tile_of(height, width * channels)
    tiles = triton.cdiv(height, rows) * triton.cdiv(width * channels, values)
    with torch.cuda.device_of(call.images):
        crop_flip_kernel[(len(call.offsets) * tiles,)](
            call.images.contiguous(),
            call.offsets.contiguous(),
            call.flips.contiguous().view(torch.uint8),
            call.offsets if call.index is None else call.index.contiguous(),
            out,
            stored,
            call.padding,
            HAS_INDEX=call.index is not None,
            HEIGHT=height,
            WIDTH=width,
            CHANNELS=channels,
            ROWS=rows,
            VALUES=values,
            num_warps=max(1, rows * values // VALUES_A_WARP),
            debug=True,  # keeps the assertion
            sanitize_overflow=False,
        )
