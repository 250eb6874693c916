"""The parts of class-wise spectrum's kernels in Triton: transforms, mixing and tone curves of one image.

An image and its work spaces are [C, H, W], or [H, W, C] if LAST. A transform's lanes are columns or rows;
``first_lane`` and ``end_lane`` bound those that a program does, and all its threads wait for each other after
every stage. LANES lanes of TERMS numbers each are a tile.
"""

import triton
import triton.language as tl

from unlearnable_kernels.ops import classwise_spectrum as contract
from unlearnable_kernels.triton_kernels.classwise_conv import as_compute

_SINE: tl.constexpr = tl.constexpr(contract.SINE)
_SINE_OF_FLOAT64: tl.constexpr = tl.constexpr(contract.SINE_OF_FLOAT64)
_TERMS: tl.constexpr = tl.constexpr(len(contract.SINE))
_TERMS_OF_FLOAT64: tl.constexpr = tl.constexpr(len(contract.SINE_OF_FLOAT64))
_PER_TURN: tl.constexpr = tl.constexpr(0.15915494309189535)


@triton.jit
def multiply_add(a, b, c):
    """a·b + c, rounded once for float32 and twice for float64."""
    if c.dtype == tl.float64:  # noqa: SIM108  both sides of a conditional expression are compiled
        result = a * b + c
    else:
        result = tl.fma(a, b, c)
    return result


@triton.jit
def nearest(x):
    """The nearest whole number, ties to even."""
    whole: tl.constexpr = 4503599627370496.0 if x.dtype == tl.float64 else 8388608.0  # from here on all are
    size = tl.abs(x)
    rounded = (size + whole) - whole
    return tl.where(size < whole, tl.where(x < 0, -rounded, rounded), x)


@triton.jit
def add_sine(total, y, amplitude, phase, f):
    """total + amplitude · sin(1.5π f y + phase), (S10)."""
    S: tl.constexpr = y.dtype
    COEFFICIENTS: tl.constexpr = _SINE_OF_FLOAT64 if y.dtype == tl.float64 else _SINE
    TERMS: tl.constexpr = _TERMS_OF_FLOAT64 if y.dtype == tl.float64 else _TERMS
    rate = tl.zeros_like(y) + 0.75 * f
    turns = multiply_add(rate, y, tl.zeros_like(y) + phase * tl.full((), _PER_TURN, S))
    rest = turns - nearest(turns)
    square = rest * rest
    polynomial = tl.full(y.shape, COEFFICIENTS[TERMS - 1], S)
    for k in tl.static_range(1, TERMS):
        coefficient = tl.full(y.shape, COEFFICIENTS[TERMS - 1 - k], S)
        polynomial = multiply_add(polynomial, square, coefficient)
    roots = rest * multiply_add(square, tl.full(y.shape, -4.0, S), tl.full(y.shape, 1.0, S))
    return multiply_add(polynomial, roots * amplitude, total)


@triton.jit
def places(lane, inner, outside, inside):
    """Where lanes begin: ``inner`` of them ``inside`` apart, and the next so many ``outside`` further on."""
    return lane // inner * outside + lane % inner * inside


@triton.jit
def transform(source, target, n, along, first_lane, end_lane, inner, outside, inside,
              header, index, factors, LANES: tl.constexpr, TERMS: tl.constexpr):  # fmt: skip
    """(S1) or its adjoint of lanes [first_lane, end_lane), in each of which numbers lie ``along`` apart.

    source and target take turns; returned are the one that holds the result and the other.
    header: int64 [MOST_STAGES, 2], terms of a stage, 0 after the last, and where its tables begin in
    index and factors, ``[terms, n]`` each.
    """
    stage = 0
    terms = tl.load(header)
    while terms > 0:
        table = tl.load(header + 2 * stage + 1)
        for some in range(first_lane, end_lane, LANES):
            lane = some + tl.arange(0, LANES)[None, :]
            place = places(lane, inner, outside, inside)
            for start in range(0, n, TERMS):
                k = start + tl.arange(0, TERMS)[:, None]
                valid = (k < n) & (lane < end_lane)
                at = tl.load(index + table + k, k < n, 0)
                factor = tl.load(factors + table + k, k < n, 0)
                total = factor * tl.load(source + place + at * along, valid, 0)
                for term in range(1, terms):
                    at = tl.load(index + table + term * n + k, k < n, 0)
                    factor = tl.load(factors + table + term * n + k, k < n, 0)
                    value = tl.load(source + place + at * along, valid, 0)
                    total = multiply_add(tl.zeros_like(value) + factor, value, total)
                tl.store(target + place + k * along, total, valid)
        tl.debug_barrier()
        source, target = target, source
        stage += 1
        terms = tl.load(header + 2 * stage)
    return source, target


@triton.jit
def read_columns(image, work, n, along, first_lane, end_lane, inner, outside,
                 LANES: tl.constexpr, TERMS: tl.constexpr):  # fmt: skip
    """Pixels of some columns as numbers, in the same places."""
    for some in range(first_lane, end_lane, LANES):
        lane = some + tl.arange(0, LANES)[None, :]
        place = places(lane, inner, outside, 1)
        for start in range(0, n, TERMS):
            k = start + tl.arange(0, TERMS)[:, None]
            valid = (k < n) & (lane < end_lane)
            pixels = tl.load(image + place + k * along, valid, 0)
            tl.store(work + place + k * along, as_compute(pixels, work.dtype.element_ty), valid)
    tl.debug_barrier()


