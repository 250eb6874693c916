"""classwise_spectrum's CUDA C++ kernels on this machine's CPU, thread by thread: tests/cuda_on_host."""

import ctypes
import random

import pytest
import torch
from cuda_on_this_host import H100, compiled_for_the_host, guarded, needs_compiler
from test_classwise_spectrum import random_call

from unlearnable_kernels.ops import classwise_spectrum as contract
from unlearnable_kernels.ops.classwise_conv import fused_multiply_add
from unlearnable_kernels.ops.cosine_in_place import MOST_LEVELS, Transform, leaf_of, tables
from unlearnable_kernels.ops.cosine_transform import _dct2, _dct3, _dct4, transformed
from unlearnable_kernels.ops.native import ELEMENT_TYPES
from unlearnable_kernels.triton_kernels.classwise_spectrum import CUDA_TYPES


def leaf(kind, x):
    """A leaf's transform of [n, lanes] by the stages that the reference has for it."""
    for stage in (_dct2, _dct3, _dct4)[kind](len(x)):
        outputs = []
        for (first, factor), *others in stage:
            total = torch.tensor(factor, dtype=x.dtype) * x[first]
            for at, factor in others:
                total = fused_multiply_add(torch.full_like(total, factor), x[at], total)
            outputs.append(total)
        x = torch.stack(outputs)
    return x


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("n", [24, 28, 32, 64, 96, 224, 256])
def test_a_transform_in_place_has_the_reference_s_bits(n, inverse):
    """Also where the numbers lie in disorder."""
    numbers = torch.rand(n, 3, generator=torch.Generator().manual_seed(n))
    places = random.Random(n).sample(range(n), n)
    how = Transform(places, leaf_of(n), inverse)
    x = torch.empty_like(numbers)
    x[places] = numbers

    def pass_over(pairs):
        for a, b, *factors in pairs:
            first, other = x[a].clone(), x[b].clone()
            p, q, r, s = (torch.full_like(first, each) for each in factors)
            x[a], x[b] = fused_multiply_add(q, first, p * other), fused_multiply_add(s, first, r * other)

    for pairs in how.before:
        assert len({place for pair in pairs for place in pair[:2]}) == 2 * len(pairs)
        pass_over(pairs)
    for kind, at in how.leaves:
        x[list(at)] = leaf(kind, x[list(at)])
    for pairs in how.after:
        pass_over(pairs)
    assert torch.equal(x[how.out], transformed(numbers, (0,), inverse=inverse))


def test_lengths_without_a_leaf():
    assert [leaf_of(n) for n in (32, 448, 96, 768, 1024)] == [32, 28, 24, 24, 32]
    assert [leaf_of(n) for n in (1, 16, 30, 375, 2048)] == [None] * 5
    assert tables(32, 30, torch.device("cpu")) is None


class Pass(ctypes.Structure):
    _fields_ = (("first", ctypes.c_int), ("count", ctypes.c_int))


