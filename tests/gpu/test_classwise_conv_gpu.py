"""classwise_conv on a GPU, in CUDA C++ and Triton: the CPU's bytes; gradients, streams, graphs, messages."""

import subprocess
import sys

import pytest
import torch
from test_classwise_conv import BAD_CALLS, FLOATS, TOLERANCES, random_call

from unlearnable_kernels import classwise_conv
from unlearnable_kernels.ops import classwise_conv as contract
from unlearnable_kernels.ops import native

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
SAMPLES = list(contract.sample_inputs())
# One block, several blocks of a cluster, tiles gone over twice; whole 16 bytes or none; k = 7 is not tiled.
SHAPES = [
    ((5, 3, 32, 32), 3),
    ((3, 3, 64, 64), 9),
    ((2, 3, 224, 224), 9),
    ((2, 3, 300, 301), 5),
    ((2, 3, 512, 768), 9),
    ((1, 1, 5, 60000), 5),
    ((1, 3, 6000, 2), 3),
    ((2, 70, 33, 48), 3),
    ((2, 4, 17, 19), 5),
    ((3, 3, 11, 13), 7),
    ((1, 1, 1, 1), 9),
    ((2, 2, 3, 2), 9),
]


def on_gpu(arguments):
    return tuple(a.to(DEVICE) if isinstance(a, torch.Tensor) else a for a in arguments)


@pytest.fixture(params=["CUDA C++", "Triton"])
def backend(request):
    """Functions of the operators' names, and which backend they are."""
    if request.param == "Triton":
        from unlearnable_kernels.triton_kernels import classwise_conv as kernels

        return kernels
    assert native.cuda_module is not None, "unlearnable_kernels._C_cuda is not built"
    return torch.ops.unlearn


@pytest.mark.parametrize("arguments", SAMPLES, ids=range(len(SAMPLES)))
def test_results_equal_the_cpu(backend, arguments):
    result, expected = (
        backend.classwise_conv(*on_gpu(arguments)),
        torch.ops.unlearn.classwise_conv(*arguments),
    )
    assert result.device.type == DEVICE
    assert result.dtype == expected.dtype
    assert result.stride() == expected.stride()
    assert torch.equal(result.cpu(), expected)


@pytest.mark.parametrize(("shape", "k"), SHAPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("padding", contract.PADDINGS)
def test_bytes_equal_the_cpu(backend, shape, k, channels_last, padding):
    images, labels, filters = random_call(k, shape, k, channels_last=channels_last)
    for shift, rescale in ((0.0, "max"), (0.5, "max"), (0.9, "none")):
        call = images, labels, filters - shift
        result = backend.classwise_conv(*on_gpu(call), padding, rescale).cpu()
        assert torch.equal(result, torch.ops.unlearn.classwise_conv(*call, padding, rescale))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "k"), SHAPES[:4])
def test_floats_equal_the_cpu(backend, dtype, shape, k):
    call = random_call(1, shape, k, dtype=dtype)
    result = backend.classwise_conv(*on_gpu(call), "reflect", "max").cpu()
    assert torch.equal(result, torch.ops.unlearn.classwise_conv(*call, "reflect", "max"))


def test_images_that_begin_off_16_bytes(backend):
    images, labels, filters = random_call(2, (4, 3, 32, 32))
    shifted = torch.zeros(images.numel() + 1, dtype=torch.uint8, device=DEVICE)[1:].view(images.shape)
    shifted.copy_(images)
    result = backend.classwise_conv(shifted, *on_gpu((labels, filters)))
    assert torch.equal(result.cpu(), classwise_conv(images, labels, filters))


def test_strides_and_images_left_alone(backend):
    images, labels, filters = random_call(3, (8, 3, 32, 48))
    labels[::3] = -1
    expected = classwise_conv(images, labels, filters)
    x, y, s = on_gpu((images, labels, filters))
    hwc = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(backend.classwise_conv(hwc, y, s).cpu(), expected)
    wide = torch.zeros(8, 3, 32, 96, dtype=torch.uint8, device=DEVICE)
    wide[..., ::2] = x
    assert torch.equal(backend.classwise_conv(wide[..., ::2], y, s).cpu(), expected)
    assert torch.equal(backend.classwise_conv(x.flip(0), y.flip(0), s).flip(0).cpu(), expected)


def test_out(backend):
    images, labels, filters = call = on_gpu(random_call(4, (6, 3, 32, 32)))
    out = torch.empty_like(images)
    backend.classwise_conv_into(out, *call)
    assert torch.equal(out, backend.classwise_conv(*call))
    with pytest.raises(RuntimeError, match="so it must share no memory with images"):
        backend.classwise_conv_into(images, images, labels, filters)
    with pytest.raises(RuntimeError, match="out must have the dtype, shape and device of images"):
        backend.classwise_conv_into(out.cpu(), images, labels, filters)


def test_nan_and_infinity_stay_in_their_image(backend):
    images, labels, filters = random_call(5, (3, 3, 20, 20), dtype=torch.float32)
    images[1, 2, 19, 19] = torch.nan
    result = backend.classwise_conv(*on_gpu((images, labels, filters))).cpu()
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], classwise_conv(images, labels, filters)[[0, 2]])


