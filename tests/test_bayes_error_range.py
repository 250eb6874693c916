"""bayes_error and bayes_ascent_step at the ends of their range, against float64 by differences."""

import pytest
import torch

from unlearnable_kernels import bayes_ascent_step, bayes_error
from unlearnable_kernels.ops import bayes_ascent_step as ascent_contract
from unlearnable_kernels.ops import bayes_error as error_contract

CLASSES = 5


def far_groups(distance, bandwidth, count=300, depth=32, seed=0):
    """Five groups, ``distance`` apart and some bandwidths wide, each of all classes."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(0, 5, (count,), generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    centres = torch.nn.functional.normalize(torch.randn(5, depth, generator=generator), dim=1)
    noise = torch.randn(count, depth, generator=generator) / depth**0.5
    return distance / 2**0.5 * centres[place] + 2.4 * bandwidth * noise, labels


def truth(x, labels, bandwidth, similarity="rbf", references=None, first_row=None):
    """Errors, and the gradient of their sum in units of 1/bandwidth, of x and of any references."""
    z = x.double() / bandwidth
    r = z if references is None else references.double() / bandwidth
    if similarity == "rbf":
        kernel = torch.exp(-(z[:, None] - r).square().sum(2) / 2)
    else:
        kernel = torch.sigmoid(z @ r.T)
    if references is None:
        kernel.fill_diagonal_(0)
    elif first_row is not None:
        kernel[torch.arange(len(z)), torch.arange(len(z)) + first_row] = 0
    mass = torch.zeros(len(z), CLASSES, dtype=torch.float64).index_add_(1, labels, kernel)
    winner = mass.argmax(1)
    won = mass.gather(1, winner[:, None])[:, 0]
    others = mass.scatter(1, winner[:, None], 0).sum(1) + 1e-8
    pull, push = others / (others + won) ** 2, -won / (others + won) ** 2
    s = kernel * torch.where(labels == winner[:, None], pull[:, None], push[:, None])
    if similarity != "rbf":
        s = s * (1 - kernel)
        return others / (others + won), -s @ r - s.T @ z
    difference = z[:, None] - r
    of_queries = (s[..., None] * difference).sum(1)
    of_references = -(s[..., None] * difference).sum(0)
    if references is None:
        return others / (others + won), of_queries + of_references
    return others / (others + won), of_queries, of_references


def results(x, labels, bandwidth, similarity="rbf", references=None, first_row=None):
    inputs = [t.clone().requires_grad_() for t in (x, references) if t is not None]
    r = inputs[1] if references is not None else None
    error = bayes_error(inputs[0], labels, CLASSES, bandwidth, similarity, references=r, first_row=first_row)
    grads = torch.autograd.grad(error.sum(), inputs)
    return error.detach(), *(grad.double() * bandwidth for grad in grads)


def relative(result, exact):
    return float((result.double() - exact).norm() / exact.norm())


def assert_exact(call, **options):
    for result, exact in zip(results(*call, **options), truth(*call, **options), strict=True):
        assert relative(result, exact) < 1e-5


@pytest.mark.parametrize("distance", [1, 3, 10, 100, 1000, 3000])
@pytest.mark.parametrize("seed", [0, 1])
def test_groups_up_to_ten_thousand_bandwidths_apart(distance, seed):
    x, labels = far_groups(distance, 0.3, seed=seed)
    assert_exact((x, labels, 0.3))


def test_groups_far_from_references_of_their_own():
    x, labels = far_groups(1000, 0.3, 500)
    assert_exact((x[:200], labels[200:], 0.3), references=x[200:])


def few_by_few(groups, members, distance, depth=8, seed=0):
    """``groups`` of ``members`` rows, some ``distance`` apart; bandwidths are 1."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(groups, depth, generator=generator), dim=1)
    noise = torch.randn(groups * members, depth, generator=generator) / depth**0.5
    labels = torch.randint(0, CLASSES, (groups * members,), generator=generator)
    return distance / 2**0.5 * centres.repeat(members, 1) + 0.5 * noise, labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [60, 1000, 9000])
def test_lone_queries_beside_references_and_rows_of_a_shard(distance, dtype):
    x, labels = few_by_few(20, 4, distance)
    x = x.to(dtype)
    assert_exact((x[:20], labels[20:], 1.0), references=x[20:])
    assert_exact((x[20:40], labels, 1.0), references=x, first_row=20)


@pytest.mark.parametrize("distance", [100, 9000])
def test_more_groups_than_get_panels_of_their_own(distance):
    assert_exact((*few_by_few(300, 3, distance), 1.0))


def test_a_few_large_groups_and_three_queries():
    x, labels = few_by_few(5, 100, 300, 16)
    assert_exact((x[[0, 1, 3]], labels, 1.0), references=x)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_long_chain_in_many_dimensions(seed):
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(1, 400, generator=generator), dim=1)
    x = 60 * torch.rand(120, 1, generator=generator) * direction
    x = x + 0.1 * torch.randn(120, 400, generator=generator) / 20
    assert_exact((x, torch.randint(0, CLASSES, (120,), generator=generator), 1.0))


