import functools
import math
import os
from pathlib import Path

import fresh_process
import pytest
import torch

import unlearnable_kernels
from unlearnable_kernels import bayes_error
from unlearnable_kernels.ops import bayes_error as contract
from unlearnable_kernels.ops import native

SIMILARITIES = contract.SIMILARITIES


def rows_of(kind, count=310, depth=37, classes=5, seed=0):
    """Features of length around 1, float32, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    noise = torch.randn(count, depth, generator=generator) / depth**0.5
    centres = torch.randn(classes, depth, generator=generator) / depth**0.5
    if kind == "random":
        return noise, labels
    if kind == "clustered":
        return centres[labels] + 0.3 * noise, labels
    if kind == "offset":
        return 0.4 * noise + 1, labels
    if kind == "duplicated":
        return noise[torch.arange(count) % 7], labels * (torch.arange(count) % 2)  # class 0 wins without ties
    if kind == "tied":  # every point once in every class
        return noise.repeat(classes, 1), torch.arange(classes).repeat_interleave(count)
    raise ValueError(kind)


def truth(
    features, labels, classes, bandwidth, similarity="rbf", references=None, first_row=None, weight=None
):
    """Error and gradients by autograd through the N×N×D differences, in float64."""
    z = features.detach().double().requires_grad_()
    r = z if references is None else references.detach().double().requires_grad_()
    if similarity == "rbf":
        kernel = torch.exp(-(z[:, None] - r[None]).square().sum(2) / (2 * bandwidth**2))
    else:
        kernel = torch.sigmoid((z[:, None] * r[None]).sum(2) / bandwidth**2)
    left_out = torch.zeros_like(kernel, dtype=torch.bool)
    if references is None or first_row is not None:
        at = torch.arange(len(z))
        left_out[at, at + (first_row or 0)] = True
    kernel = kernel.masked_fill(left_out, 0)
    mass = torch.stack([kernel[:, labels == c].sum(1) for c in range(classes)], 1)
    won = torch.zeros_like(mass, dtype=torch.bool).scatter_(1, mass.argmax(1, keepdim=True), True)
    others = mass.masked_fill(won, 0).sum(1) + 1e-8
    error = others / (others + mass[won])
    weight = torch.ones(len(z)) / len(z) if weight is None else weight
    inputs = (z,) if references is None else (z, r)
    return error.detach(), *torch.autograd.grad((error * weight.double()).sum(), inputs)


def value_and_gradient(features, *arguments, weight=None, references=None, **options):
    z = features.clone().requires_grad_()
    r = None if references is None else references.clone().requires_grad_()
    error = bayes_error(z, *arguments, references=r, **options)
    weight = torch.ones(len(z)) / len(z) if weight is None else weight
    inputs = (z,) if r is None else (z, r)
    return error.detach(), *torch.autograd.grad((error * weight.to(error)).sum(), inputs)


def relative(actual, expected):
    return float((actual.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", ["random", "clustered", "offset", "duplicated", "tied"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("bandwidth", [0.2, 0.5])
def test_agrees_with_float64_autograd(kind, similarity, bandwidth):
    features, labels = rows_of(kind, 60 if kind == "tied" else 310)
    if kind == "offset" and similarity == "logistic":
        features = features / 10  # else K(1 − K) is beneath float32's range
    call = features, labels, 5, bandwidth, similarity
    weight = torch.rand(len(features))
    error, grad = value_and_gradient(*call, weight=weight)
    expected, expected_grad = truth(*call, weight=weight)
    torch.testing.assert_close(error.double(), expected, rtol=1e-5, atol=0)
    # Rounding may pick another of tied classes; between duplicates the gradient cancels but for rounding.
    if kind != "tied" and (kind, bandwidth) != ("duplicated", 0.2):
        assert relative(grad, expected_grad) < 1e-5


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("bandwidth", [0.08, 0.1, 0.2, 0.3])
def test_ieee_gradients_to_one_in_a_million(bandwidth, offset):
    features, labels = rows_of("clustered", 900, 128)
    features = bandwidth * 2 * features + offset
    _, grad = value_and_gradient(features, labels, 5, bandwidth)
    assert relative(grad, truth_in_chunks(features, labels, 5, bandwidth)) < 1e-6


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_bf16_gradients_to_three_in_a_thousand(similarity):
    features, labels = rows_of("clustered", 900, 128)
    _, grad = value_and_gradient(features, labels, 5, 0.4, similarity, precision="bf16")
    error = relative(grad, truth_in_chunks(features, labels, 5, 0.4, similarity))
    assert 1e-5 < error < 3e-3  # rounded it is


def truth_in_chunks(features, labels, classes, bandwidth, similarity="rbf"):
    """The gradient of the mean error in float64 by the reference, itself held against autograd elsewhere."""
    call = features.double(), labels
    options = classes, bandwidth, similarity, "ieee"
    _, mass, winner = contract.reference(*call, *options)
    weight = torch.full((len(features),), 1 / len(features), dtype=torch.float64)
    return contract.reference_backward(weight, mass, winner, *call, *options)[0]


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("first_row", [None, 90])
@pytest.mark.parametrize("backend", ["kernel", "reference"])
def test_references_of_their_own(similarity, first_row, backend, monkeypatch):
    pool, labels = rows_of("clustered")
    queries = pool[90:270] if first_row is not None else rows_of("random", 180, seed=1)[0]
    weight = torch.rand(len(queries))
    call = queries, labels, 5, 0.5, similarity
    expected = truth(*call, references=pool, first_row=first_row, weight=weight)
    if backend == "kernel":
        results = value_and_gradient(*call, references=pool, first_row=first_row, weight=weight)
    else:
        row = -1 if first_row is None else first_row
        error, mass, winner = contract.reference(*call, "ieee", pool, row)
        grads = contract.reference_backward(weight, mass, winner, *call, "ieee", pool, row)
        results = (error, *grads)
    for result, wanted in zip(results, expected, strict=True):
        assert relative(result, wanted) < 1e-5


def test_gradients_of_shards_add_up():
    features, labels = rows_of("clustered", 331)
    error, grad = value_and_gradient(features, labels, 5, 0.5)
    total, errors = torch.zeros_like(features), []
    for begin, end in ((0, 100), (100, 217), (217, 331)):
        weight = torch.ones(end - begin) / len(features)
        shard, as_query, as_reference = value_and_gradient(
            features[begin:end], labels, 5, 0.5, references=features, first_row=begin, weight=weight
        )
        total[begin:end] += as_query
        total += as_reference
        errors.append(shard)
    torch.testing.assert_close(torch.cat(errors), error, rtol=1e-6, atol=0)
    assert relative(total, grad.double()) < 1e-6


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_gradcheck(similarity):
    pool, labels = rows_of("clustered", 12, 4, 3)
    z, r = pool[:5].double().requires_grad_(), pool.double().requires_grad_()
    torch.autograd.gradcheck(lambda r: bayes_error(r, labels, 3, 0.7, similarity), r)
    for row in (None, 5):
        function = functools.partial(
            bayes_error, num_classes=3, bandwidth=0.7, similarity=similarity, first_row=row
        )
        torch.autograd.gradcheck(lambda z, r, f=function: f(z, labels, references=r), (z, r))


def test_gradient_is_that_of_the_returned_value():
    features, labels = rows_of("clustered", 40, 8)
    z = features.double().requires_grad_()
    mean = bayes_error(z, labels, 5, 0.5).mean()
    (grad,) = torch.autograd.grad(mean, z)
    step = 1e-6 * grad / grad.norm()  # a random one may be all but orthogonal, where the second order decides
    moved = bayes_error(z.detach() + step, labels, 5, 0.5).mean()
    torch.testing.assert_close(moved - mean.detach(), (grad * step).sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_apart_points_have_error_one_and_no_gradient(dtype):
    features = torch.eye(50, dtype=dtype) * 100
    error, grad = value_and_gradient(features, torch.arange(50) % 3, 3, 0.3)
    assert (error == 1).all()
    assert (grad == 0).all()


def test_value_does_not_depend_on_row_order():
    features, labels = rows_of("clustered", 700)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(1))
    error, grad = value_and_gradient(features, labels, 5, 0.5)
    shuffled, shuffled_grad = value_and_gradient(features[order], labels[order], 5, 0.5)
    torch.testing.assert_close(shuffled, error[order], rtol=1e-6, atol=0)
    assert relative(shuffled_grad, grad[order].double()) < 1e-6


def test_lowest_of_tied_classes_wins():
    features = torch.tensor([[0.0], [1.0], [-1.0], [1.0], [-1.0]])
    labels = torch.tensor([0, 2, 1, 1, 2])
    _, _, winner = torch.ops.unlearn.bayes_error(features, labels, 3, 0.5)
    assert winner[0] == 1


def test_threads_find_pairs_and_change_no_bit():
    """4,000 rows make panels of which every round of the sweep has a pair for nearly each of 16 threads."""
    from unlearnable_kernels import _C

    generator = torch.Generator().manual_seed(0)
    features, labels = (
        torch.rand(4000, 5, generator=generator),
        torch.randint(3, (4000,), generator=generator),
    )
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 16):
        torch.set_num_threads(count)
        leaf = features.clone().requires_grad_()
        error = bayes_error(leaf, labels, 3, 0.5)
        error.sum().backward()
        results.append((error.detach(), leaf.grad))
    torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))
    pairs = sum(_C.bayes_error_pairs())
    panels = (math.isqrt(8 * pairs + 1) - 1) // 2
    assert panels * (panels + 1) // 2 == pairs
    assert 14 <= pairs / panels <= 16


@pytest.mark.parametrize("count", [1, 16])
def test_the_first_bad_value_is_named_whatever_the_threads(count):
    features, threads = torch.rand(3000, 40), torch.get_num_threads()
    features[2990, 3] = features[70, 30] = torch.inf
    features[70, 35] = torch.nan
    torch.set_num_threads(count)
    try:
        with pytest.raises(RuntimeError, match=r"features\[70, 30\] is inf, but must be finite"):
            bayes_error(features, torch.zeros(3000, dtype=torch.int64), 1, 0.5)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("dtype", "gap", "tolerance"), [(torch.float32, 2, 1e-4), (torch.float64, 20, 1e-9)])
def test_panels_too_far_apart_are_skipped_and_nothing_changes(dtype, gap, tolerance):
    features, labels = rows_of("clustered", 3000, 16, 2)
    labels = labels.sort().values
    features = (0.1 * features + gap * labels[:, None]).to(dtype)
    error, grad = value_and_gradient(features, labels, 2, 0.3)
    computed, skipped = native.cpu_module.bayes_error_pairs()
    assert skipped > 0.4 * (computed + skipped)
    for label in (0, 1):
        alone = labels == label
        weight = torch.full((int(alone.sum()),), 1 / len(labels))
        expected, expected_grad = value_and_gradient(features[alone], labels[alone], 2, 0.3, weight=weight)
        assert native.cpu_module.bayes_error_pairs()[1] == 0
        torch.testing.assert_close(error[alone], expected, rtol=tolerance, atol=0)
        assert relative(grad[alone], expected_grad.double()) < tolerance


def test_similarities_in_float64_are_exact_to_their_last_bits():
    """With one reference at 0 the mass is that row's similarity, exp(-x² / 2)."""
    x = torch.linspace(0, 38, 4001, dtype=torch.float64)
    mass = torch.ops.unlearn.bayes_error(
        x[:, None], torch.zeros(1).long(), 1, 1.0, "rbf", "ieee", torch.zeros(1, 1).double(), -1
    )[1][:, 0]
    exponents = -(x**2) / 2
    within = exponents > -708
    expected = exponents.exp()
    error = (mass[within] - expected[within]).abs() / expected[within]
    assert (error <= 1e-15 - 4e-16 * exponents[within]).all()
    assert (mass[~within] <= expected[~within]).all()


