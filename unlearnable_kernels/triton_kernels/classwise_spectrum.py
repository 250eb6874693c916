"""Class-wise spectrum on a GPU, docs/maths.md (S1) to (S10), with the bytes of the other backends.

CUDA C++ serves uint8 and float32 images whose sides are 24, 28 or 32 times a power of two, up to 1,024;
Triton serves all others, and all where the CUDA module is not built. What follows is about Triton.

A transform is its tables (ops/cosine_transform.py), a stage at a time: every output is one chain of fused
multiply-adds of what the stage before left in a work space, whose two halves take turns. Columns, then rows
with the mixing between, then columns again. A program does all three for a small image, and then takes the
next, so that its work space stays in cache. Larger images take a launch each, with programs for some columns
or rows. An element is read once and written once in memory; from cache come some 30 floats for each transform
of a side of 2⁵, which bound it.
"""

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unlearnable_kernels.ops import classwise_spectrum as contract
from unlearnable_kernels.ops import native
from unlearnable_kernels.ops.cosine_in_place import leaf_of
from unlearnable_kernels.ops.cosine_in_place import tables as tables_in_place
from unlearnable_kernels.ops.cosine_transform import stages
from unlearnable_kernels.triton_kernels.classwise_spectrum_parts import (
    copy_image,
    forward_columns,
    inverse_columns,
    mixed_rows,
)

TILE, LANES = 1024, 32
ROW_LANES = 16  # of a program that does rows of a large image
SMALL = 1 << 14  # elements of an image that one program does alone
PROGRAMS = 8  # for each multiprocessor
WORK = 1 << 26  # bytes of work space, more where one image needs more
CUDA_WORK = 1 << 25  # the same of CUDA C++, which stays in the second cache
CUDA_TYPES = (torch.uint8, torch.float32)
CUDA_CHANNELS = 32
CUDA_NO_WAY, _, CUDA_IN_PARTS = range(3)  # SpectrumWay of csrc/cuda/classwise_spectrum.h
MOST_STAGES = 64
OPTIONS = {"enable_fp_fusion": False}  # a product is rounded before it is added to, as elsewhere
SIZES = ["count", "channels", "height", "width", "sines", "first_image"]


