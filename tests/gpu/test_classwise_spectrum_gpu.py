"""classwise_spectrum on a GPU: the CPU's bits, in one launch and in three; streams, graphs, messages."""

import subprocess
import sys

import pytest
import torch
from test_classwise_spectrum import BAD_CALLS, random_call

from unlearnable_kernels import classwise_spectrum
from unlearnable_kernels.ops import classwise_spectrum as contract

pytestmark = pytest.mark.gpu
SAMPLES = list(contract.sample_inputs())
SHAPES = [
    (40, 3, 32, 32),
    (5, 3, 64, 64),
    (3, 1, 28, 28),
    (2, 33, 24, 32),
    (2, 3, 96, 112),
    (3, 1, 96, 96),
    (3, 1, 56, 56),
    (4, 3, 28, 32),
    (3, 3, 224, 224),
    (2, 3, 90, 375),
    (2, 20, 40, 56),
    (2, 1, 1, 3000),
    (2, 1, 6, 3000),
    (1, 2, 5000, 3),
    (2, 3, 1, 1),
]


@pytest.fixture(params=["CUDA", "Triton"])
def backend(request, monkeypatch):
    """The one that serves where both could."""
    from unlearnable_kernels.triton_kernels import classwise_spectrum as kernels

    served = []

    def launch(*arguments):
        served.append(request.param == "CUDA" and in_cuda(*arguments))
        return served[-1]

    in_cuda = kernels._launch_in_cuda
    monkeypatch.setattr(kernels, "_launch_in_cuda", launch)
    return served


def on_gpu(arguments):
    return tuple(a.cuda() for a in arguments)


@pytest.mark.parametrize("arguments", SAMPLES, ids=range(len(SAMPLES)))
def test_results_equal_the_cpu(arguments):
    result, expected = classwise_spectrum(*on_gpu(arguments)), classwise_spectrum(*arguments)
    assert result.is_cuda
    assert result.dtype == expected.dtype
    assert result.stride() == expected.stride()
    assert torch.equal(result.cpu(), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", contract.IMAGE_DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_bits_equal_the_cpu(backend, shape, dtype, channels_last):
    images, labels, *others = random_call(1, shape, 3, dtype, channels_last)
    labels[1:2] = -1
    result = classwise_spectrum(*on_gpu((images, labels, *others)))
    assert torch.equal(result.cpu(), classwise_spectrum(images, labels, *others))


def test_cuda_serves_the_usual_sizes(backend, request):
    for size, channels, served in ((32, 3, True), (224, 3, True), (30, 3, False), (32, 33, False)):
        classwise_spectrum(*on_gpu(random_call(11, (2, channels, size, size))))
        assert backend.pop() == (served and request.node.callspec.params["backend"] == "CUDA")


def test_more_images_than_the_work_space_holds(backend, monkeypatch):
    from unlearnable_kernels.triton_kernels import classwise_spectrum as kernels

    monkeypatch.setattr(kernels, "WORK", 1 << 21)
    monkeypatch.setattr(kernels, "CUDA_WORK", 1 << 18)
    call = random_call(2, (7, 3, 112, 96), 3)
    assert torch.equal(classwise_spectrum(*on_gpu(call)).cpu(), classwise_spectrum(*call))


def test_strides():
    call = random_call(3, (6, 3, 28, 24))
    expected = classwise_spectrum(*call)
    x, y, w, c = on_gpu(call)
    wide = torch.zeros(6, 3, 28, 48, dtype=torch.uint8, device="cuda")
    wide[..., ::2] = x
    assert torch.equal(classwise_spectrum(wide[..., ::2], y, w, c).cpu(), expected)
    other = w.mT.contiguous().mT, c.flip(3).contiguous().flip(3)
    assert torch.equal(classwise_spectrum(x.flip(0), y.flip(0), *other).flip(0).cpu(), expected)


def test_nan_stays_in_its_image():
    images, labels, *others = random_call(4, (3, 3, 24, 24), dtype=torch.float32)
    images[1, 2, -1, -1] = torch.nan
    call = images, labels, *others
    result = classwise_spectrum(*on_gpu(call)).cpu()
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], classwise_spectrum(*call)[[0, 2]])


def test_gradcheck():
    images, _, weights, curves = (t.double().cuda() for t in random_call(5, (4, 2, 2, 3), 1))
    labels = torch.tensor([1, -1, 2, 1], device="cuda")
    inputs = [t.requires_grad_() for t in (images, weights, curves)]
    torch.autograd.gradcheck(lambda x, w, c: classwise_spectrum(x, labels, w, c), inputs)


def test_compiles_into_one_graph():
    call = on_gpu(random_call(6, (6, 3, 32, 32)))
    compiled = torch.compile(lambda *a: classwise_spectrum(*a) // 2, fullgraph=True)
    assert torch.equal(compiled(*call), classwise_spectrum(*call) // 2)


@pytest.mark.parametrize("size", [32, 160])
def test_a_graph_captures_it(backend, size):
    images, *others = on_gpu(random_call(7, (6, 3, size, size)))
    classwise_spectrum(images, *others)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = classwise_spectrum(images, *others)
    images.copy_(images.flip(0))
    graph.replay()
    assert torch.equal(result, classwise_spectrum(images, *others))


def test_runs_on_the_current_stream(backend):
    call = on_gpu(random_call(8, (64, 3, 32, 32)))
    expected = classwise_spectrum(*call)
    images, stream = torch.zeros_like(call[0]), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what ran on another stream would see zeros
        images.copy_(call[0])
        result = classwise_spectrum(images, *call[1:])
    stream.synchronize()
    assert torch.equal(result, expected)


def test_more_than_two_to_the_31_elements(backend):
    count = 2**31 // 3072 + 3
    few, _, weights, curves = random_call(9, (2, 3, 32, 32))
    images = torch.zeros(count, 3, 32, 32, dtype=torch.uint8, device="cuda")
    images[-2:] = few.cuda()
    labels = torch.full((count,), -1, device="cuda")
    labels[-1] = 0
    result = classwise_spectrum(images, labels, weights.cuda(), curves.cuda())[-2:].cpu()
    assert torch.equal(result[0], few[0])
    assert torch.equal(result[1:], classwise_spectrum(few[1:], torch.tensor([0]), weights, curves))


@pytest.mark.parametrize("message", [m for m in BAD_CALLS if " got " in m and "one device" not in m])
def test_bad_arguments_are_named(message):
    with pytest.raises(RuntimeError) as caught:
        classwise_spectrum(*on_gpu(BAD_CALLS[message](*random_call(10))))
    assert message in str(caught.value)


BAD_LABEL = """
import torch
from unlearnable_kernels import classwise_spectrum
images, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 2])
call = images, labels, torch.zeros(2, 8, 8, 3, 3), torch.zeros(2, 3, 1, 2)
classwise_spectrum(*(t.cuda() for t in call))
torch.cuda.synchronize()
"""


def test_a_label_out_of_range_stops_the_gpu():
    """In a process of its own: after a device-side assertion nothing runs on the GPU any more."""
    result = subprocess.run([sys.executable, "-c", BAD_LABEL], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "labels must lie in [-1, 2)" in result.stdout + result.stderr