@pytest.mark.parametrize("precision", contract.PRECISIONS)
def test_bits_do_not_depend_on_threads(precision):
    features, labels = rows_of("clustered", 1500)
    many = value_and_gradient(features, labels, 5, 0.5, precision=precision)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = value_and_gradient(features, labels, 5, 0.5, precision=precision)
    torch.set_num_threads(threads)
    assert all(map(torch.equal, many, one))


@pytest.mark.parametrize("count", [0, 1, 2, 47, 48, 49, 145])
@pytest.mark.parametrize("depth", [0, 1, 7, 130])
def test_odd_sizes(count, depth):
    features, labels = (
        rows_of("random", count, depth) if depth else (torch.zeros(count, 0), torch.zeros(count).long())
    )
    for similarity in SIMILARITIES:
        for precision, tolerance in (("ieee", 1e-5), ("bf16", 2e-2)):
            error, grad = value_and_gradient(features, labels, 5, 0.8, similarity, precision=precision)
            expected, expected_grad = truth(features, labels, 5, 0.8, similarity)
            torch.testing.assert_close(error.double(), expected, rtol=tolerance, atol=0)
            assert grad.shape == features.shape
            if precision == "ieee":  # rounding to bf16 may pick another of two near classes
                assert (grad - expected_grad).norm() <= tolerance * expected_grad.norm() + 1e-9


