"""Class-wise convolution in Triton, docs/maths.md (1) to (7), with the bytes of the other backends.

Forward: one program an image, which goes over it twice in blocks, for the maximum and to write, so no float
goes to memory; every value is the chain (4). For an element its size read once from memory (2·k² times
from cache) and written once; bound by the cached loads.

Backward: the filtered image to a work space, then the gradient before the division (6) in its place, then
every tap's sum (one program an image and tap) and the padded image's gradient, which a last pass gathers
into pixels (7). About 6 floats of work space an element are read or written. No atomics, so results repeat.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unlearnable_kernels.ops import classwise_conv as contract

BLOCK = 1024
SIZES = ["channels", "height", "width", "count", "k"]  # otherwise a size of 1 is a constant
_HIGH: tl.constexpr = tl.constexpr(float(torch.tensor(1 / 255, dtype=torch.float32)))
_LOW: tl.constexpr = tl.constexpr(1 / 255 - float(torch.tensor(1 / 255, dtype=torch.float32)))


@triton.jit
def source_index(at, size, PADDING: tl.constexpr):
    """The position that a padded one is copied from, or -1 for a zero."""
    if PADDING == "zeros":
        return tl.where((at < 0) | (at >= size), -1, at)
    if PADDING == "replicate":
        return tl.minimum(tl.maximum(at, 0), size - 1)
    if PADDING == "circular":
        return (at % size + size) % size
    period = tl.maximum(2 * (size - 1), 1)
    at = (at % period + period) % period
    return tl.minimum(tl.minimum(at, period - at), size - 1)


@triton.jit
def as_compute(pixels, S: tl.constexpr):
    """Stored pixels as S; a byte b as b/255, correctly rounded."""
    if pixels.dtype == tl.uint8:
        byte = pixels.to(tl.float32)
        result = tl.fma(byte, tl.full(byte.shape, _HIGH, tl.float32), byte * _LOW)
    else:
        result = pixels.to(S)
    return result


@triton.jit
def position(at, channels, height, width, LAST: tl.constexpr):
    """Channel, row and column of the elements at these offsets of an image."""
    if LAST:
        return at % channels, at // channels // width, at // channels % width
    return at // (height * width), at // width % height, at % width


@triton.jit
def offset(channel, y, x, channels, height, width, LAST: tl.constexpr):
    """The inverse of ``position``."""
    if LAST:
        return (y * width + x) * channels + channel
    return (channel * height + y) * width + x


@triton.jit
def padded(image, channel, y, x, valid, channels, height, width, PADDING: tl.constexpr, LAST: tl.constexpr,
           S: tl.constexpr):  # fmt: skip
    """The padded image at (channel, y, x), 0 where not ``valid``."""
    row, column = source_index(y, height, PADDING), source_index(x, width, PADDING)
    inside = valid & (row >= 0) & (column >= 0)
    return as_compute(
        tl.load(image + offset(channel, row, column, channels, height, width, LAST), inside, 0), S
    )


@triton.jit
def filtered(image, weights, at, valid, channels, height, width, k, PADDING: tl.constexpr,
             LAST: tl.constexpr, S: tl.constexpr):  # fmt: skip
    """Equation (1), rounded as (4) says."""
    channel, y, x = position(at, channels, height, width, LAST)
    total = tl.zeros(at.shape, S)
    for i in range(k):
        for j in range(k):
            pixel = padded(image, channel, y + i - k // 2, x + j - k // 2, valid, channels, height, width,
                           PADDING, LAST, S)  # fmt: skip
            weight = tl.load(weights + i * k + j)
            total = tl.fma(tl.zeros_like(pixel) + weight, pixel, total)
    return total


@triton.jit
def quotient(a, b):
    """a / b, correctly rounded."""
    if a.dtype == tl.float64:  # noqa: SIM108  both sides of a conditional expression are compiled
        result = a / b
    else:
        result = tl.math.div_rn(a, tl.zeros_like(a) + b)
    return result


@triton.jit
def maximum_of(values, valid, peak):
    """The larger of peak and the values, NaN if one is."""
    largest = tl.maximum(peak, tl.max(tl.where(valid & (values == values), values, -float("inf"))))
    nan = tl.max((valid & (values != values)).to(tl.int32))
    return tl.where((nan > 0) | (peak != peak), float("nan"), largest).to(values.dtype)


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    images,  # T [N, C, H, W], or [N, H, W, C] if LAST: uint8, float16, bfloat16, float32 or float64
    labels,  # int64 [N], -1 to K - 1
    filters,  # S [K, k, k]
    out,  # T, laid out like images
    channels,
    height,
    width,
    k,
    PADDING: tl.constexpr,
    RESCALE: tl.constexpr,
    LAST: tl.constexpr,
    S: tl.constexpr,  # float64 for float64 images, otherwise float32
    BLOCK: tl.constexpr,
):
    """(1) to (4); grid (N,)."""
    n = tl.program_id(0).to(tl.int64)
    size = channels.to(tl.int64) * height * width
    image, result = images + n * size, out + n * size
    label = tl.load(labels + n)
    lanes = tl.arange(0, BLOCK).to(tl.int64)
    if label < 0:
        for first in range(0, size, BLOCK):
            at = first + lanes
            tl.store(result + at, tl.load(image + at, at < size), at < size)
    else:
        weights = filters + label * k * k
        peak = tl.full((), -float("inf"), S)
        if RESCALE:
            for first in range(0, size, BLOCK):
                at = first + lanes
                y = filtered(image, weights, at, at < size, channels, height, width, k, PADDING, LAST, S)
                peak = maximum_of(y, at < size, peak)
        divisor = tl.where((peak == 0) | (not RESCALE), 1.0, peak).to(S)
        for first in range(0, size, BLOCK):
            at = first + lanes
            y = filtered(image, weights, at, at < size, channels, height, width, k, PADDING, LAST, S)
            y = quotient(y, divisor)
            if out.dtype.element_ty == tl.uint8:
                y = tl.minimum(tl.maximum(y * 255.0, 0.0), 255.0).to(tl.int32)
            tl.store(result + at, y.to(out.dtype.element_ty), at < size)


@triton.jit(do_not_specialize=SIZES)
def division_kernel(grad, images, labels, filters, work, channels, height, width, k,
                    PADDING: tl.constexpr, RESCALE: tl.constexpr, LAST: tl.constexpr, S: tl.constexpr,
                    BLOCK: tl.constexpr):  # fmt: skip
    """(5) and (6): the gradient with respect to the filtered image; 0 where the image is left as it is.

    Grid (N,). grad, images: T, and labels, filters as in ``forward_kernel``; work: S, laid out like images.
    """
    n = tl.program_id(0).to(tl.int64)
    size = channels.to(tl.int64) * height * width
    label = tl.load(labels + n)
    lanes = tl.arange(0, BLOCK).to(tl.int64)
    weights = filters + tl.maximum(label, 0) * k * k
    peak = tl.full((), -float("inf"), S)
    if RESCALE & (label >= 0):
        for first in range(0, size, BLOCK):
            at = first + lanes
            y = filtered(
                images + n * size, weights, at, at < size, channels, height, width, k, PADDING, LAST, S
            )
            peak = maximum_of(y, at < size, peak)
            tl.store(work + n * size + at, y, at < size)
        tl.debug_barrier()
    divisor = tl.where((peak == 0) | (not RESCALE), 1.0, peak).to(S)
    product, ties = tl.zeros((BLOCK,), S), tl.zeros((BLOCK,), S)
    if RESCALE & (label >= 0):
        for first in range(0, size, BLOCK):
            at = first + lanes
            y = tl.load(work + n * size + at, at < size, 0)
            product += tl.load(grad + n * size + at, at < size, 0).to(S) * y
            ties += tl.where((at < size) & (y == divisor), 1.0, 0.0).to(S)
    count = tl.sum(ties)
    share = tl.where(count > 0, tl.sum(product) / divisor / tl.maximum(count, 1.0), 0.0)
    tl.debug_barrier()
    for first in range(0, size, BLOCK):
        at = first + lanes
        g = tl.load(grad + n * size + at, at < size, 0).to(S)
        if RESCALE & (label >= 0):
            y = tl.load(work + n * size + at, at < size, 0)
            g = (g - tl.where(y == divisor, share, 0.0)) / divisor
        tl.store(work + n * size + at, tl.where(label >= 0, g, 0.0), at < size)


@triton.jit(do_not_specialize=SIZES)
def taps_kernel(images, work, each, channels, height, width, k, PADDING: tl.constexpr, LAST: tl.constexpr,
                S: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """(7), the filter's side; grid (N, k²). images, work as before, each: S [N, k, k]."""
    n, tap = tl.program_id(0).to(tl.int64), tl.program_id(1)
    size = channels.to(tl.int64) * height * width
    total = tl.zeros((BLOCK,), S)
    for first in range(0, size, BLOCK):
        at = first + tl.arange(0, BLOCK).to(tl.int64)
        channel, y, x = position(at, channels, height, width, LAST)
        y, x = y + tap // k - k // 2, x + tap % k - k // 2
        pixel = padded(images + n * size, channel, y, x, at < size, channels, height, width, PADDING, LAST, S)
        total += tl.load(work + n * size + at, at < size, 0) * pixel
    tl.store(each + n * k * k + tap, tl.sum(total))


