import hashlib
import math
import os
from pathlib import Path

import fresh_process
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unlearnable_kernels
from unlearnable_kernels import pgd_step, pgd_step_
from unlearnable_kernels.ops import pgd_step as contract

BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
TOLERANCES = {torch.float16: 6e-4, torch.bfloat16: 5e-3, torch.float32: 3e-7, torch.float64: 1e-14}
SPECIAL = torch.tensor([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1e-45, -1e-40, 3e38, 0.5])
LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels-last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "width before height": lambda t: t.mT.contiguous().mT,
    "channels outermost": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "every second column": lambda t: t.repeat_interleave(2, 3)[..., ::2],
}


def random_call(seed, shape=(5, 3, 11, 13), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    origin, noise = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    x = (origin + 0.1 * (noise - 0.5)).clamp(0, 1)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.to(dtype), grad.to(dtype), origin.to(dtype)


def eager(x, grad, origin, step_size, eps, lower=0.0, upper=1.0):
    delta = torch.clamp(x + step_size * grad.sign() - origin, min=-eps, max=eps)
    return torch.clamp(origin + delta, min=lower, max=upper)


def in_float64(x, grad, origin, step_size, eps, norm, lower=0.0, upper=1.0):
    """The step as the papers write it, one sample at a time."""
    results = []
    for a, g, o in zip(x.double(), grad.double(), origin.double(), strict=True):
        if norm == "linf":
            delta = (a + step_size * torch.sign(g) - o).clamp(-eps, eps)
        else:
            length = torch.linalg.vector_norm(g)
            delta = a + (step_size * g / length if length > 0 else 0) - o
            distance = torch.linalg.vector_norm(delta)
            delta = delta * (eps / distance) if distance > eps else delta
        results.append((o + delta).clamp(lower, upper))
    return torch.stack(results)


def same_bits(a, b):
    nan = a.isnan()
    as_bits = BITS[a.dtype]
    return torch.equal(nan, b.isnan()) and torch.equal(a.view(as_bits)[~nan], b.view(as_bits)[~nan])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_linf_has_the_eager_sequence_bits(data):
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 700)))
    call = random_call(data.draw(st.integers(0, 2**32)), shape, data.draw(st.sampled_from(list(BITS))))
    for t in call:
        if data.draw(st.booleans()):
            chosen = torch.rand(shape) < 0.3
            t[chosen] = SPECIAL[torch.randint(len(SPECIAL), (int(chosen.sum()),))].to(t.dtype)
    step_size = data.draw(st.sampled_from([2 / 255, -0.1, 0.0, 7.0]))
    eps = data.draw(st.sampled_from([8 / 255, 0.0, 1e-3, math.inf]))
    bounds = data.draw(st.sampled_from([(0.0, 1.0), (-1.5, 2.5), (-math.inf, math.inf)]))
    assert same_bits(pgd_step(*call, step_size, eps, "linf", *bounds), eager(*call, step_size, eps, *bounds))


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_agrees_with_float64_and_stays_in_the_ball(data):
    shape = data.draw(st.tuples(st.integers(1, 4), *[st.integers(1, 40)] * 2))
    dtype = data.draw(st.sampled_from(contract.DTYPES))
    x, grad, origin = random_call(data.draw(st.integers(0, 2**32)), shape, dtype)
    step_size, eps = data.draw(st.floats(-2, 2)), data.draw(st.floats(0, 3))
    norm = data.draw(st.sampled_from(contract.NORMS))
    result = pgd_step(x, grad, origin, step_size, eps, norm)
    expected = in_float64(x, grad, origin, step_size, eps, norm)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    assert result.dtype == dtype
    moved = (result.double() - origin.double()).flatten(1)
    order = math.inf if norm == "linf" else 2
    slack = tolerance * (1 if norm == "linf" else math.sqrt(moved.shape[1]))
    assert (torch.linalg.vector_norm(moved, order, dim=1) <= eps + slack).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_kernel_equals_the_reference(data):
    shape = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3), *[st.integers(1, 50)] * 2))
    dtype = data.draw(st.sampled_from(contract.DTYPES))
    layouts = [LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)))] for _ in range(3)]
    tensors = random_call(data.draw(st.integers(0, 999)), shape, dtype)
    call = *(lay(t) for lay, t in zip(layouts, tensors, strict=True)), 0.3, data.draw(st.floats(0, 1))
    norm = data.draw(st.sampled_from(contract.NORMS))
    result, expected = pgd_step(*call, norm), contract.reference(*call, norm)
    assert result.stride() == expected.stride() == torch.empty_like(call[0]).stride()
    assert torch.equal(result, expected)
    x = call[0].clone() if data.draw(st.booleans()) else call[0]
    assert pgd_step_(x, *call[1:], norm) is x
    assert torch.equal(x, expected)