def test_no_references_means_error_one():
    error, grad, none = value_and_gradient(
        torch.randn(3, 4), torch.zeros(0).long(), 2, 0.3, references=torch.zeros(0, 4)
    )
    assert (error == 1).all()
    assert (grad == 0).all()
    assert none.shape == (0, 4)


def test_strides():
    features, labels = rows_of("clustered", 100)
    expected = value_and_gradient(features, labels, 5, 0.5)
    strided = torch.stack([features.T, features.T], 2)[:, :, 0].T
    spread = torch.stack([labels, labels], 1)[:, 0]
    assert not strided.is_contiguous()
    assert all(map(torch.equal, value_and_gradient(strided, spread, 5, 0.5), expected))


def test_every_output_element_is_written():
    features, labels = rows_of("clustered", 100)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(3).isnan().all()
        results = value_and_gradient(features[:50], labels, 5, 0.5, references=features)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(result.isfinite().all() for result in results)


ON_THIS_INSTRUCTION_SET = """
import sys, torch
from unlearnable_kernels import cpu_capability
sys.path.insert(0, sys.argv[1])
from test_bayes_error import rows_of, value_and_gradient
results = [cpu_capability()]
for precision in ("ieee", "bf16"):
    for similarity in ("rbf", "logistic"):
        call = *rows_of("clustered", 331), 5, 0.5, similarity
        results.extend(value_and_gradient(*call, precision=precision))
        if precision == "ieee":
            results.extend(value_and_gradient(call[0].double(), *call[1:]))
torch.save(results, sys.argv[2])
"""


