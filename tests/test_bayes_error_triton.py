import math
import os
from collections import Counter

import fresh_process
import pytest
import torch
from test_bayes_error_range import far_groups
from triton_interpreter import interpreter_in_use, repaired_interpreter  # noqa: F401

from unlearnable_kernels.ops import bayes_error as contract
from unlearnable_kernels.triton_kernels import bayes_error as kernels

pytestmark = [
    pytest.mark.skipif(not interpreter_in_use(), reason="a GPU runs tests/gpu instead"),
    pytest.mark.usefixtures("repaired_interpreter", "small_tiles"),
]


@pytest.fixture
def small_tiles(monkeypatch):
    for name, value in (("TILE", 16), ("SMALL", 0), ("PANEL", 64), ("BLOCK_D", 16)):
        monkeypatch.setattr(kernels, name, value)


def clusters(count=70, features=19, classes=4, spread=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.randn(classes, features, generator=generator)
    return (centres[labels] + spread * torch.randn(count, features, generator=generator)) / 4, labels


def compared(x, labels, classes, bandwidth, similarity="rbf", precision="ieee", references=None, row=-1):
    """Relative differences of error and gradients from the float64 reference's, with an upstream gradient."""
    options = (classes, bandwidth, similarity, precision, references, row)
    wide = (*options[:4], None if references is None else references.double(), row)
    error, *statistics = kernels.bayes_error(x, labels, *options)
    expected, *truths = contract.reference(x.double(), labels, *wide)
    assert torch.equal(statistics[1], truths[1])
    grad = torch.linspace(0.5, 2, len(x))
    results = kernels.bayes_error_backward(grad, *statistics, x, labels, *options)
    truths = contract.reference_backward(grad.double(), *truths, x.double(), labels, *wide)
    assert [r.shape for r in results] == [t.shape for t in truths]

    def relative(result, truth):
        assert not result.isnan().any()
        return float((result.double() - truth).norm() / truth.norm().clamp(min=1e-300))

    return relative(error, expected), *(relative(r, t) for r, t in zip(results, truths, strict=True))


@pytest.mark.parametrize(
    ("precision", "of_error", "of_gradient"),
    [("ieee", 1e-6, 1e-6), ("tf32", 1e-3, 1e-3), ("bf16", 6e-3, 8e-3)],
)
@pytest.mark.parametrize("similarity", contract.SIMILARITIES)
@pytest.mark.parametrize("kind", ["leave one out", "others", "own rows"])
def test_agrees_with_float64(kind, similarity, precision, of_error, of_gradient):
    pool, labels = clusters(45)
    queries, references, row = {
        "leave one out": (pool, None, -1),
        "others": (pool[:17] + 0.1, pool, -1),
        "own rows": (pool[21:38], pool, 21),
    }[kind]
    bandwidth = 0.3 if similarity == "rbf" else 0.7
    error, *gradients = compared(queries, labels, 4, bandwidth, similarity, precision, references, row)
    assert error < of_error
    assert max(gradients) < of_gradient


@pytest.mark.parametrize(
    ("count", "features", "classes"), [(1, 5, 1), (16, 16, 2), (33, 1, 3), (20, 40, 40), (49, 20, 2)]
)
def test_shapes_around_the_tiles(count, features, classes):
    x, labels = clusters(count, features, classes)
    if count > 1:
        assert max(compared(x, labels, classes, 0.4)) < 1e-6
    else:
        error, mass, winner = kernels.bayes_error(x, labels, classes, 0.4)
        assert (error.item(), mass[0, 0].item(), winner.item()) == (1, 0, 0)


def test_an_offset_costs_no_accuracy():
    x, labels = clusters()
    assert max(compared(x + 1, labels, 4, 0.2)) < 2e-6


@pytest.mark.parametrize("precision", contract.PRECISIONS)
def test_far_apart_rows_have_error_1_and_gradient_0(precision):
    x, labels = clusters(20)
    options = (4, 1e-3, "rbf", precision, None, -1)
    error, mass, winner = kernels.bayes_error(x, labels, *options)
    assert torch.equal(error, torch.ones(20))
    assert torch.equal(winner, torch.zeros(20, dtype=torch.int64))
    gradient, _ = kernels.bayes_error_backward(torch.ones(20), mass, winner, x, labels, *options)
    assert torch.equal(gradient, torch.zeros_like(x))


def test_of_tied_classes_the_lowest_wins_and_duplicates_count():
    x = torch.tensor([[0.0], [0.5], [0.5], [1.0], [0.0]]).repeat(8, 1)
    labels = torch.tensor([2, 1, 3, 2, 3]).repeat(8)
    assert max(compared(x, labels, 4, 0.3)[:2]) < 1e-6
    symmetric = torch.tensor([[-1.0], [1.0], [0.0]])
    winner = kernels.bayes_error(symmetric, torch.tensor([3, 1, 0]), 4, 0.5)[2]
    assert winner[2] == 1


def separate_groups():
    """Classes of a tile each: 0 and 1 in one place; 2 and 3 out of their reach; 4 within that of 2 and 3."""
    labels = torch.arange(80) % 5
    places = torch.tensor([0, 0, 3, 3, 3.3])[labels, None]
    return places + 0.03 * torch.randn(80, 9, generator=torch.Generator().manual_seed(0)), labels


def test_tiles_that_underflow_are_skipped_and_change_nothing(monkeypatch):
    monkeypatch.setattr(kernels, "LONGEST", float("inf"))
    x, labels = separate_groups()
    call = (labels, 5, 0.3, "rbf", "ieee", None, -1)
    problem = kernels._problem(contract.Arguments(x, *call))
    assert problem.active.count_nonzero() == 3 + 6
    visited = [kernels.bayes_error(x, *call)]
    visited.append(kernels.bayes_error_backward(torch.ones(80), *visited[0][1:], x, *call))
    monkeypatch.setattr(kernels, "_active", lambda x, y, _: torch.ones(x.tiles, y.tiles, dtype=torch.uint8))
    whole = [kernels.bayes_error(x, *call)]
    whole.append(kernels.bayes_error_backward(torch.ones(80), *whole[0][1:], x, *call))
    for skipped, complete in zip(visited, whole, strict=True):
        assert all(torch.equal(s, c) for s, c in zip(skipped, complete, strict=True))
    assert compared(x, labels, 5, 0.3)[1] < 1e-4


@pytest.mark.parametrize(
    ("distance", "count", "precision", "tolerance"),
    [(20, 40, "ieee", 1e-5), (10_000, 30, "ieee", 1e-5), (150, 30, "bf16", 0.02)],
)
def test_groups_up_to_ten_thousand_bandwidths_apart(distance, count, precision, tolerance):
    x, labels = far_groups(0.3 * distance, 0.3, count, 5)
    assert max(compared(x, labels, 5, 0.3, precision=precision)) < tolerance


def test_groups_far_from_references_of_their_own():
    x, labels = far_groups(300, 0.3, 32, 5)
    assert max(compared(x[:15], labels[15:], 5, 0.3, references=x[15:])) < 1e-5


@pytest.mark.parametrize(
    ("size", "distance", "similarity"),
    [
        (1e-30, 1, "rbf"),
        (1e30, 100, "rbf"),
        (1e28, 9000, "rbf"),
        (1e-30, 1, "logistic"),
        (1e34, 1, "logistic"),
    ],
)
def test_rows_and_bandwidth_of_any_size(size, distance, similarity):
    x, labels = far_groups(distance, 1, 24, 5)
    assert max(compared(x * size, labels, 5, size, similarity)) < 1e-5


def test_rows_whose_differences_are_beyond_float32():
    x, labels = clusters(14)
    x = x / x.abs().amax() * 3e38
    assert compared(x, labels, 4, 3e38)[0] < 1e-5


@pytest.mark.parametrize("bandwidth", [1e-3, 1e-30, 1e-160, 1e-300])
def test_equal_rows_at_any_bandwidth(bandwidth):
    x, labels = torch.rand(1, 12).expand(14, -1), torch.arange(14) % 3
    error, *statistics = kernels.bayes_error(x, labels, 3, bandwidth)
    assert torch.allclose(error, contract.reference(x, labels, 3, 0.5)[0])
    gradient, _ = kernels.bayes_error_backward(error, *statistics, x, labels, 3, bandwidth)
    assert not gradient.any()


def test_a_bandwidth_out_of_range_is_named():
    from unlearnable_kernels.triton_kernels.bayes_ascent_step import bayes_ascent_step

    x, labels = far_groups(1, 0.3, 20)
    for call in (
        lambda: kernels.bayes_error(x, labels, 5, 1e-13),
        lambda: kernels.bayes_error(x, labels, 5, 1e-6, references=x * 1e7),
        lambda: kernels.bayes_error(x, labels, 5, 1e-13, "logistic"),
        lambda: bayes_ascent_step(x, labels, x, 5, 1e-13, 0.1, 0.1, "l2"),
        lambda: contract.reference(x.double(), labels, 5, 1e-13),
    ):
        refused = r"^bayes_(error|ascent_step): the longest row over bandwidth is .*, but must be under 1e12$"
        with pytest.raises(RuntimeError, match=refused):
            call()


@pytest.fixture
def poisoned(monkeypatch):
    """Whatever nothing wrote is NaN, or -7."""
    original = torch.Tensor.new_empty
    monkeypatch.setattr(torch, "empty_like", lambda t: torch.full_like(t, -7))

    def new_empty(self, *size, **options):
        made = original(self, *size, **options)
        return made.fill_(float("nan") if made.is_floating_point() else -7)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)