def test_the_references_norms_are_correctly_rounded():
    rows = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = np.sqrt(rows[:, 0].square().numpy() + rows[:, 1].square().numpy())
    assert np.array_equal(contract._norms(rows)[:, 0].numpy(), expected)


@pytest.mark.parametrize("norm", contract.NORMS)
@pytest.mark.parametrize("layout", list(LAYOUTS)[:3])
def test_dense_layouts_are_not_copied(norm, layout):
    call = [LAYOUTS[layout](t) for t in random_call(1)]
    with torch.autograd.profiler.profile() as profile:
        pgd_step_(*call, 0.1, 0.2, norm)
    assert not [event.name for event in profile.function_events if event.name.startswith("aten::")]
    call[1] = LAYOUTS["every second column"](call[1])
    with torch.autograd.profiler.profile() as profile:
        pgd_step_(*call, 0.1, 0.2, norm)
    assert "aten::copy_" in [event.name for event in profile.function_events]


@pytest.mark.parametrize("dtype", contract.DTYPES)
@pytest.mark.parametrize("norm", contract.NORMS)
def test_every_output_element_is_written(dtype, norm):
    call = random_call(2, (3, 3, 37, 41), dtype)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(3, dtype=dtype).isnan().all()
        result = pgd_step(*call, 0.1, 0.2, norm)
    finally:
        torch.use_deterministic_algorithms(False)
    assert result.isfinite().all()


DIGEST = """
import sys
from unlearnable_kernels import cpu_capability
sys.path.insert(0, sys.argv[1])
from test_pgd_step import digest_of_many
print(cpu_capability(), digest_of_many())
"""


