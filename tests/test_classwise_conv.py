import hashlib
import os
import resource
from pathlib import Path

import fresh_process
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import unlearnable_kernels
from unlearnable_kernels import classwise_conv
from unlearnable_kernels.ops import classwise_conv as contract

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOLERANCES = {
    torch.float16: {"rtol": 2e-3, "atol": 1e-3},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 8e-3},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
}


def random_call(seed, shape=(6, 3, 11, 13), k=3, classes=4, dtype=torch.uint8, channels_last=False):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    images = images if dtype == torch.uint8 else (images / 255).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, shape[:1], generator=generator)
    return images, labels, torch.rand(classes, k, k, generator=generator)


def in_float64(images, labels, filters, padding="zeros", rescale="max"):
    """Equations (1) and (2) by torch's own padding and convolution, in float64."""
    k, mode = filters.shape[-1], {"zeros": "constant"}.get(padding, padding)
    results = []
    for image, label in zip(images.double(), labels, strict=True):
        if label < 0:
            results.append(image)
            continue
        x = image / 255 if images.dtype == torch.uint8 else image
        padded = F.pad(x[None], (k // 2,) * 4, mode=mode)[0]
        y = F.conv2d(padded[:, None], filters[label].double()[None, None])[:, 0]
        y = y / y.amax() if rescale == "max" and y.amax() != 0 else y
        results.append(y * 255 if images.dtype == torch.uint8 else y)
    return torch.stack(results)


def as_released(images, labels, filters):
    """One F.conv2d an image, divided by its maximum, truncated to bytes: methods.md's released program."""
    results = []
    for image, label in zip(images, labels, strict=True):
        weight = filters[label].expand(3, 1, *filters.shape[1:])
        y = F.conv2d((image.float() / 255)[None], weight, padding=filters.shape[-1] // 2, groups=3)[0]
        results.append((y / y.max() * 255).clamp(0, 255).to(torch.uint8))
    return torch.stack(results)


def test_native_kernels_are_built():
    assert unlearnable_kernels.cpu_capability() in ("avx512", "avx2", "default")


def test_released_program_bytes_on_noise():
    images, labels, filters = random_call(0, (64, 3, 32, 32), k=3)
    assert torch.equal(
        classwise_conv(images, labels, filters * 0.3), as_released(images, labels, filters * 0.3)
    )


@pytest.mark.parametrize("k", [3, 9])
def test_released_program_bytes_on_real_images(data_root, k):
    from torchvision.io import decode_image

    files = sorted((data_root / "cifar10" / "train").glob("*/000*.jpg"))
    images = torch.stack([decode_image(str(f)) for f in files])
    labels = torch.tensor([ord(f.parent.name[0]) % 4 for f in files])
    filters = random_call(1, k=k)[2] * (0.3 if k == 3 else 0.06)
    assert len(files) == 100
    assert torch.equal(classwise_conv(images, labels, filters), as_released(images, labels, filters))


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_bytes_equal_the_reference(data):
    shape = tuple(
        data.draw(st.tuples(*(st.integers(lo, hi) for lo, hi in ((0, 3), (1, 4), (1, 40), (1, 40)))))
    )
    k = data.draw(st.sampled_from([1, 3, 5, 7, 9]))
    images, labels, filters = random_call(
        data.draw(st.integers(0, 2**32)), shape, k, channels_last=data.draw(st.booleans())
    )
    filters = filters - data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    labels = torch.where(torch.rand(labels.shape) < 0.2, -1, labels)
    padding, rescale = (
        data.draw(st.sampled_from(contract.PADDINGS)),
        data.draw(st.sampled_from(contract.RESCALES)),
    )
    result = classwise_conv(images, labels, filters, padding, rescale)
    expected = contract.reference(images, labels, filters, padding, rescale)
    assert result.stride() == (images.stride() if images.numel() else expected.stride())
    assert torch.equal(result, expected)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_floats_agree_with_float64(data):
    k = data.draw(st.sampled_from([1, 3, 5, 9]))
    side = st.integers(k // 2 + 1, 37)  # torch's reflect wants an image larger than its padding
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4)), data.draw(side), data.draw(side))
    dtype = data.draw(st.sampled_from(FLOATS))
    call = random_call(
        data.draw(st.integers(0, 999)), shape, k, dtype=dtype, channels_last=data.draw(st.booleans())
    )
    padding, rescale = (
        data.draw(st.sampled_from(contract.PADDINGS)),
        data.draw(st.sampled_from(contract.RESCALES)),
    )
    result = classwise_conv(*call, padding, rescale)
    scale = 1 if rescale == "max" else float(call[2].sum((1, 2)).max())
    expected = in_float64(*call, padding, rescale)
    torch.testing.assert_close(result.double() / scale, expected / scale, **TOLERANCES[dtype])


# The first ones are filtered once, tile by tile; those of over 2²⁰ elements twice.
@pytest.mark.parametrize(
    "shape",
    [(2, 3, 700, 20), (2, 3, 300, 301), (2, 3, 592, 592), (1, 1, 5, 210_000), (1, 3, 180_000, 2)],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_larger_than_the_work_space(shape, channels_last):
    call = random_call(3, shape, k=5, channels_last=channels_last)
    assert torch.equal(classwise_conv(*call), contract.reference(*call))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("padding", contract.PADDINGS)
def test_every_output_element_is_written(dtype, padding):
    images, labels, filters = random_call(4, (3, 3, 9, 10), dtype=dtype)
    images.requires_grad_()
    filters.requires_grad_()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(3, dtype=dtype).isnan().all()
        result = classwise_conv(images, labels, filters, padding)
        result.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert result.isfinite().all()
    assert images.grad.isfinite().all()
    assert filters.grad.isfinite().all()


@pytest.mark.parametrize("padding", contract.PADDINGS)
@pytest.mark.parametrize("rescale", contract.RESCALES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients(padding, rescale, channels_last):
    images, _, filters = random_call(5, (4, 2, 4, 5), dtype=torch.float64, channels_last=channels_last)
    images = (images + torch.rand(images.shape) * 1e-3).requires_grad_()  # no ties at the maximum
    filters = filters.double().requires_grad_()
    labels = torch.tensor([1, -1, 3, 1])
    torch.autograd.gradcheck(lambda x, s: classwise_conv(x, labels, s, padding, rescale), (images, filters))


def test_gradient_is_shared_among_tied_maxima():
    images = torch.full((1, 1, 1, 4), 0.5, dtype=torch.float64, requires_grad=True)
    result = classwise_conv(images, torch.tensor([0]), torch.ones(1, 1, 1))
    (result * torch.tensor([1.0, 2, 3, 6])).sum().backward()
    torch.testing.assert_close(images.grad.flatten(), (torch.tensor([1.0, 2, 3, 6]) - 3).double() / 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernel_gradients_equal_the_reference(dtype):
    images, labels, filters = random_call(6, (5, 3, 17, 19), k=5, dtype=dtype)
    grad = torch.randn(images.shape).to(dtype)
    arguments = (grad, images, labels, filters, "reflect", "max")
    for kernel, plain in zip(
        torch.ops.unlearn.classwise_conv_backward(*arguments),
        contract.reference_backward(*arguments),
        strict=True,
    ):
        tolerance = {"rtol": 1e-4, "atol": 1e-3} if kernel.dtype == torch.float32 else TOLERANCES[dtype]
        torch.testing.assert_close(kernel, plain, **tolerance)


DIGEST = """
import hashlib, sys, torch
from unlearnable_kernels import classwise_conv, cpu_capability
sys.path.insert(0, sys.argv[1])
from test_classwise_conv import digest_of_many
print(cpu_capability(), digest_of_many())
"""


def digest_of_many():
    digest = hashlib.sha256()
    for k in (1, 3, 5, 9):
        for shape in ((7, 3, 32, 32), (3, 3, 64, 64), (2, 1, 5, 3), (1, 3, 224, 224)):
            for channels_last in (False, True):
                for padding in ("zeros", "reflect"):
                    call = random_call(k, shape, k, channels_last=channels_last)
                    digest.update(classwise_conv(*call, padding).contiguous().numpy().tobytes())
    return digest.hexdigest()


def test_bytes_do_not_depend_on_the_instruction_set():
    order = ("default", "avx2", "avx512")
    names = order[: order.index(unlearnable_kernels.cpu_capability()) + 1]
    seen = set()
    for name in names:
        env = os.environ | {"UNLEARNABLE_CPU_CAPABILITY": name}
        used, digest = fresh_process.run(DIGEST, Path(__file__).parent, env=env).stdout.split()
        assert used == name
        seen.add(digest)
    assert seen == {digest_of_many()}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_results_do_not_depend_on_threads_or_batch_split(dtype):
    images, labels, filters = random_call(7, (40, 3, 32, 32), dtype=dtype)
    whole = classwise_conv(images, labels, filters)
    one_by_one = [classwise_conv(images[i : i + 1], labels[i : i + 1], filters) for i in range(len(images))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = classwise_conv(images, labels, filters)
    torch.set_num_threads(threads)
    assert torch.equal(whole, torch.cat(one_by_one))
    assert torch.equal(whole, alone)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.uint8, (1, 3, 300, 301)),
        (torch.bfloat16, (1, 1, 5, 210_000)),
        (torch.float64, (2, 3, 200, 220)),
    ],
)
@pytest.mark.parametrize("rescale", contract.RESCALES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_large_image_is_the_same_however_many_threads_share_it(
    dtype, shape, rescale, channels_last, with_threads
):
    images, _, filters = random_call(9, shape, k=5, dtype=dtype, channels_last=channels_last)
    call = images, torch.tensor([2, -1][: shape[0]]), filters - 0.3, "reflect", rescale
    alone, *shared = (with_threads(n, lambda: classwise_conv(*call)) for n in (1, 2, 5, 16))
    for result in shared:
        assert torch.equal(result, alone)


def test_a_nan_in_a_large_image_fills_it_however_many_threads_share_it(with_threads):
    images, labels, filters = random_call(9, (1, 1, 500, 500), dtype=torch.float32)
    images[0, 0, 250, 250] = torch.nan
    alone, shared = (with_threads(n, lambda: classwise_conv(images, labels, filters)) for n in (1, 4))
    assert alone.isnan().all()
    assert shared.isnan().all()
    dark = torch.zeros_like(images)
    assert torch.equal(with_threads(4, lambda: classwise_conv(dark, labels, filters)), dark)


SHARED = """
import torch, unlearnable_kernels
from pathlib import Path
from unlearnable_kernels import classwise_conv
torch.set_num_threads(4)
images = torch.randint(0, 256, (1, 3, 1500, 1500), dtype=torch.uint8)
call = images, torch.tensor([0]), torch.rand(1, 9, 9)
classwise_conv(*call)
def ticks():  # of processor time, of each thread
    return {t.name: sum(map(int, (t / "stat").read_text().rsplit(")")[1].split()[11:13]))
            for t in Path("/proc/self/task").iterdir()}
before = ticks()
for _ in range(12): classwise_conv(*call)
print(sum(value > before.get(name, 0) for name, value in ticks().items()))
"""


@pytest.mark.unsanitized
def test_threads_share_one_large_image():
    assert int(fresh_process.run(SHARED).stdout) >= 2


def test_strides():
    images, labels, filters = random_call(8, (8, 3, 20, 22))
    expected = classwise_conv(images, labels, filters)
    hwc = images.permute(0, 2, 3, 1).contiguous()
    permuted = classwise_conv(hwc.permute(0, 3, 1, 2), labels, filters)
    assert permuted.stride() == hwc.permute(0, 3, 1, 2).stride()
    assert torch.equal(permuted, expected)
    wide = torch.zeros(16, 3, 20, 44, dtype=torch.uint8)
    wide[::2, :, :, ::2] = images
    assert torch.equal(classwise_conv(wide[::2, :, :, ::2], labels, filters), expected)
    spread = torch.stack([labels, labels], 1)[:, 0]
    assert torch.equal(classwise_conv(images, spread, filters.mT.contiguous().mT), expected)
    assert torch.equal(classwise_conv(images.flip(0), labels.flip(0), filters).flip(0), expected)


def test_label_minus_one_leaves_the_image():
    images, labels, filters = random_call(9)
    labels[2] = -1
    result = classwise_conv(images, labels, filters)
    assert torch.equal(result[2], images[2])
    assert not torch.equal(result[3], images[3])


def test_no_images_no_classes_one_pixel():
    filters = torch.rand(2, 3, 3)
    for shape in ((0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8)):
        images = torch.zeros(shape, dtype=torch.uint8)
        assert classwise_conv(images, torch.zeros(shape[0], dtype=torch.long), filters).shape == shape
    image = torch.full((1, 3, 1, 1), 7, dtype=torch.uint8)
    assert torch.equal(classwise_conv(image, torch.tensor([-1]), torch.rand(0, 3, 3)), image)
    assert (classwise_conv(image, torch.tensor([1]), filters, "reflect") == 255).all()


def test_black_stays_black_and_white_stays_white():
    labels, filters = torch.tensor([0, 0]), torch.rand(1, 3, 3)
    images = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 255)]).to(torch.uint8)
    result = classwise_conv(images, labels, filters, "replicate")
    assert (result[0] == 0).all()
    assert (result[1] == 255).all()
    assert (classwise_conv(images.float(), labels, filters)[0] == 0).all()


