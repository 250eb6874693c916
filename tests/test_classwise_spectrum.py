import math
import os
import subprocess
import sys

import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnable_kernels import classwise_spectrum, cpu_capability
from unlearnable_kernels.ops import classwise_spectrum as contract
from unlearnable_kernels.ops.cosine_transform import transformed

FLOATS = (torch.float32, torch.float64)


def random_call(seed, shape=(4, 3, 10, 13), sines=2, dtype=torch.uint8, channels_last=False, classes=3):
    generator = torch.Generator().manual_seed(seed)
    count, channels, height, width = shape
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    images = images if dtype == torch.uint8 else (images / 255).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (count,), generator=generator)
    mixing = torch.randn(classes, height, width, channels, channels, generator=generator)
    curves = 0.1 * torch.randn(classes, channels, sines, 2, generator=generator)
    return images, labels, torch.eye(channels) + 0.2 * mixing, curves


def in_float64(images, labels, weights, curves):
    """(S2) to (S4) by SciPy's transform and torch's sine, in float64; for bytes times 255, clamped."""
    x = images.double() / (255 if images.dtype == torch.uint8 else 1)
    spectrum = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho"))
    mixed = torch.einsum("nuvcd,nduv->ncuv", weights.double()[labels], spectrum)
    y = torch.from_numpy(scipy.fft.idctn(mixed.numpy(), axes=(2, 3), norm="ortho"))
    amplitudes, phases = curves.double()[labels, ..., None, None].unbind(3)
    rates = 1.5 * math.pi * torch.arange(1.0, curves.shape[2] + 1).double().view(-1, 1, 1)
    z = y + (amplitudes * torch.sin(rates * y[:, :, None] + phases)).sum(2)
    return z.clamp(0, 1) * 255 if images.dtype == torch.uint8 else z


def test_the_compiled_kernel_serves():
    assert torch._C._dispatch_has_kernel_for_dispatch_key("unlearn::classwise_spectrum", "CPU")


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 16, 20, 28, 32, 44, 50, 224])
def test_stages_are_the_cosine_transform(n):
    eye = torch.eye(n, dtype=torch.float64)
    matrix = transformed(eye, (1,))
    torch.testing.assert_close(matrix, torch.from_numpy(scipy.fft.dct(eye.numpy(), axis=1) / 2))
    torch.testing.assert_close(transformed(eye, (1,), inverse=True), matrix.T)


# Lengths in registers and above, odd and even, fewer columns than a vector has lanes.
SHAPES = [
    (2, 3, 32, 32),
    (1, 3, 1, 1),
    (2, 1, 7, 9),
    (1, 3, 20, 33),
    (1, 2, 11, 18),
    (1, 4, 9, 17),
    (1, 3, 37, 50),
    (1, 5, 3, 2),
    (1, 3, 56, 112),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS])
@pytest.mark.parametrize("channels_last", [False, True])
def test_bits_equal_the_reference(shape, dtype, channels_last):
    call = random_call(1, shape, 3, dtype, channels_last)
    result = classwise_spectrum(*call)
    assert torch.equal(result, contract.reference(*call))
    assert result.stride() == call[0].stride()


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*(st.integers(low, high) for low, high in ((1, 2), (1, 4), (1, 40), (1, 40)))),
    channels_last=st.booleans(),
    sines=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_bytes_of_any_shape_equal_the_reference(shape, channels_last, sines, seed):
    call = random_call(seed, shape, sines, channels_last=channels_last)
    assert torch.equal(classwise_spectrum(*call), contract.reference(*call))


@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS])
@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 3, 21, 30), (2, 1, 5, 56)])
def test_agrees_with_float64(shape, dtype):
    call = random_call(2, shape, 3, dtype)
    # Half a byte, or the rounding of float32 of sums of some 10³ values of size 1.
    tolerance = {torch.uint8: 0.5 + 255 * 4e-6, torch.float32: 4e-6, torch.float64: 1e-13}[dtype]
    torch.testing.assert_close(classwise_spectrum(*call).double(), in_float64(*call), rtol=0, atol=tolerance)


def test_bytes_are_rounded_to_the_nearest_and_ties_to_even():
    values = (torch.arange(255) + 0.5) / 255
    ties = values[values * 255 == torch.arange(255) + 0.5]
    assert len(ties) > 100
    count = len(ties)
    white, labels = torch.full((count, 1, 1, 1), 255, dtype=torch.uint8), torch.arange(count)
    result = classwise_spectrum(white, labels, ties.view(-1, 1, 1, 1, 1), torch.zeros(count, 1, 0, 2))
    assert torch.equal(result.flatten().float(), (ties * 255).round())
    assert (result % 2 == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (15, 64), (224, 30)])