def test_every_instruction_set_agrees(tmp_path):
    order = ("default", "avx2", "avx512")
    names = order[: order.index(unlearnable_kernels.cpu_capability()) + 1]
    seen = []
    for name in names:
        path = tmp_path / name
        env = os.environ | {"UNLEARNABLE_CPU_CAPABILITY": name}
        fresh_process.run(ON_THIS_INSTRUCTION_SET, Path(__file__).parent, path, env=env)
        used, *results = torch.load(path)
        assert used == name
        seen.append(results)
    for results in seen[1:]:
        for number, (result, first) in enumerate(zip(results, seen[0], strict=True)):
            tolerance = 1e-14 if result.dtype == torch.float64 else 1e-6 if number < 8 else 1e-3
            assert relative(result, first.double()) < tolerance


PEAK = """
import re, torch
from unlearnable_kernels import bayes_error
def kib(name):  # of this program alone: getrusage starts from the peak of the process that spawned it
    return int(re.search(name + r":\\s*(\\d+)", open("/proc/self/status").read())[1])
torch.manual_seed(0)
features, labels = torch.randn(10000, 128, requires_grad=True), torch.arange(10000) % 10
bayes_error(features[:50], labels[:50], 10, 5.0).mean().backward()
before = kib("VmRSS")
bayes_error(features, labels, 10, 5.0).mean().backward()
print(kib("VmHWM") - before)
"""


@pytest.mark.unsanitized
def test_memory_is_linear_in_the_rows():
    output = fresh_process.run(PEAK).stdout
    features = 10000 * 128 * 4 / 1024
    assert (
        features < int(output) < 5 * features
    )  # KiB; one float for every pair of rows would be 78 times the features


@pytest.mark.unsanitized
def test_compiles_with_its_gradient_into_one_graph():
    features, labels = rows_of("clustered", 100)

    def mean(z):
        return bayes_error(z, labels, 5, 0.5, references=features, first_row=3).mean()

    z = features[3:50].clone().requires_grad_()
    (expected,) = torch.autograd.grad(mean(z), z)
    (grad,) = torch.autograd.grad(torch.compile(mean, fullgraph=True, backend="aot_eager")(z), z)
    assert torch.equal(grad, expected)


