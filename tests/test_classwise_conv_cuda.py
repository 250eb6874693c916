"""classwise_conv's CUDA C++ kernels on this machine's CPU, thread by thread: tests/cuda_on_host.

What runs are the sources of the GPU's module, compiled for the host: their launches, tilings, barriers,
shared memory and clusters. PyTorch's side of a call, in csrc/cuda/classwise_conv.cpp, does not run.
"""

import ctypes
import faulthandler
import multiprocessing
import signal

import pytest
import torch
from cuda_on_this_host import A100, H100, SMALL, compiled_for_the_host, guarded, needs_compiler
from test_classwise_conv import FLOATS, TOLERANCES, random_call

from unlearnable_kernels.ops import classwise_conv as contract

pytestmark = [pytest.mark.unsanitized, needs_compiler]
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Call(ctypes.Structure):
    """ClasswiseConvCuda of csrc/cuda/classwise_conv.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("images", "grad", "out", "work", "each_filter")),
        *((name, ctypes.c_void_p) for name in ("filter_grads", "labels", "filters")),
        ("type", ctypes.c_int),
        *((name, ctypes.c_int64) for name in ("count", "classes", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("channel_step", "row_step", "step", "k")),
        ("padding", ctypes.c_int),
        ("rescale", ctypes.c_bool),
        ("stream", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    loaded = compiled_for_the_host("classwise_conv", tmp_path_factory.mktemp("cuda"), Call)
    for name in ("forward", "backward"):
        getattr(loaded, name).restype = ctypes.c_char_p
    return loaded


def filled(images, labels, filters, padding, rescale):
    """A call without its results."""
    last = not images.is_contiguous()
    count, channels, height, width = images.shape
    step = channels if last else 1
    return Call(
        images=images.data_ptr(),
        labels=labels.data_ptr(),
        filters=filters.data_ptr(),
        type=DTYPES.index(images.dtype),
        count=count,
        classes=len(filters),
        channels=channels,
        height=height,
        width=width,
        channel_step=1 if last else height * width,
        row_step=width * step,
        step=step,
        k=filters.shape[1],
        padding=contract.PADDINGS.index(padding),
        rescale=rescale == "max",
    )


def forward(cuda, images, labels, filters, padding="zeros", rescale="max"):
    filters = filters.to(torch.float64 if images.dtype == torch.float64 else torch.float32).contiguous()
    call = filled(images, labels, filters, padding, rescale)
    out, check = guarded(images)
    call.out = out.data_ptr()
    assert cuda.forward(ctypes.byref(call)) is None
    check()
    return out


def backward(cuda, grad, images, labels, filters, padding="zeros", rescale="max"):
    filters = filters.to(torch.float64 if images.dtype == torch.float64 else torch.float32).contiguous()
    call = filled(images, labels, filters, padding, rescale)
    k = filters.shape[1]
    out, check = guarded(images)
    work = torch.full((images.numel(),), torch.nan, dtype=filters.dtype)
    parts = cuda.backward_parts(ctypes.byref(call))
    each = torch.full((len(images), parts, k, k), torch.nan, dtype=filters.dtype)
    sums = torch.zeros_like(filters)
    call.grad, call.out, call.work = grad.data_ptr(), out.data_ptr(), work.data_ptr()
    call.each_filter, call.filter_grads = each.data_ptr(), sums.data_ptr()
    assert cuda.backward(ctypes.byref(call)) is None
    check()
    return out, sums


# One block; clusters of two and of eight blocks; tiles gone over twice; the next image brought ahead, by one
# block and by two; not tiled; smaller than the margin.
@pytest.mark.parametrize(
    ("shape", "k", "device"),
    [
        ((3, 3, 32, 32), 3, H100),
        ((2, 3, 16, 16), 9, SMALL),
        ((2, 3, 48, 64), 5, SMALL),
        ((2, 3, 48, 64), 3, (8, 12_000)),
        ((1, 3, 224, 224), 9, H100),
        ((3, 3, 64, 96), 9, H100),
        ((4, 3, 104, 96), 3, H100),
        ((2, 5, 17, 19), 5, A100),
        ((2, 3, 11, 13), 7, H100),
        ((1, 2, 3, 2), 9, H100),
        ((1, 1, 5, 700), 3, SMALL),
    ],
)
@pytest.mark.parametrize("channels_last", [False, True], ids=["planar", "interleaved"])
# Of an unguarded write and read one order is the wrong one.
@pytest.mark.parametrize("order", [False, True], ids=["ascending", "descending"])
def test_bytes_equal_the_cpus(cuda, shape, k, device, channels_last, order):
    cuda.set_device(*device, order)
    images, labels, filters = random_call(k, shape, k, channels_last=channels_last)
    if len(labels) > 2:
        labels[len(labels) % 3] = -1
    for padding, rescale, shift in (("reflect", "max", 0.2), ("circular", "none", 0.9)):
        call = images, labels, filters - shift, padding, rescale
        assert torch.equal(forward(cuda, *call), torch.ops.unlearn.classwise_conv(*call))


@pytest.mark.parametrize("padding", contract.PADDINGS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_equal_the_cpus(cuda, dtype, padding):
    cuda.set_device(*SMALL, False)
    for shape, k in (((2, 3, 24, 32), 3), ((2, 2, 9, 10), 5), ((1, 1, 4, 3), 7)):
        call = *random_call(1, shape, k, dtype=dtype), padding, "max"
        assert torch.equal(forward(cuda, *call), torch.ops.unlearn.classwise_conv(*call))


def test_images_that_begin_off_16_bytes(cuda):
    cuda.set_device(*H100, False)
    images, labels, filters = random_call(2, (2, 3, 32, 32))
    shifted = torch.zeros(images.numel() + 1, dtype=torch.uint8)[1:].view(images.shape)
    shifted.copy_(images)
    assert torch.equal(forward(cuda, shifted, labels, filters), forward(cuda, images, labels, filters))


REFUSED = {
    "labels[2] is 7, but must lie in [-1, 4)": (2, 7, 0.0),
    "labels[0] is -2, but must lie in [-1, 4)": (0, -2, 0.0),
    "filters must lie within ±1e30 for uint8 images, got inf": (0, 0, torch.inf),
}


def forward_without_a_dump(*call):
    faulthandler.disable()
    forward(*call)


# Tiled; not tiled; without a pixel.
@pytest.mark.parametrize(("shape", "k"), [((3, 3, 32, 32), 3), ((3, 3, 8, 8), 7), ((3, 3, 0, 8), 3)])
@pytest.mark.parametrize("message", REFUSED)
def test_the_kernel_itself_refuses_values(cuda, shape, k, message, capfd):
    """What stops a GPU's kernel ends the program here, so that a process of its own calls it."""
    at, label, weight = REFUSED[message]
    images, labels, filters = random_call(1, shape, k, 4)
    labels[at] = label
    filters[-1, -1, -1] += weight
    cuda.set_device(*H100, False)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=forward_without_a_dump, args=(cuda, images, labels, filters))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGABRT
    assert message in capfd.readouterr().out