def test_matrices_of_one_change_no_byte(size):
    images, labels, _, _ = random_call(3, (2, 3, *size))
    weights = torch.eye(3).expand(3, *size, 3, 3)
    curves = torch.zeros(3, 3, 1, 2)
    assert torch.equal(classwise_spectrum(images, labels, weights, curves), images)


def test_saturates():
    images, labels, weights, curves = random_call(4)
    largest = images, labels, torch.full_like(weights, 1e20), curves * 1e20
    result = classwise_spectrum(*largest)
    assert torch.equal(result, contract.reference(*largest))
    assert set(result.unique().tolist()) <= {0, 255}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_output_element_is_written(dtype, channels_last):
    images, labels, weights, curves = (
        t.requires_grad_() if t.is_floating_point() else t
        for t in random_call(5, dtype=dtype, channels_last=channels_last)
    )
    labels[1] = -1
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        result = classwise_spectrum(images, labels, weights, curves)
        result.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(t.isfinite().all() for t in (result, images.grad, weights.grad, curves.grad))


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients(channels_last):
    call = random_call(6, (4, 2, 2, 3), 1, torch.float64, channels_last)
    images, _, weights, curves = (t.double().requires_grad_() for t in call)
    labels = torch.tensor([1, -1, 2, 1])
    torch.autograd.gradcheck(
        lambda x, w, c: classwise_spectrum(x, labels, w, c), (images, weights, curves), check_forward_ad=True
    )


def test_gradients_of_float32_are_those_of_float64():
    call = random_call(7, (3, 3, 16, 20), dtype=torch.float32)
    grads = []
    for dtype in FLOATS:
        images, weights, curves = (call[i].to(dtype, copy=True).requires_grad_() for i in (0, 2, 3))
        classwise_spectrum(images, call[1], weights, curves).pow(2).sum().backward()
        grads.append([t.grad.double() for t in (images, weights, curves)])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


COMPARE = """
import sys, torch
from unlearnable_kernels import classwise_spectrum, cpu_capability
calls = torch.load(sys.argv[1])
print(cpu_capability(), all(torch.equal(classwise_spectrum(*call), result) for call, result in calls))
"""


@pytest.mark.unsanitized
def test_bits_do_not_depend_on_the_instruction_set(tmp_path):
    calls = [
        random_call(8, (2, channels, *size), 3, dtype, channels_last)
        for channels in (1, 3)
        for size in ((32, 32), (5, 3), (60, 101))
        for dtype in (torch.uint8, torch.float32)
        for channels_last in (False, True)
    ]
    torch.save([(call, classwise_spectrum(*call)) for call in calls], tmp_path / "calls.pt")
    order = ("default", "avx2", "avx512")
    lower = order[: order.index(cpu_capability())]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMPARE, str(tmp_path / "calls.pt")],
            env=os.environ | {"UNLEARNABLE_CPU_CAPABILITY": name},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in lower
    ]
    assert [process.communicate()[0].split() for process in processes] == [[name, "True"] for name in lower]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_results_do_not_depend_on_threads_or_batch_split(dtype, with_threads):
    images, labels, *others = random_call(9, (20, 3, 32, 32), dtype=dtype)
    whole, alone = (with_threads(n, lambda: classwise_spectrum(images, labels, *others)) for n in (3, 1))
    split = [classwise_spectrum(images[i : i + 1], labels[i : i + 1], *others) for i in range(len(images))]
    assert torch.equal(whole, alone)
    assert torch.equal(whole, torch.cat(split))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(torch.uint8, (2, 3, 300, 301)), (torch.uint8, (1, 1, 2600, 1024)), (torch.float64, (1, 3, 90, 180))],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_large_image_is_the_same_however_many_threads_share_it(dtype, shape, channels_last, with_threads):
    images, labels, *others = random_call(10, shape, 1, dtype, channels_last, classes=1)
    labels = torch.tensor([0, -1][: shape[0]])
    alone, *shared = (with_threads(n, lambda: classwise_spectrum(images, labels, *others)) for n in (1, 2, 5))
    assert all(torch.equal(result, alone) for result in shared)
    assert not torch.equal(alone[0], images[0])
    assert torch.equal(alone[1:], images[1:])


def test_strides():
    images, labels, weights, curves = random_call(11, (4, 3, 20, 22))
    expected = classwise_spectrum(images, labels, weights, curves)
    stored = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    result = classwise_spectrum(stored, labels, weights, curves)
    assert result.stride() == stored.stride()
    assert torch.equal(result, expected)
    wide = torch.zeros(8, 3, 20, 44, dtype=torch.uint8)
    wide[::2, :, :, ::2] = images
    assert torch.equal(classwise_spectrum(wide[::2, :, :, ::2], labels, weights, curves), expected)
    spread = torch.stack([labels, labels], 1)[:, 0]
    other = weights.mT.contiguous().mT, curves.flip(3).contiguous().flip(3)
    assert torch.equal(classwise_spectrum(images, spread, *other), expected)