def test_saturation_and_negative_maxima():
    images, labels, _ = random_call(10, (4, 3, 9, 9))
    huge = torch.full((4, 3, 3), 1e30)
    assert torch.equal(classwise_conv(images, labels, huge, "zeros", "none"), torch.full_like(images, 255))
    negative = -torch.rand(4, 3, 3) - 0.1
    assert torch.equal(classwise_conv(images, labels, negative), contract.reference(images, labels, negative))


def test_nan_and_infinity_stay_in_their_image():
    images, labels, filters = random_call(11, (3, 3, 20, 20), dtype=torch.float32)
    clean = classwise_conv(images, labels, filters)
    images[1, 2, 19, 19] = torch.nan
    result = classwise_conv(images, labels, filters)
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], clean[[0, 2]])


def test_out():
    images, labels, filters = random_call(12)
    out = torch.empty_like(images)
    assert classwise_conv(images, labels, filters, out=out) is out
    assert torch.equal(out, classwise_conv(images, labels, filters))
    with pytest.raises(RuntimeError, match="out is written in place, so it must share no memory with images"):
        classwise_conv(images, labels, filters, out=images)
    with pytest.raises(RuntimeError, match="out must have the dtype, shape and device of images"):
        classwise_conv(images, labels, filters, out=out[:-1])
    with pytest.raises(RuntimeError, match="out must have the memory format of the result: contiguous"):
        classwise_conv(images, labels, filters, out=out.contiguous(memory_format=torch.channels_last))
    with pytest.raises(RuntimeError, match="out= is not differentiable"):
        classwise_conv(images.float(), labels, filters.requires_grad_(), out=out.float())


