import pytest
import torch
from test_bayes_ascent_step import STEPS, assert_same_step, batch, composed

from unlearnable_kernels import bayes_ascent_step

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("count", [2, 60, 512, 5000])
@pytest.mark.parametrize(("norm", "step_size", "eps"), STEPS)
def test_agrees_with_the_cpu_and_with_its_parts(norm, step_size, eps, count):
    tensors = batch(count)
    rest = (4, 1.0, step_size, eps, norm)
    on_device = tuple(t.cuda() for t in tensors)
    result = bayes_ascent_step(*on_device, *rest)
    assert_same_step(tuple(t.cpu() for t in result), bayes_ascent_step(*tensors, *rest), 1e-6)
    assert_same_step(result, composed(*on_device, *rest), 1e-6)


def test_compiles_into_one_graph():
    call = (*(t.cuda() for t in batch()), 4, 1.0, 0.01, 0.03, "linf")
    compiled = torch.compile(lambda *a: bayes_ascent_step(*a), fullgraph=True)
    for a, b in zip(compiled(*call), bayes_ascent_step(*call), strict=True):
        assert torch.equal(a, b)


def test_captured_in_a_cuda_graph():
    call = (*(t.cuda() for t in batch(512, (3, 32, 32))), 4, 4.0, 0.01, 0.03, "linf")
    expected = bayes_ascent_step(*call)  # compiles before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = bayes_ascent_step(*call)
    for tensor in result:
        tensor.fill_(torch.nan)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
