"""bayes_error with its gradient on the CPU beside its peers, same features, interleaved in one process.

Peers, each the value and the gradient of the mean error: (naive) the N×N×D differences as the authors'
package evaluates them, rows in chunks that fit in memory, differentiated by autograd; (chunked) products of
1,000 rows at a time with the closed gradient, docs/maths.md (B8); (compiled) the same under torch.compile;
(keops) pykeops' LazyTensor with autograd (``pip install unlearnable_kernels[bench]``). The first and the
last take so long that they run once, for one FEW-th of the queries among all references, counted FEW times.
Peak memory is what each variant adds to a fresh process in which it runs alone.
"""

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from timing import Interleaved, fused_multiply_adds
from torch import Tensor

from unlearnable_kernels import bayes_error, cpu_capability

BUILD = Path(__file__).parents[1] / "build"
CLASSES, BANDWIDTH, FEW = 10, 0.3, 40
TARGETS = {"chunked": 2.8, "compiled": 1.9, "sgemm": 0.7, "bf16 / chunked": 5}


@dataclass(frozen=True)
class Case:
    count: int
    depth: int
    rounds: int
    targets: dict[str, float]


CASES = [
    Case(4000, 512, 7, {**TARGETS, "naive": 300, "keops": 100}),
    Case(10000, 512, 3, {**TARGETS, "120 MB / memory": 1}),
]