@pytest.mark.parametrize("channels_last", [False, True])
def test_out_compiles_into_one_graph(channels_last):
    images, labels, filters = random_call(16, channels_last=channels_last)
    compiled = torch.compile(
        lambda x, out: classwise_conv(x, labels, filters, out=out), fullgraph=True, backend="aot_eager"
    )
    out = torch.zeros_like(images)
    compiled(images, out)
    assert torch.equal(out, classwise_conv(images, labels, filters))


def test_out_in_the_reference_is_as_strict():
    images, labels, filters = random_call(17)
    for out, message in (
        (images, "share no memory"),
        (images.float(), "dtype, shape and device"),
        (torch.empty_like(images, memory_format=torch.channels_last), "memory format"),
    ):
        with pytest.raises(RuntimeError, match=message):
            contract.reference_into(out, images, labels, filters)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_empty_images(shape, channels_last):
    images = torch.zeros(shape, dtype=torch.uint8)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    call = images, torch.zeros(shape[0], dtype=torch.long), torch.rand(2, 3, 3)
    assert classwise_conv(*call).stride() == contract.reference(*call).stride()
    assert classwise_conv(*call, out=torch.empty_like(images)).shape == shape


def test_second_derivatives_are_refused():
    images, labels, filters = random_call(18, dtype=torch.float64)
    images.requires_grad_()
    (grad,) = torch.autograd.grad(
        classwise_conv(images, labels, filters).pow(2).sum(), images, create_graph=True
    )
    with pytest.raises(RuntimeError, match="second derivatives are not implemented"):
        grad.sum().backward()


