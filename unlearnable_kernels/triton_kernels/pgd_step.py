"""The projected gradient step on the GPU, docs/maths.md (P1) to (P5).

L∞: a program takes 1,024 elements; x, grad and origin are read once and the result is written once, 16 bytes
for a float32 element.
L2, samples of up to 8,192 elements: a program takes a sample and keeps it in registers, the same 16 bytes.
L2, larger samples: csrc/cuda/pgd_step.cu, where the CUDA module is there and the chip holds a sample, 16
bytes again. Otherwise at most 512 programs share a sample, in three launches, each of which needs the sums of
the one before, left in float64 at ``[N, programs]``: ‖grad‖, then ‖t − origin‖, then the result. grad is read
three times, x and origin twice: 32 bytes for a float32 element.

Nothing waits for the device. Norms are added in another order than the CPU's.
"""

import struct
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from unlearnable_kernels.ops import native
from unlearnable_kernels.ops import pgd_step as contract

ELEMENTS = 1024  # of one program: 8 of each tensor a thread, so that accesses are 16 bytes wide
WHOLE_SAMPLE = 8192
MOST_PARTS = 512


@triton.jit
def _number(bits, S: tl.constexpr):
    """A Python float, passed as the bits of a double because Triton would round it to float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(S)


@triton.jit
def _clamped(v, low, high):
    """min(max(v, low), high)."""
    above = tl.where(low > v, low, v)  # NaN stays
    return tl.where(high < above, high, above)


@triton.jit
def _sum_of_squares(v):
    """In float64, where a float's square is exact."""
    wide = v.to(tl.float64)
    return tl.sum(wide * wide, axis=0)


@triton.jit
def _distance(x, g, o, grad_norm, step_bits, S: tl.constexpr):
    """(P2) less origin."""
    power = tl.where(grad_norm < 2.0**-100, 2.0**100, tl.where(grad_norm > 2.0**100, 2.0**-100, 1.0))
    scale = (_number(step_bits, tl.float64) / (grad_norm * power)).to(S)
    steps = (grad_norm > 0) & (grad_norm < float("inf"))
    return x + tl.where(steps, g * power.to(S) * scale, 0.0) - o


@triton.jit
def _projected(d, o, distance, eps_bits, lower_bits, upper_bits, S: tl.constexpr):
    """(P4) and (P5)."""
    eps = _number(eps_bits, tl.float64)
    factor = tl.where(distance <= eps, 1.0, eps / distance).to(S)
    return _clamped(o + d * factor, _number(lower_bits, S), _number(upper_bits, S))