def features_of(case: Case) -> tuple[Tensor, Tensor]:
    """Overlapping classes, so that no part of the kernel underflows and no tile can be skipped."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(case.count) % CLASSES
    centres = torch.randn(CLASSES, case.depth, generator=generator)
    noise = torch.randn(case.count, case.depth, generator=generator)
    return 0.02 * (noise + 0.5 * centres[labels]), labels


def ours(features: Tensor, labels: Tensor, precision: str = "ieee") -> tuple[Tensor, Tensor]:
    z = features.detach().requires_grad_()
    error = bayes_error(z, labels, CLASSES, BANDWIDTH, precision=precision)
    return error.detach(), torch.autograd.grad(error.mean(), z)[0]


def kernel_rows(z: Tensor, squares: Tensor, begin: int, end: int) -> Tensor:
    distances = (squares[begin:end, None] + squares - 2 * z[begin:end] @ z.T).clamp(min=0)
    kernel = torch.exp(distances * (-0.5 / BANDWIDTH**2))
    rows = torch.arange(end - begin)
    return kernel.index_put((rows, rows + begin), torch.zeros(()))


def chunk_statistics(z: Tensor, squares: Tensor, one_hot: Tensor, begin: int, end: int) -> tuple[Tensor, ...]:
    mass = kernel_rows(z, squares, begin, end) @ one_hot
    winner = mass.argmax(1)
    won = mass.gather(1, winner[:, None])[:, 0]
    return won, mass.scatter(1, winner[:, None], 0).sum(1) + 1e-8, winner


def chunk_gradient(
    z: Tensor,
    squares: Tensor,
    labels: Tensor,
    winner: Tensor,
    if_won: Tensor,
    if_lost: Tensor,
    begin: int,
    end: int,
) -> Tensor:
    here = slice(begin, end)
    weight = torch.where(labels == winner[here, None], if_won[here, None], if_lost[here, None])
    weight = weight + torch.where(labels[here, None] == winner, if_won, if_lost)
    m = kernel_rows(z, squares, begin, end) * weight
    return (m.sum(1, keepdim=True) * z[here] - m @ z) / BANDWIDTH**2


def chunked(
    features: Tensor,
    labels: Tensor,
    statistics: Callable = chunk_statistics,
    gradient: Callable = chunk_gradient,
) -> tuple[Tensor, Tensor]:
    z = features - features.mean(0)
    squares, one_hot = z.square().sum(1), torch.nn.functional.one_hot(labels, CLASSES).float()
    chunks = [(begin, begin + 1000) for begin in range(0, len(z), 1000)]
    parts = zip(*[statistics(z, squares, one_hot, *chunk) for chunk in chunks], strict=True)
    won, others, winner = (torch.cat(part) for part in parts)
    total = won + others
    if_won, if_lost = others / total**2 / len(z), -won / total**2 / len(z)
    grads = [gradient(z, squares, labels, winner, if_won, if_lost, *chunk) for chunk in chunks]
    return others / total, torch.cat(grads)


@functools.cache
def compiled_parts() -> tuple[Callable, Callable]:
    return torch.compile(chunk_statistics, dynamic=True), torch.compile(chunk_gradient, dynamic=True)


def compiled(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return chunked(features, labels, *compiled_parts())


def error_of(mass: Tensor) -> Tensor:
    winner = mass.argmax(1, keepdim=True)
    others = mass.scatter(1, winner, 0).sum(1) + 1e-8
    return others / (others + mass.gather(1, winner)[:, 0])


def naive(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Part of the queries; 16 rows at a time, whose N×D differences autograd keeps."""
    z, errors = features.detach().requires_grad_(), []
    one_hot = torch.nn.functional.one_hot(labels, CLASSES).float()
    for begin in range(0, len(z) // FEW, 16):
        rows = torch.arange(begin, min(begin + 16, len(z) // FEW))
        kernel = torch.exp((z[rows, None] - z[None]).square().sum(2) * (-0.5 / BANDWIDTH**2))
        kernel = kernel.index_put((rows - begin, rows), torch.zeros(()))
        error = error_of(kernel @ one_hot)
        (error.sum() / len(z)).backward()
        errors.append(error.detach())
    return torch.cat(errors), z.grad


def keops(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Part of the queries."""
    from pykeops.torch import LazyTensor

    z = features.detach().requires_grad_()
    one_hot = torch.nn.functional.one_hot(labels, CLASSES).float()
    queries = z[: len(z) // FEW]
    squares = ((LazyTensor(queries[:, None]) - LazyTensor(z[None])) ** 2).sum(-1)
    mass = (squares * (-0.5 / BANDWIDTH**2)).exp() @ one_hot
    error = error_of(mass - one_hot[: len(queries)])  # K_ii = 1
    (error.sum() / len(z)).backward()
    return error.detach(), z.grad


WHOLE = {
    "ours": ours,
    "bf16": functools.partial(ours, precision="bf16"),
    "chunked": chunked,
    "compiled": compiled,
}
PARTS = {"naive": naive, "keops": keops}

PEAK = """
import re, sys
sys.path.insert(0, {folder!r})
from bench_bayes_error import PARTS, WHOLE, Case, features_of
features, labels = features_of(Case({count}, {depth}, 1, {{}}))
run = (WHOLE | PARTS)[{name!r}]
run(features[:1000].clone(), labels[:1000])
def kib(name):  # of this program alone: getrusage starts from the peak of the process that spawned it
    return int(re.search(name + r":\\s*(\\d+)", open("/proc/self/status").read())[1])
before = kib("VmRSS")
run(features, labels)
print(kib("VmHWM") - before)
"""


def peak_megabytes(name: str, case: Case) -> float:
    program = PEAK.format(folder=str(Path(__file__).parent), count=case.count, depth=case.depth, name=name)
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return int(result.stdout.split()[-1]) * 1024 / 1e6


def check_agreement(case: Case, names: list[str]) -> None:
    features, labels = features_of(case)
    error, grad = ours(features, labels)
    for name in names:
        if name in WHOLE:
            peer_error, peer_grad = WHOLE[name](features, labels)
            assert (peer_grad - grad).norm() < 3e-3 * grad.norm(), f"peer {name} computes something else"
        else:
            peer_error, _ = PARTS[name](features, labels)
        limit = 3e-3 if name == "bf16" else 1e-4
        assert (peer_error - error[: len(peer_error)]).abs().max() < limit, (
            f"peer {name} computes something else"
        )


def times_of(case: Case, benchmark) -> dict[str, float]:
    """Median seconds of every variant, of the slow ones one run, once all were seen to compute the same."""
    features, labels = features_of(case)
    transposed = features.T.contiguous()
    slow = [name for name in PARTS if name in case.targets and (name != "keops" or find_spec("pykeops"))]
    check_agreement(case, [name for name in WHOLE if name != "ours"] + slow)
    variants = {name: functools.partial(run, features, labels) for name, run in WHOLE.items()}
    products = {"sgemm": lambda: features @ transposed, "fma": fused_multiply_adds(BUILD)}
    timed = Interleaved({**variants, **products})
    benchmark.pedantic(timed.round, rounds=case.rounds, iterations=1)
    seconds = timed.medians()
    for name in slow:
        start = time.perf_counter()
        PARTS[name](features, labels)
        seconds[name] = FEW * (time.perf_counter() - start)
    return seconds


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.count}x{case.depth}")
def test_bayes_error(benchmark, case, report_figures):
    seconds = times_of(case, benchmark)
    pairs = case.count**2 * case.depth
    operations = {"sgemm": 2 * pairs, "fma": fused_multiply_adds(BUILD)()}
    rates = {name: operations.get(name, 3 * pairs) / s / 1e9 for name, s in seconds.items()}
    measured = {
        name: s / seconds["ours"] for name, s in seconds.items() if name not in ("ours", "bf16", *operations)
    }
    measured |= {name: rates["ours"] / rates[name] for name in operations}
    measured["bf16 / chunked"] = seconds["chunked"] / seconds["bf16"]
    memory = {name: peak_megabytes(name, case) for name in ("ours", "bf16", "chunked")}
    measured["120 MB / memory"] = 120 / memory["ours"]
    benchmark.extra_info["medians"] = seconds
    lines = {name: f"{seconds[name]:.4f} s, {rate:,.1f} GFLOP/s" for name, rate in rates.items()}
    lines |= {f"{name} memory": f"{size:.0f} MB more" for name, size in memory.items()}
    targets = {name: target for name, target in case.targets.items() if name in measured}
    if "keops" in case.targets and "keops" not in measured:
        lines["keops"] = "not measured: pykeops is not installed"
    report_figures(
        f"bayes_error and gradient: N {case.count}, D {case.depth}, {CLASSES} classes, {cpu_capability()};"
        " rates count 3N²D",
        lines,
        measured,
        targets,
    )