BAD_CALLS = {
    "images must be [N, C, H, W], got 3 dimensions": lambda x, y, s: (x[0], y, s),
    "images must be uint8, float16, bfloat16, float32 or float64": lambda x, y, s: (x.int(), y, s),
    "labels must be int64 [N], got": lambda x, y, s: (x, y.int(), s),
    "labels must hold one label for each of the 6 images, got 5": lambda x, y, s: (x, y[:5], s),
    "labels[1] is 4, but must lie in [-1, 4)": lambda x, y, s: (x, torch.tensor([0, 4, 1, 9, 0, 0]), s),
    "labels[5] is -2, but must lie in [-1, 4)": lambda x, y, s: (x, torch.tensor([0, 0, 1, 0, 0, -2]), s),
    "filters must be [K, k, k] with k odd": lambda x, y, s: (x, y, s[:, :2, :2]),
    "filters must be float32": lambda x, y, s: (x, y, s.double()),
    "must lie within ±1e30 for uint8 images": lambda x, y, s: (x, y, s / 0),
    "padding must be one of zeros, reflect, replicate, circular, got 'same'": lambda x, y, s: (
        x,
        y,
        s,
        "same",
    ),
    "rescale must be one of max, none, got 'mean'": lambda x, y, s: (x, y, s, "zeros", "mean"),
}


