"""crop_flip on a GPU: the compiled Triton kernel against the CPU's kernel, bit for bit."""

import subprocess
import sys

import pytest
import torch

from unlearnable_kernels import crop_flip
from unlearnable_kernels.data.augment import random_crop_flip, to_float
from unlearnable_kernels.ops import crop_flip as contract

pytestmark = pytest.mark.gpu


def random_call(shape, padding, batch, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    offsets = torch.randint(2 * padding + 1, (batch, 2), generator=generator)
    flips = torch.randint(2, (batch,), generator=generator).bool()
    return images, offsets, flips, padding, torch.randint(shape[0], (batch,), generator=generator), dtype


def on_gpu(call):
    return tuple(a.cuda() if isinstance(a, torch.Tensor) else a for a in call)


@pytest.mark.parametrize("dtype", contract.DTYPES)
@pytest.mark.parametrize(
    ("shape", "padding"),
    [((64, 32, 32, 3), 4), ((9, 224, 224, 3), 28), ((5, 28, 28, 1), 0), ((3, 5, 7, 40), 60)],
)
def test_equals_the_cpu(shape, padding, dtype):
    call = random_call(shape, padding, 200, dtype)
    result, expected = crop_flip(*on_gpu(call)), crop_flip(*call)
    assert result.stride() == expected.stride()
    assert torch.equal(result.cpu(), expected)


def test_every_level_is_rounded_correctly():
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    expected = (torch.arange(256, dtype=torch.float64) / 255).float()
    assert torch.equal(to_float(images.cuda()).cpu().flatten(), expected)


def test_the_reference_serves_too():
    call = on_gpu(random_call((9, 32, 32, 3), 4, 20))
    assert torch.equal(contract.reference(*call), crop_flip(*call))


def test_compiles_into_one_graph():
    call = on_gpu(random_call((9, 32, 32, 3), 4, 20))
    compiled = torch.compile(lambda *a: crop_flip(*a) * 2, fullgraph=True)
    assert torch.equal(compiled(*call), crop_flip(*call) * 2)


def test_a_graph_captures_it_without_synchronising():
    images, offsets, flips, padding, index, dtype = on_gpu(random_call((9, 32, 32, 3), 4, 20))
    crop_flip(images, offsets, flips, padding, index, dtype)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = crop_flip(images, offsets, flips, padding, index, dtype)
    index.copy_(index.flip(0))
    graph.replay()
    assert torch.equal(result, crop_flip(images, offsets, flips, padding, index, dtype))


def test_random_crop_flip_draws_on_the_device():
    images = random_call((9, 32, 32, 3), 4, 9)[0].cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    first = random_crop_flip(images, generator, dtype=torch.bfloat16)
    assert first.is_cuda
    assert torch.equal(first, random_crop_flip(images, generator.manual_seed(0), dtype=torch.bfloat16))


def test_more_than_two_to_the_31_values():
    count = 2**31 // 3072 + 3
    images, offsets, flips, padding, _, _ = random_call((2, 32, 32, 3), 4, 2)
    index = torch.zeros(count, dtype=torch.long)
    index[-2:] = torch.tensor([0, 1])
    many = torch.full((count, 2), 4)
    many[-2:] = offsets
    mirrored = torch.zeros(count, dtype=torch.bool)
    mirrored[-2:] = flips
    large = on_gpu((images, many, mirrored, padding, index, torch.bfloat16))
    result = crop_flip(*large)
    expected = crop_flip(images, offsets, flips, padding, None, torch.bfloat16)
    assert torch.equal(result[-2:].cpu(), expected)


OUT_OF_RANGE = """
import torch
from unlearnable_kernels import crop_flip
images, index = torch.zeros(3, 8, 8, 3, dtype=torch.uint8).cuda(), torch.tensor([0, 3, 1]).cuda()
offsets, flips = torch.zeros(3, 2, dtype=torch.long).cuda(), torch.zeros(3, dtype=torch.bool).cuda()
crop_flip(images, offsets, flips, 0, index)
torch.cuda.synchronize()
"""


def test_an_index_out_of_range_stops_the_kernel():
    """In a process of its own: a failed assertion leaves the device unusable for the rest of it."""
    result = subprocess.run([sys.executable, "-c", OUT_OF_RANGE], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "index in [0, N)" in result.stderr
