import pytest
import torch
from test_pgd_step import random_call

from unlearnable_kernels import pgd_step, pgd_step_
from unlearnable_kernels.ops import pgd_step as contract

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", contract.DTYPES)
@pytest.mark.parametrize("norm", contract.NORMS)
@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (3, 3, 224, 224), (5, 1, 7, 9), (2, 100003)])
def test_agrees_with_the_cpu(dtype, norm, shape):
    call = random_call(0, shape, dtype)
    expected = pgd_step(*call, 0.3, 0.2, norm)
    result = pgd_step(*(t.cuda() for t in call), 0.3, 0.2, norm)
    if norm == "linf":
        assert torch.equal(result.cpu(), expected)
    else:  # norms are summed in another order
        torch.testing.assert_close(result.cpu(), expected, rtol=torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("norm", contract.NORMS)
def test_channels_last_stays(norm):
    call = [t.cuda().contiguous(memory_format=torch.channels_last) for t in random_call(1, (4, 3, 32, 32))]
    result = pgd_step(*call, 0.3, 0.2, norm)
    assert result.is_contiguous(memory_format=torch.channels_last)
    contiguous = pgd_step(*(t.contiguous() for t in call), 0.3, 0.2, norm)
    torch.testing.assert_close(result, contiguous, rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", contract.NORMS)
@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (2, 3, 224, 224)])
def test_captured_in_a_cuda_graph(norm, shape):
    x, grad, origin = (t.cuda() for t in random_call(2, shape))
    start = x.clone()
    pgd_step_(x, grad, origin, 0.1, 0.3, norm)  # compiles before the capture
    expected = x.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        pgd_step_(x, grad, origin, 0.1, 0.3, norm)
    x.copy_(start)
    graph.replay()
    assert torch.equal(x, expected)


@pytest.mark.parametrize("norm", contract.NORMS)
def test_nothing_waits_for_the_device(norm):
    call = [t.cuda() for t in random_call(3, (4, 3, 32, 32))]
    pgd_step_(*call, 0.1, 0.3, norm)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pgd_step_(*call, 0.1, 0.3, norm)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("norm", contract.NORMS)
def test_compiles_into_one_graph(norm):
    call = [t.cuda() for t in random_call(4, (4, 3, 32, 32))]
    compiled = torch.compile(lambda *tensors: pgd_step(*tensors, 0.1, 0.3, norm) + 1, fullgraph=True)
    assert torch.equal(compiled(*call), pgd_step(*call, 0.1, 0.3, norm) + 1)


@pytest.mark.parametrize("norm", contract.NORMS)
def test_opcheck(norm):
    call = [t.cuda() for t in random_call(5)]
    torch.library.opcheck(torch.ops.unlearn.pgd_step.default, (*call, 0.1, 0.3, norm))
    torch.library.opcheck(torch.ops.unlearn.pgd_step_.default, (*call, 0.1, 0.3, norm))


@pytest.mark.parametrize("norm", contract.NORMS)
def test_more_than_two_to_the_31_elements(norm):
    if torch.cuda.mem_get_info()[0] < 14 * 2**30:
        pytest.skip("needs 14 GiB of free GPU memory")
    count = 2**31 // 3072 + 3
    x, grad, origin = (torch.zeros(count, 3072, dtype=torch.float16, device="cuda") for _ in range(3))
    tail = [t.cuda() for t in random_call(6, (2, 3072), torch.float16)]
    for t, end in zip((x, grad, origin), tail, strict=True):
        t[-2:] = end
    pgd_step_(x, grad, origin, 0.1, 0.3, norm)
    assert torch.equal(x[-2:], pgd_step(*tail, 0.1, 0.3, norm))
    assert not x[:-2].any()


def test_shared_memory_and_mixed_devices_are_refused():
    x, grad, origin = (t.cuda() for t in random_call(7))
    with pytest.raises(RuntimeError, match="x is written in place, so it must share no memory with origin"):
        pgd_step_(x, grad, x, 0.1, 0.3, "linf")
    with pytest.raises(RuntimeError, match="grad"):
        pgd_step(x, grad.cpu(), origin, 0.1, 0.3, "linf")
