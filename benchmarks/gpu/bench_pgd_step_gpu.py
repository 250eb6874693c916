"""pgd_step on a GPU beside torchattacks' sequence, eager and compiled, and a device-to-device copy."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from timing import InterleavedOnGpu
from torch import Tensor

from unlearnable_kernels import pgd_step

EPS = {"linf": 8 / 255, "l2": 0.5}
STEP = {"linf": 2 / 255, "l2": 0.1}
TARGETS = {"linf": {"copy": 0.85}, "l2": {"copy": 0.60, "compiled": 1.5}}


@dataclass(frozen=True)
class Case:
    norm: str
    dtype: torch.dtype
    shape: tuple[int, ...]


CASES = [
    Case(norm, dtype, shape)
    for norm in ("linf", "l2")
    for dtype in (torch.float32, torch.bfloat16)
    for shape in ((16384, 3, 32, 32), (256, 3, 224, 224))
]


def torchattacks_linf(x: Tensor, grad: Tensor, origin: Tensor) -> Tensor:
    moved = x + STEP["linf"] * grad.sign()
    delta = torch.clamp(moved - origin, min=-EPS["linf"], max=EPS["linf"])
    return torch.clamp(origin + delta, min=0, max=1)


def torchattacks_l2(x: Tensor, grad: Tensor, origin: Tensor) -> Tensor:
    shape = (-1, *[1] * (x.dim() - 1))
    norms = torch.norm(grad.reshape(len(x), -1), p=2, dim=1) + 1e-10
    delta = x + STEP["l2"] * (grad / norms.view(shape)) - origin
    norms = torch.norm(delta.reshape(len(x), -1), p=2, dim=1)
    factor = torch.min(EPS["l2"] / norms, torch.ones_like(norms))
    return torch.clamp(origin + delta * factor.view(shape), min=0, max=1)


def variants_of(case: Case, device: str, compiled: bool) -> dict[str, Callable[[int], object]]:
    """Each takes a number that picks one of two sets of tensors; checked to agree with ours."""
    torch._dynamo.reset()  # or the second shape's peer would be compiled for any shape
    generator = torch.Generator().manual_seed(0)

    def drawn() -> Tensor:
        return torch.rand(case.shape, generator=generator).to(device, case.dtype)

    sets = [(drawn(), drawn() - 0.5, drawn()) for _ in range(2)]
    copies = [torch.empty_like(x) for x, _, _ in sets]
    peer = torchattacks_linf if case.norm == "linf" else torchattacks_l2
    peers: dict[str, Callable] = {"eager": peer}
    if compiled:
        peers["compiled"] = torch.compile(peer)

    def ours(number: int) -> Tensor:
        return pgd_step(*sets[number % 2], STEP[case.norm], EPS[case.norm], case.norm)

    def variant(run: Callable) -> Callable[[int], Tensor]:
        return lambda number: run(*sets[number % 2])

    tolerance = 1e-5 if case.dtype == torch.float32 else 1e-2
    for name, run in peers.items():
        difference = (variant(run)(0).float() - ours(0).float()).abs().max()
        assert difference <= tolerance, f"{name} computes something else"
    return {
        "ours": ours,
        "copy": lambda i: copies[i % 2].copy_(sets[i % 2][0]),
        **{name: variant(run) for name, run in peers.items()},
    }


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c.norm}-{c.dtype}-{c.shape[-1]}".replace("torch.", "")
)
def test_pgd_step(benchmark, case, report_figures):
    timed = InterleavedOnGpu(variants_of(case, "cuda", compiled=True))
    benchmark.pedantic(timed.round, rounds=20, iterations=1)
    medians = timed.medians()
    bytes_each = torch.Size(case.shape).numel() * case.dtype.itemsize
    # Three tensors read and one written, where a copy reads one and writes one.
    rates = {name: (2 if name == "copy" else 4) * bytes_each / s for name, s in medians.items()}
    measured = {name: s / medians["ours"] for name, s in medians.items() if name not in ("ours", "copy")}
    measured["copy"] = rates["ours"] / rates["copy"]
    report_figures(
        f"pgd_step {case.norm}, {case.dtype}, {'x'.join(map(str, case.shape))}, GPU",
        {name: f"{medians[name] * 1e6:.1f} µs, {rate / 1e9:,.0f} GB/s" for name, rate in rates.items()},
        measured,
        TARGETS[case.norm],
    )