@pytest.mark.parametrize("queries", [None, 5])
def test_the_last_classes_may_have_no_rows(poisoned, queries):
    x, labels = clusters(20, 3, 4)
    references = None if queries is None else x[queries:]
    assert max(compared(x[:queries], labels[queries or 0 :], 6, 0.3, references=references)) < 1e-5


def test_what_nothing_wrote_is_not_read(poisoned):
    x, labels = separate_groups()
    few = (labels == 0) | (labels == 2) | (labels == 3)
    x, call = x[few, :2], (labels[few], 5, 0.25, "rbf", "ieee", None, -1)
    active = kernels._problem(contract.Arguments(x, *call)).active
    assert active.tolist() == [[2, 0, 0], [0, 1, 1], [0, 0, 1]]  # from differences, skipped, from products
    error, mass, winner = kernels.bayes_error(x, *call)
    gradient, _ = kernels.bayes_error_backward(torch.ones(48), mass, winner, x, *call)
    assert error.isfinite().all()
    assert mass.isfinite().all()
    assert (winner >= 0).all()
    assert gradient.isfinite().all()


def test_panels_change_no_mass(monkeypatch):
    x, labels = clusters(70, 9)
    results = []
    for panel in (16, 48, 128):
        monkeypatch.setattr(kernels, "PANEL", panel)
        results.append(kernels.bayes_error(x, labels, 4, 0.3)[1])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_programs_of_256_columns(monkeypatch):
    """Of two tiles one and the pair from differences, the other from products."""
    for name, value in (("PANEL", 16), ("WIDE", 0), ("_wide", lambda *_: torch.tensor([True, False]))):
        monkeypatch.setattr(kernels, name, value)
    x, labels = clusters(32, 256)
    assert compared(x / 4, labels, 4, 0.3, precision="bf16")[1] < 8e-3