@triton.jit(do_not_specialize=["step_bits", "eps_bits", "lower_bits", "upper_bits"])
def _linf_kernel(
    x_at,  # T [total]: float16, bfloat16, float32 or float64
    g_at,  # T [total]: the gradient
    o_at,  # T [total]: the ball's centre
    out_at,  # T [total]; may be x_at
    total,
    step_bits,
    eps_bits,
    lower_bits,
    upper_bits,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(P1), (P3) and (P5) of BLOCK elements; the numbers come as the bits of doubles; computes in S."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    x = tl.load(x_at + at, mask=inside, other=0.0).to(S)
    g = tl.load(g_at + at, mask=inside, other=0.0).to(S)
    o = tl.load(o_at + at, mask=inside, other=0.0).to(S)
    up = _number(step_bits, S)
    along = tl.where(g > 0, up, tl.where(g < 0, up * -1.0, 0.0))
    eps = _number(eps_bits, S)
    moved = o + _clamped(x + along - o, eps * -1.0, eps)  # -eps would be 0 - eps, so +0 for 0
    result = _clamped(moved, _number(lower_bits, S), _number(upper_bits, S))
    tl.store(out_at + at, result.to(out_at.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["step_bits", "eps_bits", "lower_bits", "upper_bits"])
def _l2_sample_kernel(
    x_at,  # T [N, size]: float16, bfloat16, float32 or float64
    g_at,  # T [N, size]: the gradient
    o_at,  # T [N, size]: the ball's centre
    out_at,  # T [N, size]; may be x_at
    size,
    step_bits,
    eps_bits,
    lower_bits,
    upper_bits,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(P2), (P4) and (P5) of one sample, of at most BLOCK elements; computes in S."""
    i = tl.arange(0, BLOCK)
    at = tl.program_id(0).to(tl.int64) * size + i
    inside = i < size
    g = tl.load(g_at + at, mask=inside, other=0.0).to(S)
    x = tl.load(x_at + at, mask=inside, other=0.0).to(S)
    o = tl.load(o_at + at, mask=inside, other=0.0).to(S)
    d = _distance(x, g, o, tl.sqrt(_sum_of_squares(g)), step_bits, S)
    result = _projected(d, o, tl.sqrt(_sum_of_squares(d)), eps_bits, lower_bits, upper_bits, S)
    tl.store(out_at + at, result.to(out_at.dtype.element_ty), mask=inside)


@triton.jit
def _norm(sums_at, sample, parts, PARTS: tl.constexpr):
    """A sample's norm from its programs' sums."""
    part = tl.arange(0, PARTS)
    sums = tl.load(sums_at + sample * parts + part, mask=part < parts, other=0.0)
    return tl.sqrt(tl.sum(sums, axis=0))


@triton.jit(do_not_specialize=["step_bits", "eps_bits", "lower_bits", "upper_bits"])
def _l2_phase_kernel(
    x_at,  # T [N, size]: float16, bfloat16, float32 or float64
    g_at,  # T [N, size]: the gradient
    o_at,  # T [N, size]: the ball's centre
    out_at,  # T [N, size]; may be x_at in the last phase alone, which reads what it writes
    grad_sums_at,  # float64 [N, programs of a sample]
    distance_sums_at,  # float64 [N, programs of a sample]
    size,
    step_bits,
    eps_bits,
    lower_bits,
    upper_bits,
    PHASE: tl.constexpr,
    PART_SIZE: tl.constexpr,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Phase 0 sums the squares of grad, 1 those of t − origin, 2 writes. Program (part, sample)."""
    part, parts = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    sample = tl.program_id(1).to(tl.int64)
    if PHASE >= 1:
        grad_norm = _norm(grad_sums_at, sample, parts, PARTS)
    if PHASE == 2:
        distance = _norm(distance_sums_at, sample, parts, PARTS)
    total = tl.zeros([BLOCK], tl.float64)
    for begin in range(0, PART_SIZE, BLOCK):
        i = part * PART_SIZE + begin + tl.arange(0, BLOCK)
        inside = i < size
        at = sample * size + i
        g = tl.load(g_at + at, mask=inside, other=0.0).to(S)
        if PHASE == 0:
            total += g.to(tl.float64) * g.to(tl.float64)
        else:
            x = tl.load(x_at + at, mask=inside, other=0.0).to(S)
            o = tl.load(o_at + at, mask=inside, other=0.0).to(S)
            d = _distance(x, g, o, grad_norm, step_bits, S)
            if PHASE == 1:
                total += d.to(tl.float64) * d.to(tl.float64)
            else:
                result = _projected(d, o, distance, eps_bits, lower_bits, upper_bits, S)
                tl.store(out_at + at, result.to(out_at.dtype.element_ty), mask=inside)
    if PHASE == 0:
        tl.store(grad_sums_at + sample * parts + part, tl.sum(total, axis=0))
    if PHASE == 1:
        tl.store(distance_sums_at + sample * parts + part, tl.sum(total, axis=0))


def _bits(number: float) -> int:
    """What ``_number`` takes."""
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


def _launch(tensors: tuple[Tensor, ...], numbers: tuple[float, ...], norm: str) -> None:
    """x, grad, origin and out, all of one dense layout; under L2 each sample is one run of memory.

    The numbers are the step's size, the ball's radius and the bounds.
    """
    x = tensors[0]
    count, size = x.shape[0], x.numel() // x.shape[0]
    # Contraction would round g·p·scale and x + that once instead of twice.
    options: dict[str, Any] = {
        "S": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "enable_fp_fusion": False,
    }
    if norm == "linf":
        grid = (triton.cdiv(x.numel(), ELEMENTS),)
        _linf_kernel[grid](*tensors, x.numel(), *map(_bits, numbers), BLOCK=ELEMENTS, **options)
    elif size <= WHOLE_SAMPLE:
        block = triton.next_power_of_2(size)
        warps = min(max(block // 512, 1), 8)
        bits = map(_bits, numbers)
        _l2_sample_kernel[(count,)](*tensors, size, *bits, BLOCK=block, num_warps=warps, **options)
    elif not _launch_clusters(tensors, numbers):
        _launch_phases(tensors, numbers, count, size, options)


def _launch_clusters(tensors: tuple[Tensor, ...], numbers: tuple[float, ...]) -> bool:
    """Whether CUDA C++ served, in one launch: not without it, and not where a sample outgrows the chip."""
    x = tensors[0]
    if native.cuda_module is None or not x.is_cuda:
        return False
    served: bool = native.cuda_module.pgd_step_l2(
        *(t.data_ptr() for t in tensors),
        native.ELEMENT_TYPES.index(x.dtype),
        x.shape[0],
        x.numel() // x.shape[0],
        *numbers,
        torch.cuda.current_stream(x.device).cuda_stream,
    )
    return served


def _launch_phases(
    tensors: tuple[Tensor, ...], numbers: tuple[float, ...], count: int, size: int, options: dict[str, Any]
) -> None:
    part_size = triton.cdiv(triton.cdiv(size, MOST_PARTS), WHOLE_SAMPLE) * WHOLE_SAMPLE
    parts = triton.cdiv(size, part_size)
    sums = torch.empty(2, count, parts, dtype=torch.float64, device=tensors[0].device)
    for first in range(0, count, 65535):  # the grid's second axis holds no more
        some = tuple(t[first : first + 65535] for t in (*tensors, sums[0], sums[1]))
        for phase in range(3):
            _l2_phase_kernel[(parts, len(some[0]))](
                *some,
                size,
                *map(_bits, numbers),
                PHASE=phase,
                PART_SIZE=part_size,
                BLOCK=ELEMENTS,
                PARTS=triton.next_power_of_2(parts),
                **options,
            )


def _in_layout(t: Tensor, layout: Tensor) -> Tensor:
    """``t`` with the strides of ``layout``; copied only where it has others."""
    return t if t.stride() == layout.stride() else torch.empty_like(layout).copy_(t)


def _compute(call: contract.Arguments, out: Tensor) -> None:
    dense = torch.empty_like(out, device="meta")
    target = out
    if call.norm == "l2" and not contract.samples_outermost(dense):
        target = torch.empty_like(out, memory_format=torch.contiguous_format)
    elif dense.stride() != out.stride():
        target = torch.empty_like(out)
    inputs = tuple(_in_layout(t, target) for t in (call.x, call.grad, call.origin))
    with torch.cuda.device_of(out):
        _launch((*inputs, target), (call.step_size, call.eps, call.lower, call.upper), call.norm)
    if target is not out:
        out.copy_(target)


def pgd_step(*arguments: Any, **named: Any) -> Tensor:
    """``torch.ops.unlearn.pgd_step`` for CUDA tensors."""
    call = contract.Arguments(*arguments, **named)
    contract.check_arguments(call)
    out = torch.empty_like(call.x)
    if out.numel() > 0:
        _compute(call, out)
    return out


def pgd_step_(*arguments: Any, **named: Any) -> None:
    """``torch.ops.unlearn.pgd_step_`` for CUDA tensors."""
    call = contract.Arguments(*arguments, **named)
    contract.check_in_place(call)
    contract.check.separate("x", call.x, grad=call.grad, origin=call.origin)
    if call.x.numel() > 0:
        _compute(call, call.x)