class Side(ctypes.Structure):
    """SpectrumSide of csrc/cuda/classwise_spectrum.h."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("levels", "leaves", "kinds", "out")),
        *((name, Pass * MOST_LEVELS) for name in ("before", "after")),
    )


class Call(ctypes.Structure):
    """ClasswiseSpectrumCuda of the same."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("images", "labels", "weights", "curves", "out", "work")),
        *((name, ctypes.c_void_p) for name in ("places", "pairs", "factors")),
        ("type", ctypes.c_int),
        ("last", ctypes.c_bool),
        *((name, ctypes.c_int64) for name in ("count", "classes", "at_once")),
        *((name, ctypes.c_int) for name in ("channels", "height", "width", "sines")),
        *((name, ctypes.c_int) for name in ("leaf_down", "leaf_across")),
        *((name, Side) for name in ("down", "across", "back_across", "back_down")),
        ("stream", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    loaded = compiled_for_the_host("classwise_spectrum", tmp_path_factory.mktemp("cuda"), Call)
    loaded.forward.restype = ctypes.c_char_p
    return loaded


def side(levels, leaves, kinds, out, *passes):
    made = Side(levels, leaves, kinds, out)
    for level in range(2 * levels):
        at = (made.before if level < levels else made.after)[level % levels]
        at.first, at.count = passes[2 * level : 2 * level + 2]
    return made


def run(cuda, images, labels, weights, curves, at_once=2):
    """The result and the way to it, a SpectrumWay; nothing is written outside of it."""
    plan = tables(*images.shape[2:], torch.device("cpu"))
    out, check = guarded(images)
    out.copy_(torch.full_like(out, 7))
    work = torch.full((at_once * images[0].numel(),), torch.nan)
    call = Call(
        *(t.data_ptr() for t in (images, labels, weights, curves, out, work, *plan[1:])),
        type=ELEMENT_TYPES.index(images.dtype),
        last=images.stride(1) == 1 and images.shape[1] > 1,
        count=len(images),
        classes=len(weights),
        at_once=at_once,
        channels=images.shape[1],
        height=images.shape[2],
        width=images.shape[3],
        sines=curves.shape[2],
        leaf_down=leaf_of(images.shape[2]),
        leaf_across=leaf_of(images.shape[3]),
    )
    for name, numbers in zip(("down", "across", "back_across", "back_down"), plan.sides, strict=True):
        setattr(call, name, side(*numbers))
    assert cuda.forward(ctypes.byref(call)) is None
    check()
    return out, cuda.way(ctypes.byref(call))


IMAGE, PARTS = 1, 2
SHAPES = {  # one level and more, lanes that fill warps and such that do not
    (5, 3, 32, 32): IMAGE,
    (2, 1, 28, 28): IMAGE,
    (3, 3, 64, 64): IMAGE,
    (2, 2, 48, 24): IMAGE,
    (2, 5, 32, 64): IMAGE,
    (2, 7, 32, 32): IMAGE,
    (3, 1, 56, 56): IMAGE,
    (3, 1, 96, 96): IMAGE,
    (4, 3, 28, 32): PARTS,
    (2, 32, 24, 48): PARTS,
    (3, 3, 96, 56): PARTS,
    (3, 3, 224, 224): PARTS,
}


@needs_compiler
@pytest.mark.unsanitized
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", CUDA_TYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_bits_equal_the_reference(cuda, shape, dtype, channels_last):
    """Also of an image left alone; threads in either order; images one after the other in a block."""
    cuda.set_device(*H100, channels_last)
    call = random_call(1, shape, 5 if shape[1] == 3 else 2, dtype, channels_last)
    call[1][1] = -1
    result, way = run(cuda, *call)
    assert torch.equal(result, contract.reference(*call))
    assert way == SHAPES[shape]


@needs_compiler
@pytest.mark.unsanitized
@pytest.mark.parametrize(("shared", "size", "way"), [(101_376, 64, 1), (40_000, 64, 2), (101_376, 1024, 0)])
def test_a_smaller_device_takes_another_way(cuda, shared, size, way):
    cuda.set_device(8, shared, False)
    call = Call(channels=3, height=size, width=size, leaf_down=leaf_of(size), leaf_across=leaf_of(size))
    assert cuda.way(ctypes.byref(call)) == way
    if size == 64:
        call = random_call(2, (2, 3, size, size))
        assert torch.equal(run(cuda, *call)[0], contract.reference(*call))


@needs_compiler
@pytest.mark.unsanitized
@pytest.mark.parametrize("size", [32, 224])
def test_nan_stays_in_its_image_and_no_wrong_label_is_followed(cuda, size):
    cuda.set_device(*H100, False)
    images, labels, *others = random_call(4, (3, 3, size, size), dtype=torch.float32)
    images[1, 2, -1, -1], labels[2] = torch.nan, 3
    result, _ = run(cuda, images, labels, *others)
    assert result[1].isnan().all()
    assert torch.equal(result[:1], contract.reference(images[:1], labels[:1], *others))
    assert torch.equal(result[2], images[2])