@triton.jit(do_not_specialize=SIZES)
def images_kernel(
    images,  # T [N, C, H, W], or [N, H, W, C] if LAST: uint8, float32 or float64
    labels,  # int64 [N], -1 to K - 1
    weights,  # S [K, H, W, C, C]: float64 for float64 images, otherwise float32
    curves,  # S [K, C, F, 2]
    out,  # T, laid out like images
    work,  # S [programs, 2, C·H·W]
    headers,  # int64 [4, MOST_STAGES, 2]: down, across, back across and back down, as for ``transform``
    index,  # int32
    factors,  # S
    count,
    channels,
    height,
    width,
    sines,
    LAST: tl.constexpr,
    TILE: tl.constexpr,
    LANES: tl.constexpr,
    HEADER: tl.constexpr,
):
    """(S2) to (S10) of every image in turn; grid (programs,)."""
    TERMS: tl.constexpr = TILE // LANES
    size = channels.to(tl.int64) * height * width
    one = work + tl.program_id(0).to(tl.int64) * 2 * size
    two = one + size
    lanes = width * channels
    for n in range(tl.program_id(0), count, tl.num_programs(0)):
        image, result = images + n * size, out + n * size
        label = tl.load(labels + n)
        if label < 0:
            copy_image(image, result, 0, 1, size, TILE)
        else:
            matrices = weights + label * size * channels
            source, target = forward_columns(image, one, two, headers, index, factors, channels, height,
                                             width, 0, lanes, LAST, LANES, TERMS)  # fmt: skip
            source, target = mixed_rows(source, target, matrices, headers, index, factors, channels, height,
                                        width, 0, height, LAST, TILE, LANES, TERMS, HEADER)  # fmt: skip
            inverse_columns(source, target, result, curves + label * channels * sines * 2, headers, index,
                            factors, channels, height, width, sines, 0, lanes, LAST, LANES, TERMS,
                            HEADER)  # fmt: skip
            tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(images, labels, work, other, headers, index, factors, first_image, channels, height, width,
                   LAST: tl.constexpr, TILE: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """Columns of images from ``first_image`` on; grid (blocks of LANES columns, images).

    images, labels, headers, index, factors: as for ``images_kernel``; work, other: S [images, C, H, W].
    """
    n, first = tl.program_id(1).to(tl.int64), tl.program_id(0) * LANES
    size = channels.to(tl.int64) * height * width
    if tl.load(labels + first_image + n) >= 0:
        end = tl.minimum(first + LANES, width * channels)
        forward_columns(images + (first_image + n) * size, work + n * size, other + n * size, headers, index,
                        factors, channels, height, width, first, end, LAST, LANES, TILE // LANES)  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def rows_kernel(source, target, labels, weights, headers, index, factors, first_image, channels, height,
                width, LAST: tl.constexpr, TILE: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr,
                HEADER: tl.constexpr):  # fmt: skip
    """Rows and their mixing, of what ``forward_kernel`` left; grid (blocks of ROWS rows, images)."""
    n, row = tl.program_id(1).to(tl.int64), tl.program_id(0) * ROWS
    size = channels.to(tl.int64) * height * width
    label = tl.load(labels + first_image + n)
    if label >= 0:
        mixed_rows(source + n * size, target + n * size, weights + label * size * channels, headers, index,
                   factors, channels, height, width, row, tl.minimum(row + ROWS, height), LAST, TILE, LANES,
                   TILE // LANES, HEADER)  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
def inverse_kernel(images, source, target, labels, curves, out, headers, index, factors, first_image,
                   channels, height, width, sines, LAST: tl.constexpr, TILE: tl.constexpr,
                   LANES: tl.constexpr, HEADER: tl.constexpr):  # fmt: skip
    """Columns of what ``rows_kernel`` left, or images left alone; grid as for ``forward_kernel``."""
    n, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    size = channels.to(tl.int64) * height * width
    label = tl.load(labels + first_image + n)
    image, result = images + (first_image + n) * size, out + (first_image + n) * size
    if label < 0:
        copy_image(image, result, block.to(tl.int64), tl.num_programs(0), size, TILE)
    else:
        end = tl.minimum((block + 1) * LANES, width * channels)
        inverse_columns(source + n * size, target + n * size, result, curves + label * channels * sines * 2,
                        headers, index, factors, channels, height, width, sines, block * LANES, end, LAST,
                        LANES, TILE // LANES, HEADER)  # fmt: skip


@functools.lru_cache(maxsize=16)
def tables(height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """headers, index and factors of ``images_kernel``; the first factor is what a transform is scaled by."""
    headers = torch.zeros(4, MOST_STAGES, 2, dtype=torch.int64)
    indices, factors = (
        [torch.zeros(1, dtype=torch.int32)],
        [torch.tensor([4 / (height * width)], dtype=dtype)],
    )
    begin = 1
    for header, n, inverse in zip(headers, (height, width) * 2, (False, False, True, True), strict=True):
        for number, (index, coefficients) in enumerate(stages(n, inverse=inverse)):
            header[number] = torch.tensor([len(index), begin])
            indices.append(index.flatten().int())
            factors.append(coefficients.flatten().to(dtype))
            begin += index.numel()
    headers[2:] = headers[2:].flip(0)  # rows come before columns on the way back
    return headers.to(device), torch.cat(indices).to(device), torch.cat(factors).to(device)


def _programs(device: torch.device) -> int:
    """How many run at a time; few in Triton's interpreter."""
    if device.type != "cuda":
        return 2
    return PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


def classwise_spectrum(*arguments: Any, **named: Any) -> Tensor:
    """``torch.ops.unlearn.classwise_spectrum`` for CUDA tensors."""
    call = contract.Arguments(*arguments, **named)
    contract.check_arguments(call)
    contract.check_values(call)
    out = contract.empty_result(call)
    if call.images.numel() == 0:
        return out
    form, compute = contract.memory_format(call.images), contract.compute_dtype(call.images)
    call = contract.Arguments(
        call.images.contiguous(memory_format=form),
        call.labels.contiguous(),
        call.weights.to(compute).contiguous(),
        call.curves.to(compute).contiguous(),
    )
    launch = _launch_small if call.images[0].numel() <= SMALL else _launch_large
    last = form == torch.channels_last
    with torch.cuda.device_of(call.images):
        if not _launch_in_cuda(call, out, last):
            launch(call, out, last)
    return out


def _launch_in_cuda(call: contract.Arguments, out: Tensor, last: bool) -> bool:
    """Whether CUDA C++ served: not without it, nor types, sides and channels that it has no kernel for."""
    images, labels, weights, curves = call
    count, channels, height, width = images.shape
    module = native.cuda_module
    if module is None or not images.is_cuda or images.dtype not in CUDA_TYPES or channels > CUDA_CHANNELS:
        return False
    plan, leaves = tables_in_place(height, width, images.device), (leaf_of(height), leaf_of(width))
    if plan is None:
        return False
    size = channels, height, width
    way = module.classwise_spectrum_way(*size, *leaves)  # by the device's shared memory
    if way == CUDA_NO_WAY:
        return False
    some = 0
    if way == CUDA_IN_PARTS:
        some = max(1, min(count, CUDA_WORK // (weights.element_size() * images[0].numel())))
    work = weights.new_empty(some * images[0].numel())
    pointers = (t.data_ptr() for t in (images, labels, weights, curves, out, work, *plan[1:]))
    numbers = (
        native.ELEMENT_TYPES.index(images.dtype),
        last,
        count,
        weights.shape[0],
        some,
        *size,
        curves.shape[2],
        *leaves,
    )
    stream = torch.cuda.current_stream(images.device).cuda_stream
    module.classwise_spectrum(*pointers, *numbers, plan.sides, stream)
    return True


def _launch_small(call: contract.Arguments, out: Tensor, last: bool) -> None:
    images, labels, weights, curves = call
    count, *shape = images.shape
    programs = min(count, _programs(images.device))
    work = weights.new_empty(programs, 2, images[0].numel())
    plan = tables(*shape[1:], weights.dtype, images.device)
    sizes = count, *shape, curves.shape[2]
    images_kernel[(programs,)](
        *(images, labels, weights, curves, out, work, *plan, *sizes, last, TILE, LANES, 2 * MOST_STAGES),
        **OPTIONS,
    )


def _launch_large(call: contract.Arguments, out: Tensor, last: bool) -> None:
    images, labels, weights, curves = call
    count, channels, height, width = images.shape
    plan = tables(height, width, weights.dtype, images.device)
    some = max(1, min(count, WORK // (2 * weights.element_size() * images[0].numel())))
    work = weights.new_empty(2, some, images[0].numel())
    columns, rows = triton.cdiv(width * channels, LANES), max(1, ROW_LANES // channels)
    sizes, header = (channels, height, width), 2 * MOST_STAGES
    for first in range(0, count, some):
        those = min(some, count - first)
        source, target = work
        forward_kernel[(columns, those)](
            *(images, labels, source, target, *plan, first, *sizes, last, TILE, LANES), **OPTIONS
        )
        if len(stages(height)) % 2:
            source, target = target, source
        rows_kernel[(triton.cdiv(height, rows), those)](
            *(source, target, labels, weights, *plan, first, *sizes, last, TILE, ROW_LANES, rows, header),
            **OPTIONS,
        )
        # An odd number of turns: as many stages across as back, and the mixing.
        inverse_kernel[(columns, those)](
            *(images, target, source, labels, curves, out, *plan, first, *sizes, curves.shape[2]),
            *(last, TILE, LANES, header),
            **OPTIONS,
        )