def digest_of_many():
    digest = hashlib.sha256()
    for dtype in contract.DTYPES:
        for shape in ((7, 3, 32, 32), (2, 1, 5, 3), (1, 3, 64, 65), (3, 2049)):
            x, grad, origin = random_call(3, shape, dtype)
            grad *= 1e-3
            for norm in contract.NORMS:
                for eps in (0.01, 0.5):
                    result = pgd_step(x, grad, origin, 0.4, eps, norm)
                    digest.update(result.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_bits_do_not_depend_on_the_instruction_set():
    order = ("default", "avx2", "avx512")
    lower = order[: order.index(unlearnable_kernels.cpu_capability())]
    seen = {digest_of_many()}
    for name in lower:
        env = os.environ | {"UNLEARNABLE_CPU_CAPABILITY": name}
        used, digest = fresh_process.run(DIGEST, Path(__file__).parent, env=env).stdout.split()
        assert used == name
        seen.add(digest)
    assert len(seen) == 1


@pytest.mark.parametrize("norm", contract.NORMS)
def test_results_do_not_depend_on_threads_or_batch_split(norm):
    call = random_call(4, (40, 3, 32, 32))
    whole = pgd_step(*call, 0.5, 0.3, norm)
    one_by_one = [pgd_step(*(t[i : i + 1] for t in call), 0.5, 0.3, norm) for i in range(40)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = pgd_step(*call, 0.5, 0.3, norm)
    torch.set_num_threads(threads)
    assert torch.equal(whole, torch.cat(one_by_one))
    assert torch.equal(whole, alone)


def test_a_gradient_without_direction_takes_no_step():
    x, grad, origin = random_call(5)
    grad[0] = 0
    grad[1, 0, 0, 0] = math.nan
    grad[2, 0, 0, 0] = -math.inf
    result = pgd_step(x, grad, origin, 0.5, 10.0, "l2")
    for n in range(3):
        torch.testing.assert_close(result[n], x[n], rtol=0, atol=1e-7)
    assert (result[3:] - x[3:]).abs().max() > 1e-3
    far = pgd_step(x, torch.zeros_like(grad), origin, 0.5, 0.01, "l2")  # projected all the same
    torch.testing.assert_close(far, in_float64(x, grad * 0, origin, 0, 0.01, "l2").float())


@pytest.mark.parametrize("size", [1e-43, 1e-38, 1e-20, 1e-10, 1.0, 1e19, 8e37])
def test_direction_of_the_smallest_and_largest_gradients(size):
    grad = torch.tensor([[3 * size, -4 * size, 0.0]])
    origin = torch.full((1, 3), 0.5)
    result = pgd_step(origin, grad, origin, 0.25, 1.0, "l2")
    unit = grad.double() / torch.linalg.vector_norm(grad.double())
    torch.testing.assert_close(result.double(), 0.5 + 0.25 * unit, rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", contract.NORMS)
def test_radius_zero_returns_to_the_origin_and_infinity_leaves_the_step(norm):
    x, grad, origin = random_call(6)
    assert torch.equal(pgd_step(x, grad, origin, 0.1, 0.0, norm), origin)
    result = pgd_step(x, grad, origin, 3.0, math.inf, norm, -math.inf, math.inf)
    expected = in_float64(x, grad, origin, 3.0, math.inf, norm, -math.inf, math.inf)
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-6)


def test_nan_stays_in_its_element_or_sample():
    x, grad, origin = random_call(7)
    x[1, 0, 0, 0] = math.nan
    for norm, expected in (("linf", 1), ("l2", x[1].numel())):
        nan = pgd_step(x, grad, origin, 0.1, 0.2, norm).isnan()
        assert nan[1, 0, 0, 0]
        assert nan.sum() == expected


@pytest.mark.parametrize("norm", contract.NORMS)
@pytest.mark.parametrize("shape", [(0, 3, 8), (4, 0), (0,), (1,), (1025,), (1, 5000)])
def test_shapes(norm, shape):
    call = random_call(8, shape)
    assert torch.equal(pgd_step(*call, 0.1, 0.2, norm), contract.reference(*call, 0.1, 0.2, norm))
    x = call[0].clone()
    assert pgd_step_(x, *call[1:], 0.1, 0.2, norm) is x


def test_x_is_unchanged_unless_in_place():
    call = random_call(9)
    before = [t.clone() for t in call]
    version = call[0]._version
    result = pgd_step(*call, 0.1, 0.2, "l2")
    assert all(torch.equal(a, b) for a, b in zip(call, before, strict=True))
    pgd_step_(*call, 0.1, 0.2, "l2")
    assert torch.equal(call[0], result)
    assert torch.equal(torch.cat(call[1:]), torch.cat(before[1:]))
    assert call[0]._version > version


def test_steps_are_not_differentiated():
    x, grad, origin = random_call(10)
    leaf = x.clone().requires_grad_()
    assert not pgd_step(leaf, grad, origin, 0.1, 0.2, "linf").requires_grad
    with pytest.raises(RuntimeError, match="x is written in place, but requires grad; give x"):
        pgd_step_(leaf, grad, origin, 0.1, 0.2, "linf")
    with torch.no_grad():
        pgd_step_(leaf, grad, origin, 0.1, 0.2, "linf")
    pgd_step_(x, grad.requires_grad_(), origin, 0.1, 0.2, "linf")
    assert torch.equal(leaf, x)
    assert not x.requires_grad


@pytest.mark.unsanitized
@pytest.mark.parametrize("norm", contract.NORMS)
def test_in_place_passes_opcheck_and_compiles_into_one_graph(norm):
    x, grad, origin = random_call(11)
    torch.library.opcheck(torch.ops.unlearn.pgd_step_.default, (x, grad, origin, 0.1, 0.2, norm))
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def two_steps(x):
        pgd_step_(x, grad, origin, 0.1, 0.2, norm)
        return pgd_step_(x, grad, origin, -0.2, 0.2, norm) + 1

    expected = x.clone()
    for step_size in (0.1, -0.2):
        pgd_step_(expected, grad, origin, step_size, 0.2, norm)
    assert torch.equal(two_steps(x), expected + 1)
    assert torch.equal(x, expected)


IN_PLACE_MESSAGES = {
    "x is written in place, so it must share no memory with origin": lambda x, g, o: (x, g, x),
    "x is written in place, so it must share no memory with grad": lambda x, g, o: (x[1:], x[:-1], o[1:]),
    "x is written in place, so no two of its elements may share memory": lambda x, g, o: (
        x[:1].expand_as(g),
        g,
        o,
    ),
}


def overlapping(shape, stride):
    """A tensor of zeros with these strides, whatever they make of its elements."""
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.zeros(last + 1).as_strided(shape, stride)


@pytest.mark.parametrize("backend", ["kernel", "reference", "fake"])
@pytest.mark.parametrize(("shape", "stride"), [((9, 4), (2, 1)), ((3, 5), (4, 2)), ((2, 3, 4), (7, 2, 1))])
def test_windows_that_overlap_are_refused_in_place(backend, shape, stride):
    functions = {
        "kernel": pgd_step_,
        "reference": contract.reference_in_place,
        "fake": contract.IN_PLACE.fake,
    }
    with pytest.raises(RuntimeError, match="x is written in place, so no two of its elements may share"):
        functions[backend](overlapping(shape, stride), *torch.zeros(2, *shape), 0.1, 0.2, "linf")


@pytest.mark.parametrize("backend", ["kernel", "reference"])
@pytest.mark.parametrize(("shape", "stride"), [((2, 3), (3, 2)), ((4, 1, 3), (3, 0, 1)), ((3, 4), (1, 7))])
def test_strange_strides_without_overlap_are_written_in_place(backend, shape, stride):
    function = pgd_step_ if backend == "kernel" else contract.reference_in_place
    x, grad, origin = overlapping(shape, stride), torch.ones(shape), torch.zeros(shape)
    function(x, grad, origin, 0.1, 0.2, "linf")
    assert torch.equal(x, torch.full(shape, 0.1))


@pytest.mark.parametrize("message", IN_PLACE_MESSAGES)
@pytest.mark.parametrize("backend", ["kernel", "reference"])
def test_shared_memory_is_refused_in_place(message, backend):
    function = pgd_step_ if backend == "kernel" else contract.reference_in_place
    tensors = random_call(12)
    before = tensors[0].clone()
    with pytest.raises(RuntimeError, match=f"pgd_step: {message}"):
        function(*IN_PLACE_MESSAGES[message](*tensors), 0.1, 0.2, "linf")
    assert torch.equal(tensors[0], before)


BAD_CALLS = {
    "x must be [N, ...], got 0 dimensions": lambda x, g, o: (x.sum(), g.sum(), o.sum(), 0.1, 0.2, "linf"),
    "x must be float16, bfloat16, float32 or float64, got": lambda x, g, o: (
        x.int(),
        g.int(),
        o.int(),
        0.1,
        0.2,
        "linf",
    ),
    "grad must have x's shape [5, 3, 11, 13], got [5, 3, 11, 12]": lambda x, g, o: (
        x,
        g[..., 1:],
        o,
        0.1,
        0.2,
        "linf",
    ),
    "origin must have x's shape [5, 3, 11, 13], got [3, 11, 13]": lambda x, g, o: (
        x,
        g,
        o[0],
        0.1,
        0.2,
        "linf",
    ),
    "grad must have x's dtype": lambda x, g, o: (x, g.half(), o, 0.1, 0.2, "linf"),
    "origin must have x's dtype": lambda x, g, o: (x, g, o.double(), 0.1, 0.2, "linf"),
    "norm must be one of linf, l2, got 'l1'": lambda x, g, o: (x, g, o, 0.1, 0.2, "l1"),
    "step_size must be finite, got nan": lambda x, g, o: (x, g, o, math.nan, 0.2, "l2"),
    "step_size must be finite, got -inf": lambda x, g, o: (x, g, o, -math.inf, 0.2, "l2"),
    "eps must be at least 0, got -0.25": lambda x, g, o: (x, g, o, 0.1, -0.25, "l2"),
    "eps must be at least 0, got nan": lambda x, g, o: (x, g, o, 0.1, math.nan, "linf"),
    "lower must be at most upper, got 1 and 0.5": lambda x, g, o: (x, g, o, 0.1, 0.2, "l2", 1.0, 0.5),
    "lower must be at most upper, got nan and 1": lambda x, g, o: (x, g, o, 0.1, 0.2, "l2", math.nan),
}
BACKENDS = {
    "kernel": pgd_step,
    "kernel in place": pgd_step_,
    "reference": contract.reference,
    "reference in place": contract.reference_in_place,
    "fake": contract.fake,
}


@pytest.mark.parametrize("message", BAD_CALLS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_arguments_are_named(message, backend):
    with pytest.raises(RuntimeError) as caught:
        BACKENDS[backend](*BAD_CALLS[message](*random_call(13)))
    assert str(caught.value).startswith(f"pgd_step: {message}")


@pytest.mark.parametrize("name", ["grad", "origin"])
def test_mixed_devices_are_refused(name):
    call = dict(zip(("x", "grad", "origin"), random_call(14), strict=True))
    call[name] = call[name].to("meta")
    with pytest.raises(RuntimeError, match=f"{name} must be on x's device cpu"):
        pgd_step(**call, step_size=0.1, eps=0.2, norm="linf")


@pytest.mark.unsanitized
def test_more_than_two_to_the_31_elements():
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 10 * 2**30:
        pytest.skip("needs 10 GiB of free memory")
    count = 2**31 // 3072 + 3
    x, still = (torch.from_numpy(np.zeros((count, 3072), np.int16)).view(torch.bfloat16) for _ in range(2))
    x[-2:] = random_call(15, (2, 3072), torch.bfloat16)[0]
    expected = pgd_step(x[-2:], still[-2:], still[-2:], 0.1, 0.2, "linf")
    pgd_step_(x, still, still, 0.1, 0.2, "linf")
    assert torch.equal(x[-2:], expected)
    assert expected.any()
    assert not x[:1000].any()