@triton.jit(do_not_specialize=SIZES)
def padded_gradient_kernel(work, labels, filters, grad_padded, channels, height, width, k, LAST: tl.constexpr,
                           S: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """(7), the image's side before A: what every padded position gets, ``[N, C, H + k - 1, W + k - 1]``."""
    n = tl.program_id(0).to(tl.int64)
    rows, columns = height + k - 1, width + k - 1
    size, padded_size = channels.to(tl.int64) * height * width, channels.to(tl.int64) * rows * columns
    at = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel, y, x = position(at, channels, rows, columns, False)
    weights = filters + tl.maximum(tl.load(labels + n), 0) * k * k
    total = tl.zeros((BLOCK,), S)
    for i in range(k):
        for j in range(k):
            row, column = y - i, x - j
            inside = (at < padded_size) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            from_ = work + n * size + offset(channel, row, column, channels, height, width, LAST)
            total += tl.load(weights + i * k + j) * tl.load(from_, inside, 0)
    tl.store(grad_padded + n * padded_size + at, total, at < padded_size)


@triton.jit
def copy_of(a, at, size, k, PADDING: tl.constexpr):
    """The a-th position that may be a copy of ``at``: itself, then the padding; and whether it is one."""
    copy = tl.where(a == 0, at, tl.where(a <= k // 2, -a, size - 1 + a - k // 2))
    if PADDING == "zeros":
        return copy, (a == 0) & (at >= 0)
    return copy, (a == 0) | (source_index(copy, size, PADDING) == at)


@triton.jit(do_not_specialize=SIZES)
def fold_kernel(grad, labels, grad_padded, out, channels, height, width, k, PADDING: tl.constexpr,
                LAST: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """(7), A: every pixel gathers from the padded positions that were copied from it; grid (N, blocks).

    grad, out: T, laid out like images; labels: int64 [N]; grad_padded: S [N, C, H + k - 1, W + k - 1].
    """
    n = tl.program_id(0).to(tl.int64)
    size = channels.to(tl.int64) * height * width
    rows, columns = height + k - 1, width + k - 1
    at = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel, y, x = position(at, channels, height, width, LAST)
    total = tl.zeros((BLOCK,), S)
    for a in range(k):
        row, row_is = copy_of(a, y, height, k, PADDING)
        for b in range(k):
            column, column_is = copy_of(b, x, width, k, PADDING)
            from_ = offset(channel, row + k // 2, column + k // 2, channels, rows, columns, False)
            from_ += n * channels * rows * columns
            total += tl.load(grad_padded + from_, (at < size) & row_is & column_is, 0)
    unchanged = tl.load(grad + n * size + at, at < size, 0)
    result = tl.where(tl.load(labels + n) < 0, unchanged, total.to(out.dtype.element_ty))
    tl.store(out + n * size + at, result, at < size)


@triton.jit(do_not_specialize=SIZES)
def classes_kernel(labels, each, grad_filters, count, k, S: tl.constexpr, BLOCK: tl.constexpr):
    """One tap's gradient summed over the images of a class; grid (K, k²).

    labels: int64 [N]; each: S [N, k, k]; grad_filters: S [K, k, k].
    """
    label, tap = tl.program_id(0), tl.program_id(1)
    total = tl.zeros((BLOCK,), S)
    for first in range(0, count, BLOCK):
        n = first + tl.arange(0, BLOCK).to(tl.int64)
        member = (n < count) & (tl.load(labels + n, n < count, -1) == label)
        total += tl.load(each + n * k * k + tap, member, 0)
    tl.store(grad_filters + label.to(tl.int64) * k * k + tap, tl.sum(total))


def _prepared(call: contract.Arguments) -> tuple[contract.Arguments, bool, Any]:
    """The call as kernels read it, whether images are channels-last, and the type that is computed in."""
    contract.check_values(call)
    layout = contract.memory_format(call.images)
    wide = call.images.dtype == torch.float64
    read = call._replace(
        images=call.images.contiguous(memory_format=layout),
        labels=call.labels.contiguous(),
        filters=call.filters.to(torch.float64 if wide else torch.float32).contiguous(),
    )
    return read, layout == torch.channels_last, tl.float64 if wide else tl.float32


def classwise_conv_into(out: Tensor, *arguments: Any) -> None:
    """``torch.ops.unlearn.classwise_conv_into`` for CUDA tensors."""
    call = contract.Arguments(*arguments)
    contract.check_arguments(call)
    contract.check_out(call, out)
    contract.check.separate("out", out, images=call.images)
    if call.images.numel() == 0:
        return
    (x, y, s, padding, rescale), last, compute = _prepared(call)
    with torch.cuda.device_of(x):
        forward_kernel[(len(x),)](
            *(x, y, s, out, *x.shape[1:], s.shape[-1], padding, rescale == "max", last, compute, BLOCK)
        )


def classwise_conv(*arguments: Any, **named: Any) -> Tensor:
    """``torch.ops.unlearn.classwise_conv`` for CUDA tensors."""
    call = contract.Arguments(*arguments, **named)
    contract.check_arguments(call)
    out = contract.empty_result(call)
    classwise_conv_into(out, *call)
    return out


def classwise_conv_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """``torch.ops.unlearn.classwise_conv_backward`` for CUDA tensors."""
    call = contract.Arguments(*arguments)
    contract.check_arguments(call)
    grad_filters = torch.zeros_like(call.filters, memory_format=torch.contiguous_format)
    grad_images = contract.empty_result(call)
    if call.images.numel() == 0 or len(call.filters) == 0:
        return grad_images.copy_(grad), grad_filters
    (x, y, s, padding, rescale), last, compute = _prepared(call)
    count, channels, height, width = x.shape
    shape, k = (channels, height, width), s.shape[-1]
    g = grad.contiguous(memory_format=contract.memory_format(x))
    work, each, sums = s.new_empty(x.numel()), s.new_empty(count, k * k), torch.empty_like(s)
    grad_padded = s.new_empty(count, channels, height + k - 1, width + k - 1)
    blocks, padded_blocks = (triton.cdiv(t[0].numel(), BLOCK) for t in (x, grad_padded))
    how = (padding, rescale == "max", last, compute, BLOCK)
    with torch.cuda.device_of(x):
        division_kernel[(count,)](g, x, y, s, work, *shape, k, *how)
        taps_kernel[(count, k * k)](x, work, each, *shape, k, padding, last, compute, BLOCK)
        padded_gradient_kernel[(count, padded_blocks)](
            work, y, s, grad_padded, *shape, k, last, compute, BLOCK
        )
        fold_kernel[(count, blocks)](g, y, grad_padded, grad_images, *shape, k, padding, last, compute, BLOCK)
        classes_kernel[(len(s), k * k)](y, each, sums, count, k, compute, BLOCK)
    return grad_images, sums.to(call.filters.dtype)