def test_no_images_and_no_classes(backend):
    for shape in ((0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8)):
        images = torch.zeros(shape, dtype=torch.uint8, device=DEVICE)
        labels = torch.zeros(shape[0], dtype=torch.long, device=DEVICE)
        assert backend.classwise_conv(images, labels, torch.rand(2, 3, 3, device=DEVICE)).shape == shape
    image = torch.full((1, 3, 4, 4), 7, dtype=torch.uint8, device=DEVICE)
    unprotected = torch.tensor([-1], device=DEVICE)
    assert torch.equal(backend.classwise_conv(image, unprotected, torch.rand(0, 3, 3, device=DEVICE)), image)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("padding", contract.PADDINGS)
@pytest.mark.parametrize("rescale", contract.RESCALES)
def test_gradients_agree_with_float64_and_repeat(backend, dtype, padding, rescale):
    images, labels, filters = random_call(6, (5, 3, 17, 19), k=5, dtype=dtype, channels_last=rescale == "max")
    labels[2] = -1
    grad = torch.randn(images.shape, generator=torch.Generator().manual_seed(7)).to(dtype)
    call = (*on_gpu((grad, images, labels, filters)), padding, rescale)
    results = backend.classwise_conv_backward(*call)
    exact = contract.reference_backward(
        grad.double(), images.double(), labels, filters.double(), padding, rescale
    )
    for result, again, expected in zip(results, backend.classwise_conv_backward(*call), exact, strict=True):
        tolerance = {"rtol": 1e-3, "atol": 2e-3} if result.dtype == torch.float32 else TOLERANCES[dtype]
        scale = float(expected.abs().max())
        torch.testing.assert_close(result.double().cpu() / scale, expected / scale, **tolerance)
        assert torch.equal(result, again)


def test_gradcheck():
    images, _, filters = on_gpu(random_call(8, (4, 2, 4, 5), dtype=torch.float64))
    images.requires_grad_()
    filters = filters.double().requires_grad_()
    labels = torch.tensor([1, -1, 3, 1], device=DEVICE)
    torch.autograd.gradcheck(lambda x, s: classwise_conv(x, labels, s, "reflect"), (images, filters))


@pytest.mark.parametrize("arguments", SAMPLES[::9], ids=range(len(SAMPLES[::9])))
def test_compiles_into_one_graph(arguments):
    call = on_gpu(arguments)
    compiled = torch.compile(lambda *a: classwise_conv(*a) + 1, fullgraph=True)
    assert torch.equal(compiled(*call), classwise_conv(*call) + 1)


def test_cuda_graph_capture(backend):
    images, labels, filters = on_gpu(random_call(9, (6, 3, 64, 64), k=9))
    out = torch.empty_like(images)
    backend.classwise_conv_into(out, images, labels, filters)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        backend.classwise_conv_into(out, images, labels, filters)
    images.copy_(random_call(10, (6, 3, 64, 64))[0])
    out.zero_()
    graph.replay()
    assert torch.equal(out, backend.classwise_conv(images, labels, filters))


def test_runs_on_the_current_stream(backend):
    call = on_gpu(random_call(11, (64, 3, 32, 32)))
    expected = backend.classwise_conv(*call)
    images, stream = torch.zeros_like(call[0]), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what ran on another stream would see zeros
        images.copy_(call[0])
        result = backend.classwise_conv(images, *call[1:])
    stream.synchronize()
    assert torch.equal(result, expected)


def test_more_than_two_to_the_31_elements(backend):
    count = 2**31 // 3072 + 3
    images = torch.zeros(count, 3, 32, 32, dtype=torch.uint8, device=DEVICE)
    few = random_call(12, (2, 3, 32, 32))[0]
    images[-2:] = few.to(DEVICE)
    labels, filters = torch.full((count,), -1, device=DEVICE), random_call(12)[2]
    labels[-1] = 0
    result = backend.classwise_conv(images, labels, filters.to(DEVICE))[-2:].cpu()
    assert torch.equal(result[0], few[0])
    assert torch.equal(result[1:], classwise_conv(few[1:], torch.tensor([0]), filters))


@pytest.mark.parametrize(
    "message", [m for m in BAD_CALLS if "[1]" not in m and "[5]" not in m and "1e30" not in m]
)
def test_bad_arguments_are_named(backend, message):
    arguments = BAD_CALLS[message](*random_call(13))
    with pytest.raises(RuntimeError) as caught:
        backend.classwise_conv(*on_gpu(arguments))
    assert message in str(caught.value)


BAD_VALUES = """
import sys, torch
from unlearnable_kernels.triton_kernels import classwise_conv as triton_kernels
labels = torch.tensor([0, int(sys.argv[2])], device="cuda")
filters = torch.full((2, 3, 3), float(sys.argv[3]), device="cuda")
backend = torch.ops.unlearn if sys.argv[1] == "CUDA" else triton_kernels
few = torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device="cuda")
backend.classwise_conv(few, labels * 0, torch.ones_like(filters))  # Triton's first launch waits
backend.classwise_conv(few, labels, filters)
print("launched", flush=True)
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("name", ["CUDA", "Triton"])
@pytest.mark.parametrize(
    ("label", "weight", "message"),
    [
        (
            "2",
            "1",
            {"CUDA": "labels[1] is 2, but must lie in [-1, 2)", "Triton": "labels must lie in [-1, 2)"},
        ),
        ("1", "nan", {"CUDA": "filters must lie within ±1e30", "Triton": "filters must lie within ±1e30"}),
    ],
)
def test_bad_values_stop_the_gpu_without_the_host_waiting(name, label, weight, message):
    """In a process of its own: after a device-side assertion nothing runs on the GPU any more."""
    command = [sys.executable, "-c", BAD_VALUES, name, label, weight]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "launched" in result.stdout
    assert message[name] in result.stdout + result.stderr