@triton.jit
def write_columns(work, out, curves, channels, sines, n, along, first_lane, end_lane, inner, outside,
                  LAST: tl.constexpr, LANES: tl.constexpr, TERMS: tl.constexpr):  # fmt: skip
    """(S4) and (S9) of some columns."""
    for some in range(first_lane, end_lane, LANES):
        lane = some + tl.arange(0, LANES)[None, :]
        place = places(lane, inner, outside, 1)
        channel = lane % channels if LAST else lane // inner
        curve = curves + channel * sines * 2
        for start in range(0, n, TERMS):
            k = start + tl.arange(0, TERMS)[:, None]
            valid = (k < n) & (lane < end_lane)
            y = tl.load(work + place + k * along, valid, 0)
            z = y
            for f in range(sines):
                amplitude = tl.load(curve + 2 * f, lane < end_lane, 0)
                phase = tl.load(curve + 2 * f + 1, lane < end_lane, 0)
                z = add_sine(z, y, amplitude, phase, f + 1)
            if out.dtype.element_ty == tl.uint8:
                z = nearest(tl.minimum(tl.maximum(z, 0.0), 1.0) * 255.0).to(tl.int32)
            tl.store(out + place + k * along, z.to(out.dtype.element_ty), valid)


@triton.jit
def mix(source, target, weights, scale, channels, width, row, end_row, down, along, plane,
        TILE: tl.constexpr):  # fmt: skip
    """(S3) of rows [row, end_row), ``down`` apart, whose channels lie ``plane`` apart."""
    S: tl.constexpr = source.dtype.element_ty
    for first in range(row * width, end_row * width, TILE):
        frequency = first + tl.arange(0, TILE)
        valid = frequency < end_row * width
        u, v = frequency // width, frequency % width
        factor = scale * tl.where(u == 0, 0.5, 1.0).to(S) * tl.where(v == 0, 0.5, 1.0).to(S)
        place = u * down + v * along
        for c in range(channels):
            matrix = weights + (frequency.to(tl.int64) * channels + c) * channels
            x = tl.load(source + place, valid, 0) * factor
            total = tl.load(matrix, valid, 0) * x
            for d in range(1, channels):
                x = tl.load(source + place + d * plane, valid, 0) * factor
                total = multiply_add(tl.load(matrix + d, valid, 0), x, total)
            tl.store(target + place + c * plane, total, valid)
    tl.debug_barrier()


@triton.jit
def layout(channels, height, width, LAST: tl.constexpr):
    """Distances in an image of rows, of columns, of planes, int64, and how many columns a plane has."""
    one = (channels * 0 + 1).to(tl.int64)
    if LAST:
        return one * width * channels, one * channels, one, width * channels
    return one * width, one, one * height * width, width


@triton.jit
def forward_columns(image, work, other, headers, index, factors, channels, height, width, first_lane,
                    end_lane, LAST: tl.constexpr, LANES: tl.constexpr, TERMS: tl.constexpr):  # fmt: skip
    """Columns of an image, read and transformed; the work space that holds them, and the other."""
    down, _, plane, inner = layout(channels, height, width, LAST)
    read_columns(image, work, height, down, first_lane, end_lane, inner, plane, LANES, TERMS)
    return transform(work, other, height, down, first_lane, end_lane, inner, plane, 1, headers, index,
                     factors, LANES, TERMS)  # fmt: skip


@triton.jit
def mixed_rows(source, target, weights, headers, index, factors, channels, height, width, row, end_row,
               LAST: tl.constexpr, TILE: tl.constexpr, LANES: tl.constexpr, TERMS: tl.constexpr,
               HEADER: tl.constexpr):  # fmt: skip
    """Rows [row, end_row) transformed, mixed and transformed back."""
    down, along, plane, _ = layout(channels, height, width, LAST)
    first, end = row * channels, end_row * channels
    source, target = transform(source, target, width, along, first, end, channels, down, plane,
                               headers + HEADER, index, factors, LANES, TERMS)  # fmt: skip
    scale = tl.load(factors)
    mix(source, target, weights, scale, channels, width, row, end_row, down, along, plane, TILE)
    return transform(target, source, width, along, first, end, channels, down, plane, headers + 2 * HEADER,
                     index, factors, LANES, TERMS)  # fmt: skip


@triton.jit
def inverse_columns(source, target, out, curves, headers, index, factors, channels, height, width, sines,
                    first_lane, end_lane, LAST: tl.constexpr, LANES: tl.constexpr, TERMS: tl.constexpr,
                    HEADER: tl.constexpr):  # fmt: skip
    """Columns transformed back, bent and written."""
    down, _, plane, inner = layout(channels, height, width, LAST)
    source, target = transform(source, target, height, down, first_lane, end_lane, inner, plane, 1,
                               headers + 3 * HEADER, index, factors, LANES, TERMS)  # fmt: skip
    write_columns(source, out, curves, channels, sines, height, down, first_lane, end_lane, inner, plane,
                  LAST, LANES, TERMS)  # fmt: skip


@triton.jit
def copy_image(image, out, first, step, size, TILE: tl.constexpr):
    """Every ``step``-th tile of an image that stays as it is."""
    for start in range(first * TILE, size, step * TILE):
        at = start + tl.arange(0, TILE)
        tl.store(out + at, tl.load(image + at, at < size), at < size)