@pytest.mark.parametrize("rescale", contract.RESCALES)
@pytest.mark.parametrize("padding", contract.PADDINGS)
def test_gradients_agree_with_float64(cuda, padding, rescale):
    for number, dtype in enumerate(FLOATS):
        cuda.set_device(*H100, number % 2 == 0)
        shape, k = [((3, 3, 9, 11), 3), ((2, 1, 3, 2), 7), ((1, 3, 6, 5), 5), ((2, 2, 7, 4), 3)][number]
        images, labels, filters = random_call(6, shape, k, 2, dtype, rescale == "max")
        labels[0] = -1
        grad = torch.empty_like(images).copy_(
            torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(dtype)
        )
        results = backward(cuda, grad, images, labels, filters, padding, rescale)
        exact = contract.reference_backward(
            grad.double(), images.double(), labels, filters.double(), padding, rescale
        )
        for result, expected in zip(results, exact, strict=True):
            tolerance = {"rtol": 1e-3, "atol": 2e-3} if result.dtype == torch.float32 else TOLERANCES[dtype]
            scale = float(expected.abs().max().clamp(min=1e-9))
            torch.testing.assert_close(result.double() / scale, expected / scale, **tolerance)


# Clusters of two and of eight blocks; without clusters one block goes over all of it.
@pytest.mark.parametrize(
    ("shape", "device", "parts"),
    [((2, 3, 88, 80), H100, 2), ((1, 2, 4, 10_000), H100, 8), ((2, 3, 88, 80), A100, 1)],
)
def test_gradients_of_large_images_agree_with_float64(cuda, shape, device, parts):
    cuda.set_device(*device, True)
    images, labels, filters = random_call(6, shape, 3, 2, torch.float32)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    assert cuda.backward_parts(ctypes.byref(filled(images, labels, filters, "reflect", "max"))) == parts
    results = backward(cuda, grad, images, labels, filters, "reflect", "max")
    exact = contract.reference_backward(
        grad.double(), images.double(), labels, filters.double(), "reflect", "max"
    )
    for result, expected in zip(results, exact, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(result.double() / scale, expected / scale, rtol=1e-3, atol=1e-5)
