"""What keeps a step to the network's arithmetic: nothing waits for the device, and memory is kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import fresh_process
import pytest
import torch
from small_runs import one_thread, tiny
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from unlearnable_kernels.defences import DEFENCES, Defence
from unlearnable_kernels.device import is_on
from unlearnable_kernels.training import Engine, Recipe
from unlearnable_kernels.training.processes import Processes

__all__ = ["one_thread"]  # a fixture

CPU, GPU = torch.device("cpu"), torch.device("cuda")
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "repeat_interleave"}
"""Operations whose result's value or size the host must know, so that it waits for a GPU."""


class Noting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1] or ()
        )
        self.names.add("masked_select" if by_mask else name)
        return func(*args, **kwargs or {})


def engine(defences: Sequence[Defence] = (), device: torch.device = CPU, **changes: Any) -> Engine:
    torch.manual_seed(0)
    images, labels = torch.randint(256, (10, 16, 16, 3), dtype=torch.uint8), torch.arange(10) % 2
    recipe = Recipe(rate=lambda epoch, step, steps: 0.1 / (1 + step), batch_size=4, clip_norm=1.0, **changes)
    return Engine(tiny(2, 16), images, labels, recipe, Processes(0, 1, device), defences, 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("defences", [(), ("at-linf:steps=2",), ("at-l2:steps=2",)], ids=str)
def test_no_step_waits_for_the_device(defences: Sequence[str], precision: str) -> None:
    """The last batch, which is smaller, included."""
    trained = engine([DEFENCES.create(each) for each in defences], precision=precision)
    with Noting() as noted:
        trained.train_epoch(0, torch.Generator().manual_seed(0), lambda count: None)
    assert {"crop_flip", "convolution_backward", "argmax"} <= noted.names
    assert not noted.names & WAITING


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_on_a_gpu_the_optimizer_is_one_kernel(optimizer: str) -> None:
    (group,) = engine(device=GPU, optimizer=optimizer).optimizer.param_groups
    assert group["fused"]
    (group,) = engine(optimizer=optimizer).optimizer.param_groups
    assert not group["fused"]


def test_on_a_gpu_compiled_plain_steps_are_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(nn.Module, "compile", lambda model, dynamic, mode: modes.append(mode))
    engine(device=GPU, compile=True)
    engine([DEFENCES.create("at-linf")], GPU, compile=True)
    engine(compile=True)
    assert modes == ["reduce-overhead", None, None]


FAULTS = """
import resource
import torch
from unlearnable_kernels.training.heap import freed_memory_kept

# Pages fetched from the system for 160 MiB that had been in use before: the fewest of some trials.
def faults(device, trials):
    counts = []
    with freed_memory_kept(torch.device(device)):
        for _ in range(trials):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.zeros(160, 2**18)
            counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts)

# glibc may need some trials until a freed block has room for its own alignment.
print(faults("cuda", 2), faults("cpu", 16))
"""


def test_freed_memory_serves_the_next_step() -> None:
    """In a process of its own, whose heap has no hole that an earlier test left."""
    given_back, kept = map(int, fresh_process.run(FAULTS).stdout.split())
    assert given_back > 1000
    assert kept < 100


def test_a_device_without_a_number_is_where_tensors_with_one_are() -> None:
    """Otherwise images on a GPU would be gathered anew for every batch."""
    cpu, gpu, first, second = (torch.device(name) for name in ("cpu", "cuda", "cuda:0", "cuda:1"))
    assert is_on(cpu, cpu)
    assert is_on(first, gpu)
    assert is_on(first, first)
    assert not is_on(cpu, gpu)
    assert not is_on(first, cpu)
    assert not is_on(first, second)
