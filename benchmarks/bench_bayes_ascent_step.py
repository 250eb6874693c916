"""bayes_ascent_step on the CPU beside its peers, on the same batch, interleaved in one process.

Peers: the composition in plain PyTorch, eager (one matrix product for all distances, autograd, the projected
step); the same under ``torch.compile``; our own parts, bayes_error, autograd and pgd_step; one product of the
batch with its transpose, of which the plain composition needs three and ours at least one and a half.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from timing import Interleaved
from torch import Tensor

from unlearnable_kernels import bayes_ascent_step, bayes_error, cpu_capability, pgd_step

CLASSES = 10


@dataclass(frozen=True)
class Case:
    name: str
    count: int
    size: int
    norm: str
    bandwidth: float
    rounds: int
    targets: dict[str, float]


CASES = [
    Case("linf batch 512", 512, 32, "linf", 8.0, 25, {"eager": 2}),
    Case("l2 batch 512", 512, 32, "l2", 8.0, 25, {"eager": 2}),
    Case("linf batch 128", 128, 32, "linf", 8.0, 41, {}),
    Case("linf batch 2048", 2048, 32, "linf", 8.0, 5, {}),
]
STEP = {"linf": (2 / 255, 8 / 255), "l2": (0.2, 0.5)}


def surrogate(x: Tensor, labels: Tensor, bandwidth: float) -> Tensor:
    z = x.flatten(1)
    z = z - z.mean(0)
    norms = z.square().sum(1)
    squares = (norms[:, None] + norms - 2 * (z @ z.T)).clamp(min=0)
    kernel = torch.exp(squares * (-0.5 / bandwidth**2)) * (1 - torch.eye(len(z)))
    mass = kernel @ F.one_hot(labels, CLASSES).float()
    won, winner = mass.max(1)
    others = mass.masked_fill(F.one_hot(winner, CLASSES).bool(), 0).sum(1) + 1e-8
    return others / (others + won)


def projected(x: Tensor, grad: Tensor, origin: Tensor, norm: str) -> Tensor:
    step, eps = STEP[norm]
    if norm == "linf":
        moved = (x + step * grad.sign() - origin).clamp(-eps, eps)
    else:
        moved = x + step * grad / (grad.flatten(1).norm(dim=1) + 1e-10).view(-1, 1, 1, 1) - origin
        moved = moved * (eps / moved.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
    return (origin + moved).clamp(0, 1)


def plain(compiled: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    error_of = torch.compile(surrogate) if compiled else surrogate
    step = torch.compile(projected) if compiled else projected

    def run(x: Tensor, labels: Tensor, origin: Tensor, case: Case) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        error = error_of(leaf, labels, case.bandwidth)
        (grad,) = torch.autograd.grad(error.sum(), leaf)
        return step(x, grad, origin, case.norm), error.detach()

    return run


def parts(x: Tensor, labels: Tensor, origin: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    error = bayes_error(leaf.flatten(1), labels, CLASSES, case.bandwidth)
    (grad,) = torch.autograd.grad(error.sum(), leaf)
    return pgd_step(x, grad, origin, *STEP[case.norm], case.norm), error.detach()


def ours(x: Tensor, labels: Tensor, origin: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    return bayes_ascent_step(x, labels, origin, CLASSES, case.bandwidth, *STEP[case.norm], case.norm)


def variants_of(case: Case) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(case.count) % CLASSES
    centres = torch.rand(CLASSES, 3, case.size, case.size, generator=generator)
    noise = torch.rand(case.count, *centres.shape[1:], generator=generator)
    origin = (centres[labels] + noise) / 2
    call = ((origin + 0.02 * (noise - 0.5)).clamp(0, 1), labels, origin, case)
    functions = {"ours": ours, "eager": plain(False), "compile": plain(True), "parts": parts}
    expected, error = ours(*call)
    for name, function in functions.items():
        step, error_of_peer = function(*call)
        assert ((step - expected).abs() > 1e-5).float().mean() < 1e-3, f"{name} steps elsewhere"
        assert torch.allclose(error_of_peer, error, rtol=1e-4), f"{name} computes another error"
    variants: dict[str, Callable[[], object]] = {
        name: lambda function=function: function(*call) for name, function in functions.items()
    }
    rows = origin.flatten(1)
    return {**variants, "product": lambda: rows @ rows.T}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bayes_ascent_step(benchmark, case, report_figures):
    timed = Interleaved(variants_of(case))
    benchmark.pedantic(timed.round, rounds=case.rounds, iterations=1)
    medians = timed.medians()
    benchmark.extra_info["medians"] = medians
    report_figures(
        f"bayes_ascent_step {case.name}: {case.count} of 3x{case.size}x{case.size}, {cpu_capability()}",
        {name: f"{1e3 * s:.2f} ms" for name, s in medians.items()},
        {name: s / medians["ours"] for name, s in medians.items() if name != "ours"},
        case.targets,
    )