def test_row_order_changes_no_value():
    x, labels = clusters(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    error, _, winner = kernels.bayes_error(x, labels, 4, 0.3)
    shuffled, _, shuffled_winner = kernels.bayes_error(x[order], labels[order], 4, 0.3)
    assert torch.allclose(shuffled, error[order], rtol=1e-6)
    assert torch.equal(shuffled_winner, winner[order])


@pytest.fixture
def launches(monkeypatch):
    """Kernel and grid of every launch, none of which happens."""
    launched = []

    class Recorded:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            launched.append((self.name, grid))
            return lambda *arguments, **options: None

    for name in ("class_sums", "add_masses", "statistics", "pair_weights", "add_products"):
        module = kernels.products if name == "add_products" else kernels.kernels
        monkeypatch.setattr(module, name, Recorded(name))
    return launched


def test_as_many_classes_and_rows_as_the_contract_allows_fit_the_grid(launches):
    """A grid's first axis holds 2³¹ − 1 programs, its second 65,535."""
    x, labels = clusters(20)
    kernels._masses(kernels._problem(contract.Arguments(x, labels, 70_000, 0.3)), 70_000)
    many, theirs = clusters(70_000 * kernels.TILE, 1, 2)
    kernels._masses(kernels._problem(contract.Arguments(many[:5], theirs, 2, 0.3, references=many)), 2)
    grids = [grid for _, grid in launches]
    assert sum(math.prod(grid) >= 70_000 for grid in grids) >= 2
    assert max([*grid, 1][1] for grid in grids) <= 65_535


@pytest.mark.parametrize(("precision", "panels"), [("ieee", 13), ("tf32", 13), ("bf16", 7)])
def test_launches_at_50_000_rows(launches, monkeypatch, precision, panels):
    for name, value in (("TILE", 128), ("SMALL", 4096), ("PANEL", 8192), ("BLOCK_D", 64)):
        monkeypatch.setattr(kernels, name, value)
    x, labels = clusters(50_000, 1, 10)
    call = (labels, 10, 0.3, "rbf", precision, None, -1)
    _, mass, winner = kernels.bayes_error(x, *call)
    kernels.bayes_error_backward(torch.ones(len(x)), mass, winner.clamp(0, 9), x, *call)
    pairs = panels * (panels + 1) // 2
    counts = {"class_sums": 7, "add_masses": 7, "statistics": 1, "pair_weights": pairs, "add_products": pairs}
    assert Counter(name for name, _ in launches) == counts


def test_refuses_what_the_contract_refuses():
    x, labels = clusters(20)
    for arguments, message in (
        ((x, labels, 4, float("nan")), "bandwidth must be finite and greater than 0, got nan"),
        ((x, labels - 1, 4, 0.3), r"labels\[\d+\] is -1, but must lie in \[0, 4\)"),
        ((x, labels, 4, 0.3, "rbf", "fp8"), "precision must be one of"),
    ):
        with pytest.raises(RuntimeError, match=message):
            kernels.bayes_error(*arguments)


def test_float64_and_nothing_at_all_go_to_the_reference():
    x, labels = clusters(20)
    error = kernels.bayes_error(x.double(), labels, 4, 0.3)[0]
    assert torch.equal(error, contract.reference(x.double(), labels, 4, 0.3)[0])
    assert kernels.bayes_error(x[:0], labels, 4, 0.3, references=x)[0].shape == (0,)


COMPILED = r"""
import re, subprocess, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from unlearnable_kernels.triton_kernels import bayes_error as launch

tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
half, small = {"x", "y", "weights"}, {"x_part", "y_part"}
unaligned = {"active_row", "x_tiles", "x_lists_row", "y_lists_row"}
numbers = unaligned | {"x_first", "y_first", "x_count", "y_count", "panel", "weight_part"}
integers = {"x_labels", "y_labels", "x_own", "y_own", "x_winner", "y_winner", "x_lists", "y_lists"}
distance = {"PARTS": 2, "BLOCK_D": launch.BLOCK_D // 2}
products = {"PARTS": 3, "BLOCK_N": 128, "BLOCK_K": 32}
one = {"PARTS": 1}
two_of_a_tile = {"num_stages": launch.STAGES, "maxnreg": launch.TWO_OF_A_TILE}
for name, constants, options in (
    ("class_sums", distance, {"num_stages": launch.STAGES}),
    ("pair_weights", distance | {"WEIGHT_PARTS": 3}, {"num_stages": launch.STAGES}),
    ("add_products", products, {"num_stages": launch.STAGES_OF_PRODUCTS}),
    ("class_sums", one | {"BLOCK_D": launch.BLOCK_D}, two_of_a_tile),
    ("add_products", products | one | {"BLOCK_N": 256}, {"num_stages": launch.STAGES_OF_PRODUCTS}),
):
    kernel = getattr(launch.products if name == "add_products" else launch.kernels, name)
    constants = constants | {"RBF": True, "BOTH": True, "D": 512, "TILE": launch.TILE}
    of_half = "*fp16" if name != "add_products" and constants["PARTS"] == 2 else "*bf16"
    signature = {}
    for argument in kernel.arg_names:
        signature[argument] = (
            "constexpr" if argument in constants else "*bf16" if argument == "weights" else
            of_half if argument in half else "i64" if argument in small else "i32" if argument in numbers else
            "*i32" if argument in integers else "*u8" if argument == "active" else "*fp32"
        )
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, argument in enumerate(kernel.arg_names)
        if signature[argument] != "constexpr" and argument not in unaligned | {"x_lists", "y_lists"}
    }
    places = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    source = ASTSource(kernel, signature=signature, constexprs=places, attrs=aligned)
    options["num_warps"] = launch.WARPS
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    path = Path(sys.argv[1]) / f"{name}.cubin"
    path.write_bytes(compiled.asm["cubin"])
    text = subprocess.run([tool, "--dump-sass", path], capture_output=True, text=True, check=True).stdout
    usage = [tool, "--dump-resource-usage", path]
    registers = re.search(r"REG:(\d+)", subprocess.run(usage, capture_output=True, text=True).stdout)[1]
    shared = compiled.metadata.shared
    loads = re.findall(r"LDGSTS[.A-Z0-9]*128", text)
    print(name, "HGMMA" in text, "HMMA" in text.replace("HGMMA", ""), "LDL" in text or "STL" in text,
          len(loads) > 0, shared <= 227 * 1024, int(registers) <= 128 and shared <= 227 * 1024 // 2,
          re.search(r"warp_group_dot [^,]+, [^,]+, %arg", compiled.asm["ttgir"]) is None)
"""


def test_compiles_for_hopper_to_its_matrix_instructions_without_spills(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    run = fresh_process.run(COMPILED, tmp_path, env=environment)
    # The last facts: a multiprocessor holds two; no product is added to what the loop carries, which would be
    # one chain of all of D.
    expected = "True False False True True"
    kernels_of_ieee = ("class_sums", "pair_weights", "add_products")
    lines = run.stdout.splitlines()
    assert lines[:3] == [f"{name} {expected} False True" for name in kernels_of_ieee]
    assert lines[3].startswith(f"class_sums {expected} True")
    assert lines[4].startswith(f"add_products {expected}")