def test_second_derivatives_are_refused():
    features, labels = rows_of("random", 20)
    features.requires_grad_()
    (grad,) = torch.autograd.grad(bayes_error(features, labels, 5, 0.5).sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not implemented"):
        grad.sum().backward()


def set_at(tensor, index, value):
    return tensor.index_put(tuple(map(torch.tensor, index)), torch.tensor(value, dtype=tensor.dtype))


BAD_CALLS = {
    "features must be [N, D], got 1 dimensions": lambda z, y: ((z[0], y, 5, 0.3), {}),
    "features must be float32 or float64": lambda z, y: ((z.half(), y, 5, 0.3), {}),
    "features[2, 1] is nan, but must be finite": lambda z, y: ((set_at(z, (2, 1), torch.nan), y, 5, 0.3), {}),
    "references[0, 3] is inf, but must be finite": lambda z, y: (
        (z, y, 5, 0.3),
        {"references": set_at(z, (0, 3), torch.inf)},
    ),
    "labels must be int64 [N], got": lambda z, y: ((z, y.int(), 5, 0.3), {}),
    "labels must hold one label for each of the 20 features, got 19": lambda z, y: ((z, y[1:], 5, 0.3), {}),
    "labels must hold one label for each of the 9 references, got 20": lambda z, y: (
        (z, y, 5, 0.3),
        {"references": z[:9]},
    ),
    "labels[4] is 5, but must lie in [0, 5)": lambda z, y: ((z, set_at(y, (4,), 5), 5, 0.3), {}),
    "labels[4] is -1, but must lie in [0, 5)": lambda z, y: ((z, set_at(y, (4,), -1), 5, 0.3), {}),
    "num_classes must lie in [1, 16777216], got 0": lambda z, y: ((z, y, 0, 0.3), {}),
    "bandwidth must be finite and greater than 0, got nan": lambda z, y: ((z, y, 5, float("nan")), {}),
    "bandwidth must be finite and greater than 0, got inf": lambda z, y: ((z, y, 5, float("inf")), {}),
    "bandwidth must be finite and greater than 0, got 0": lambda z, y: ((z, y, 5, 0.0), {}),
    "bandwidth must be finite and greater than 0, got -1": lambda z, y: ((z, y, 5, -1.0), {}),
    "similarity must be one of rbf, logistic, got 'cosine'": lambda z, y: ((z, y, 5, 0.3, "cosine"), {}),
    "precision must be one of ieee, tf32, bf16, got 'fp8'": lambda z, y: (
        (z, y, 5, 0.3),
        {"precision": "fp8"},
    ),
    "references must be [M, 37] as features are": lambda z, y: ((z, y, 5, 0.3), {"references": z[:, 1:]}),
    "references must have the dtype of features": lambda z, y: ((z, y, 5, 0.3), {"references": z.double()}),
    "first_row is 3, but without references": lambda z, y: ((z, y, 5, 0.3), {"first_row": 3}),
    "first_row must lie in [0, 5] for 15 features among 20 references, got 6": lambda z, y: (
        (z[:15], y, 5, 0.3),
        {"references": z, "first_row": 6},
    ),
}


@pytest.mark.parametrize("message", BAD_CALLS)
@pytest.mark.parametrize("backend", ["kernel", "reference"])
def test_bad_arguments_are_named(message, backend):
    arguments, options = BAD_CALLS[message](*rows_of("random", 20))
    function = bayes_error if backend == "kernel" else contract.reference
    with pytest.raises(RuntimeError) as caught:
        function(*arguments, **options)
    assert str(caught.value).startswith("bayes_error: ")
    assert message in str(caught.value)


def test_negative_first_row_and_too_small_a_bandwidth_are_refused():
    features, labels = rows_of("random", 20)
    with pytest.raises(RuntimeError, match="bayes_error: first_row must be 0 or more, got -1"):
        bayes_error(features, labels, 5, 0.3, references=features, first_row=-1)
    with pytest.raises(RuntimeError, match="bayes_error: bandwidth is 1e-13, but features of length"):
        bayes_error(features, labels, 5, 1e-13)


def test_mixed_devices_are_refused():
    features, labels = rows_of("random", 20)
    with pytest.raises(RuntimeError, match="features and labels must be on one device"):
        bayes_error(features, labels.to("meta"), 5, 0.3)