@pytest.mark.parametrize("distance", [1, 100, 9000])
def test_bf16_loses_no_more_where_groups_are_far_apart(distance):
    x, labels = few_by_few(20, 10, distance, 32)
    leaf = x.clone().requires_grad_()
    error = bayes_error(leaf, labels, CLASSES, 1.0, precision="bf16")
    (grad,) = torch.autograd.grad(error.sum(), leaf)
    exact_error, exact_grad = truth(x, labels, 1.0)
    assert relative(error.detach(), exact_error) < 1e-4
    assert relative(grad, exact_grad) < 5e-3


def test_threads_change_no_bit_where_panels_are_wide():
    x, labels = few_by_few(80, 3, 100)
    threads, outcomes = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        outcomes.append(results(x[:100], labels, 1.0, references=x))
    torch.set_num_threads(threads)
    for outcome in outcomes[1:]:
        assert all(map(torch.equal, outcome, outcomes[0]))


def test_one_group_far_wider_than_the_bandwidth():
    """A line of points half a bandwidth apart, which no group of 16 bandwidths holds."""
    generator = torch.Generator().manual_seed(0)
    along = torch.arange(400.0)[torch.randperm(400, generator=generator), None] * 0.15
    x = along * torch.ones(1, 8) / 8**0.5 + 0.1 * torch.randn(400, 8, generator=generator)
    assert_exact((x, torch.randint(0, CLASSES, (400,), generator=generator), 0.3))


@pytest.mark.parametrize("similarity", ["rbf", "logistic"])
@pytest.mark.parametrize("size", [1e-30, 1e-19, 1e-10, 1e10, 1e20, 1e30])
def test_features_and_bandwidth_of_any_size(similarity, size):
    x, labels = far_groups(1, 0.3)
    assert_exact((x * size, labels, 0.3 * size, similarity))


@pytest.mark.parametrize("bandwidth", [1e-3, 1e-30, 1e-160, 1e-300])
def test_identical_samples_at_any_bandwidth(bandwidth):
    x, labels, _ = torch.rand(1, 12).expand(40, -1), torch.arange(40) % 3, None
    for dtype in (torch.float32, torch.float64):
        step, error = bayes_ascent_step(x.to(dtype), labels, x.to(dtype), 3, bandwidth, 0.1, 0.1, "linf")
        assert torch.equal(step, x.to(dtype))
        assert torch.allclose(error, bayes_error(x.to(dtype), labels, 3, 0.5))


@pytest.mark.parametrize(
    ("distance", "size"),
    [*((each, 1) for each in (1, 10, 100, 1000)), *((1, each) for each in (1e-30, 1e-19, 1e-10, 1e19, 1e30))],
)
def test_the_ascent_step_on_groups_far_apart(distance, size):
    x, labels = far_groups(distance, 0.3, 100)
    x = x * size
    step, error = bayes_ascent_step(x, labels, x, CLASSES, 0.3 * size, size, 9 * size, "l2", -3e38, 3e38)
    exact_error, gradient = truth(x, labels, 0.3 * size)
    direction = gradient / gradient.norm(dim=1, keepdim=True)
    assert relative(error, exact_error) < 1e-5
    assert float(((step.double() - x) / size - direction).abs().max()) < 1e-5 + distance * 2e-7


@pytest.mark.parametrize("bandwidth", [1e-310, 1e308])
def test_the_ends_of_the_bandwidths(bandwidth):
    x, labels = torch.zeros(6, 3, dtype=torch.float64), torch.arange(6) % 3
    for similarity in ("rbf", "logistic"):
        assert torch.allclose(
            bayes_error(x, labels, 3, bandwidth, similarity), bayes_error(x, labels, 3, 1.0, similarity)
        )
    for step in (bayes_ascent_step, ascent_contract.reference):
        assert torch.equal(step(x, labels, x, 3, bandwidth, 0.1, 0.1, "linf")[0], x)


def test_equal_rows_in_float64_stay_where_they_are():
    x, labels = torch.full((20, 4), 0.1, dtype=torch.float64), torch.arange(20) % 2
    assert torch.equal(bayes_ascent_step(x, labels, x, 2, 1.0, 0.05, 0.1, "linf")[0], x)


def test_the_reference_holds_beside_a_row_far_away():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(33, 5, generator=generator, dtype=torch.float64), torch.arange(33) % CLASSES
    x[0] = 1e9
    exact_error, gradient = truth(x, labels, 1.0)
    error, mass, winner = error_contract.reference(x, labels, CLASSES, 1.0)
    assert relative(error, exact_error) < 1e-7
    found = error_contract.reference_backward(torch.ones_like(error), mass, winner, x, labels, CLASSES, 1.0)[
        0
    ]
    assert relative(found, gradient) < 1e-6


def test_many_samples_are_refused_in_the_steps_own_name():
    x = torch.randn(4097, 3)
    x[5, 1] = torch.nan
    with pytest.raises(RuntimeError, match=r"^bayes_ascent_step: the squared length of x\[5\] is nan"):
        bayes_ascent_step(x, torch.arange(4097) % 2, x, 2, 1.0, 0.1, 0.1, "linf")


def test_a_bandwidth_out_of_range_is_named():
    x, labels = far_groups(1, 0.3, 20)
    for call in (
        lambda: bayes_error(x, labels, CLASSES, 1e-13),
        lambda: bayes_ascent_step(x, labels, x, CLASSES, 1e-13, 0.1, 0.1, "l2"),
    ):
        with pytest.raises(RuntimeError, match=r"bandwidth is 1e-13, but .* the quotient must be under 1e12"):
            call()