@pytest.mark.parametrize("message", BAD_CALLS)
@pytest.mark.parametrize("backend", ["kernel", "reference"])
def test_bad_arguments_are_named(message, backend):
    function = classwise_conv if backend == "kernel" else contract.reference
    with pytest.raises(RuntimeError) as caught:
        function(*BAD_CALLS[message](*random_call(13)))
    assert str(caught.value).startswith("classwise_conv: ")
    assert message in str(caught.value)


def test_mixed_devices_are_refused():
    images, labels, filters = random_call(14)
    with pytest.raises(RuntimeError, match="images, labels and filters must be on one device"):
        classwise_conv(images, labels, filters.to("meta"))


PEAK = """
import resource, torch
from unlearnable_kernels import classwise_conv
images = torch.randint(0, 256, (2, 3, 3000, 3000), dtype=torch.uint8)
labels = torch.zeros(2, dtype=torch.long)
out, filters = torch.zeros_like(images), torch.rand(1, 9, 9)
classwise_conv(images[:, :, :9, :9], labels, filters)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
classwise_conv(images, labels, filters, out=out)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.unsanitized
def test_work_space_is_under_five_mebibytes_a_thread():
    output = fresh_process.run(PEAK).stdout
    assert int(output) < 5 * 1024 * torch.get_num_threads() + 256  # a few pages of stack besides


@pytest.mark.unsanitized
def test_more_than_two_to_the_31_elements():
    if os.sysconf("SC_PHYS_PAGES") * resource.getpagesize() < 12 * 2**30:
        pytest.skip("needs 12 GiB of memory")
    count = 2**31 // 3072 + 3
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8).expand(count, -1, -1, -1).contiguous()
    images[-2:] = random_call(15, (2, 3, 32, 32))[0]
    labels, filters = torch.full((count,), -1), torch.rand(1, 3, 3)
    labels[-1] = 0
    result = classwise_conv(images, labels, filters)
    assert torch.equal(result[-2], images[-2])
    assert torch.equal(result[-1:], contract.reference(images[-1:], labels[-1:], filters))