def test_label_minus_one_leaves_the_image():
    images, labels, weights, curves = random_call(12)
    labels[2] = -1
    result = classwise_spectrum(images, labels, weights, curves)
    assert torch.equal(result[2], images[2])
    assert not torch.equal(result[3], images[3])
    none = torch.full_like(labels, -1)
    assert torch.equal(classwise_spectrum(images, none, weights[:0], curves[:0]), images)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_empty_images(shape, channels_last):
    count, channels, height, width = shape
    images = torch.zeros(shape)
    images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    weights, curves = torch.ones(2, height, width, channels, channels), torch.ones(2, channels, 1, 2)
    call = images.requires_grad_(), torch.zeros(count, dtype=torch.long), weights, curves
    result = classwise_spectrum(*call)
    assert result.shape == shape
    assert result.stride() == contract.reference(*call).stride()
    result.sum().backward()


def test_nan_stays_in_its_image():
    images, labels, weights, curves = random_call(13, dtype=torch.float32)
    clean = classwise_spectrum(images, labels, weights, curves)
    images[1, 2, 3, 4] = torch.nan
    result = classwise_spectrum(images, labels, weights, curves)
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2, 3]], clean[[0, 2, 3]])


def test_second_derivatives_are_refused():
    images, *others = random_call(14, dtype=torch.float64)
    images.requires_grad_()
    (grad,) = torch.autograd.grad(classwise_spectrum(images, *others).sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not implemented"):
        grad.sum().backward()


def test_classes_that_do_not_occur_may_hold_anything():
    images, labels, weights, curves = random_call(15)
    labels = labels.clamp(max=1)
    expected = classwise_spectrum(images, labels, weights, curves)
    weights[2], curves[2] = torch.nan, torch.inf
    for function in (classwise_spectrum, contract.reference):
        assert torch.equal(function(images, labels, weights, curves), expected)


BAD_CALLS = {
    "images must be [N, C, H, W], got 3 dimensions": lambda x, y, w, c: (x[0], y, w, c),
    "images must be uint8, float32 or float64, got": lambda x, y, w, c: (x.half(), y, w, c),
    "labels must be int64 [N], got": lambda x, y, w, c: (x, y.int(), w, c),
    "labels must hold one label for each of the 4 images, got 3": lambda x, y, w, c: (x, y[:3], w, c),
    "labels[1] is 3, but must lie in [-1, 3)": lambda x, y, w, c: (x, torch.tensor([0, 3, 9, 0]), w, c),
    "weights must be [K, H, W, C, C], here [K, 10, 13, 3, 3], got [3, 10, 13, 9]": lambda x, y, w, c: (
        x,
        y,
        w.flatten(3),
        c,
    ),
    "weights must be [K, H, W, C, C], here [K, 10, 13, 3, 3], got [3, 13, 10, 3, 3]": lambda x, y, w, c: (
        x,
        y,
        w.transpose(1, 2),
        c,
    ),
    "curves must be [K, C, F, 2], here [3, 3, F, 2], got [2, 3, 2, 2]": lambda x, y, w, c: (x, y, w, c[:2]),
    "curves must be [K, C, F, 2], here [3, 3, F, 2], got [3, 3, 2, 1]": lambda x, y, w, c: (
        x,
        y,
        w,
        c[..., :1],
    ),
    "weights must be float32, got": lambda x, y, w, c: (x, y, w.double(), c),
    "curves must be float32, got": lambda x, y, w, c: (x, y, w, c.double()),
    "curves must be float32 or float64, got": lambda x, y, w, c: (x.double(), y, w, c.half()),
    "weights": lambda x, y, w, c: (x, y, w * torch.nan, c),
    "curves": lambda x, y, w, c: (x, y, w, c + 2e20),
    "must lie within ±1e20 for uint8 images": lambda x, y, w, c: (x, y, w / 0, c),
    "images, labels, weights and curves must be on one device": lambda x, y, w, c: (x, y, w.to("meta"), c),
}


@pytest.mark.parametrize("message", BAD_CALLS)
@pytest.mark.parametrize("function", [classwise_spectrum, contract.reference])
def test_bad_arguments_are_named(message, function):
    with pytest.raises(RuntimeError) as caught:
        function(*BAD_CALLS[message](*random_call(16)))
    assert str(caught.value).startswith("classwise_spectrum: ")
    assert message in str(caught.value)
