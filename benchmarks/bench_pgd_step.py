"""pgd_step on the CPU beside its peers, on the same tensors, interleaved in one process.

Peers: the sequence as torchattacks writes it, eager; the same under ``torch.compile``; a plain copy, whose
rate is the ceiling of the four tensors that a step moves (three read, one written). Both peers write a fresh
result, as they do in an attack; ours too, and over x where the case says so.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from timing import Interleaved
from torch import Tensor

from unlearnable_kernels import cpu_capability, pgd_step, pgd_step_


@dataclass(frozen=True)
class Case:
    name: str
    norm: str
    shape: tuple[int, int, int, int]
    in_place: bool
    rounds: int
    targets: dict[str, float]
    dtype: torch.dtype = torch.float32
    floors: dict[str, float] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return 9 if self.shape == SMALL else 1


SMALL, LARGE = (512, 3, 32, 32), (64, 3, 224, 224)
SETS = 3
CASES = [
    # Ours and the compiled sequence both run at nearly the copy's rate.
    Case("linf small", "linf", SMALL, False, 41, {"eager": 6, "compile": 2}, floors={"compile": 0.8}),
    Case("linf small in place", "linf", SMALL, True, 41, {}),
    Case("linf large in place", "linf", LARGE, True, 15, {"eager": 15, "compile": 3.5}),
    Case("l2 small", "l2", SMALL, False, 41, {"eager": 7, "compile": 1.5}, floors={"compile": 0.8}),
    Case("l2 large in place", "l2", LARGE, True, 15, {}),
    Case("linf small bfloat16", "linf", SMALL, False, 41, {}, torch.bfloat16),
    Case("l2 small float16", "l2", SMALL, False, 41, {}, torch.float16),
]
STEP = {"linf": (2 / 255, 8 / 255), "l2": (0.2, 0.5)}


def linf(x: Tensor, grad: Tensor, origin: Tensor, alpha: float, eps: float) -> Tensor:
    x = x.detach() + alpha * grad.sign()
    delta = torch.clamp(x - origin, min=-eps, max=eps)
    return torch.clamp(origin + delta, min=0, max=1).detach()


def l2(x: Tensor, grad: Tensor, origin: Tensor, alpha: float, eps: float) -> Tensor:
    count = len(x)
    grad_norms = torch.norm(grad.view(count, -1), p=2, dim=1) + 1e-10
    x = x.detach() + alpha * (grad / grad_norms.view(count, 1, 1, 1))
    delta = x - origin
    factor = eps / torch.norm(delta.view(count, -1), p=2, dim=1)
    factor = torch.min(factor, torch.ones_like(factor))
    return torch.clamp(origin + delta * factor.view(-1, 1, 1, 1), min=0, max=1).detach()


def in_a_row(case: Case, step: Callable[[int], object]) -> Callable[[], object]:
    """Small steps several times, over tensors that the caches cannot hold, as between an attack's passes."""

    def run() -> None:
        for number in range(case.calls):
            step(number % SETS)

    return run


def variants_of(case: Case) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    alpha, eps = STEP[case.norm]
    peer = {"linf": linf, "l2": l2}[case.norm]
    torch._dynamo.reset()
    compiled = torch.compile(peer, dynamic=False)
    sets = []
    for _ in range(min(SETS, case.calls)):
        origin, grad = torch.rand(2, *case.shape, generator=generator)
        origin, grad = origin.to(case.dtype), (grad - 0.5).to(case.dtype)
        x = pgd_step(origin, grad.flip(0), origin, 0.7 * eps, eps, case.norm)  # midway in an attack
        sets.append((x, grad, origin, alpha, eps))
    expected = peer(*sets[0])
    tolerance = 0 if case.norm == "linf" and case.dtype == torch.float32 else 2 * torch.finfo(case.dtype).eps
    for result in (pgd_step(*sets[0], case.norm), compiled(*sets[0])):
        assert (result - expected).abs().max() <= tolerance, "a peer computes something else"
    reused, copied = [each[0].clone() for each in sets], [torch.empty_like(each[0]) for each in sets]
    ours: Callable[[int], object] = (
        (lambda i: pgd_step_(reused[i], *sets[i][1:], case.norm))
        if case.in_place
        else (lambda i: pgd_step(*sets[i], case.norm))
    )
    variants: dict[str, Callable[[int], object]] = {
        "ours": ours,
        "eager": lambda i: peer(*sets[i]),
        "compile": lambda i: compiled(*sets[i]),
        "copy": lambda i: copied[i].copy_(sets[i][0]),
    }
    return {name: in_a_row(case, step) for name, step in variants.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pgd_step(benchmark, case, report_figures):
    if "UNLEARNABLE_CPU_CAPABILITY" in os.environ:
        pytest.skip("has targets for the best instruction set only")
    timed = Interleaved(variants_of(case))
    benchmark.pedantic(timed.round, rounds=case.rounds, iterations=1)
    medians = {name: seconds / case.calls for name, seconds in timed.medians().items()}
    benchmark.extra_info["medians"] = medians
    tensor = torch.Size(case.shape).numel() * case.dtype.itemsize
    moved = {name: (2 if name == "copy" else 4) * tensor for name in medians}
    rates = {name: moved[name] / seconds for name, seconds in medians.items()}
    measured = {name: medians[name] / medians["ours"] for name in ("eager", "compile")}
    measured["copy's rate"] = rates["ours"] / rates["copy"]
    report_figures(
        f"pgd_step {case.name}: {'x'.join(map(str, case.shape))}, {case.dtype}, {cpu_capability()}",
        {name: f"{1e3 * medians[name]:.2f} ms, {rate / 1e9:.1f} GB/s" for name, rate in rates.items()},
        measured,
        case.targets,
        case.floors,
    )
