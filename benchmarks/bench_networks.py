"""A step of plain training of every network, in images a second and as a share of what matrices reach.

A step is a pass, its gradients and SGD's update on one batch of 32x32 images that stays where it is: bfloat16
on a GPU, float32 on a CPU, channels-last, with freed memory kept as in a run. Its floating-point operations,
three times those of a pass's convolutions and matrix products, are compared with a large product of square
matrices of the same type, timed in turn. On a CPU, OMP_NUM_THREADS says how many threads both have.

    make bench; or for some: pytest benchmarks/bench_networks.py --benchmark-enable -k "resnet8 or mobilenet"

Networks come in a random order, so that none always has the machine as the one before it left it.
"""

import os
import random
from collections.abc import Callable

import pytest
import torch
from timing import Interleaved
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from unlearnable_kernels import cpu_capability
from unlearnable_kernels.device import autocast, pick_device
from unlearnable_kernels.networks import NETWORKS, create_network
from unlearnable_kernels.training.heap import freed_memory_kept

GPU = torch.cuda.is_available()
SIDE, PRECISION, ROUNDS = (8192, "bf16", 7) if GPU else (1024, "fp32", 3)
# A CPU takes seconds for a step of the large ones; a GPU's memory holds 512 images for all but the largest.
BATCH = {"wrn34_10": 128, "wrn34_10-cuda2023": 128} if GPU else {"resnet8": 64, "mobilenet_v2": 16}
DEFAULT_BATCH = 512 if GPU else 4
SHUFFLED = sorted(NETWORKS, key=lambda name: random.random())


def training_step(name: str, batch: int) -> tuple[Callable[[], object], int]:
    """A step, and its floating-point operations."""
    device = pick_device()
    model = create_network(name, 10, 32).to(device=device, memory_format=torch.channels_last)
    fused = True if GPU else None
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, fused=fused)
    images = torch.rand(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 10
    # The counter takes a grouped convolution's gradient for that of a full one; a pass it counts right.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(images[:1])
    model.train()

    def step() -> None:
        with autocast(device, PRECISION):
            logits = model(images)
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device

    return step, 3 * batch * counter.get_total_flops()


def matrix_product() -> Callable[[], object]:
    dtype = torch.bfloat16 if GPU else torch.float32
    left, right = (torch.rand(SIDE, SIDE, device=pick_device(), dtype=dtype) for _ in range(2))

    def multiply() -> None:
        (left @ right)[0, 0].item()

    return multiply


@pytest.mark.parametrize("name", SHUFFLED)
def test_training_step(benchmark, name, report_figures):
    if "UNLEARNABLE_CPU_CAPABILITY" in os.environ:
        pytest.skip("the forced AVX2 path is for the operators' own benchmarks")
    batch = BATCH.get(name, DEFAULT_BATCH)
    step, operations = training_step(name, batch)
    with freed_memory_kept(pick_device()):
        timed = Interleaved({"step": step, "matrices": matrix_product()})
        benchmark.pedantic(timed.round, rounds=ROUNDS, iterations=1)
    seconds = timed.medians()
    reached = operations / seconds["step"]
    possible = 2 * SIDE**3 / seconds["matrices"]
    rates = {
        "step": f"{batch / seconds['step']:,.1f} images/s",
        "operations": f"{operations / batch / 1e9:.2f} GFLOP an image",
        "matrices": f"{possible / 1e9:,.0f} GFLOP/s",
    }
    where = torch.cuda.get_device_name() if GPU else cpu_capability()
    report_figures(
        f"network {name}: a training step, batches of {batch} of 32x32, {PRECISION}, {where}",
        rates,
        {"matrices": reached / possible},
        {},
    )
