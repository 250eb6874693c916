"""Training, plain and adversarial (PGD with 10 steps), beside other ways to do the same, in images a second.

ours: the loop of ``unlearnable train`` in bfloat16. fp32: the same in float32; compiled: with --compile (on
a GPU only; plain steps are then CUDA graphs). Peers: (a) a plain float32 loop as the released program has
it, each image cropped and flipped by torchvision on the CPU and attacked by torchattacks; (b) our loop with
our operators switched off: the crop by indexing and the step in plain PyTorch. All take one epoch of the
same images; on a GPU ResNet-18 as in the published recipe, on a CPU ResNet-8, which shows ratios and needs
no target.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch
from timing import Interleaved
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from unlearnable_kernels import cpu_capability
from unlearnable_kernels.data.arrays import LabelledImages
from unlearnable_kernels.defences import pgd as attacks
from unlearnable_kernels.device import pick_device
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.networks import create_network
from unlearnable_kernels.ops.crop_flip import reference as plain_crop_flip
from unlearnable_kernels.training import TrainConfig, engine, loop
from unlearnable_kernels.training.processes import Processes

GPU = torch.cuda.is_available()
EPS = 4 / 255


@dataclass(frozen=True)
class Case:
    defence: str | None
    images: int
    batch: int
    rounds: int
    target: float | None = None


CASES = (
    [Case(None, 20 * 512, 512, 7, 60_000), Case("at-linf", 4 * 512, 512, 7, 8_000)]
    if GPU
    else [Case(None, 128, 128, 5), Case("at-linf", 32, 32, 3)]
)


def images_for(case: Case) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (case.images, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (case.images,), generator=generator)
    return LabelledImages(images, labels, [str(c) for c in range(10)], [""] * case.images, None)


def trainer_for(config: TrainConfig, data: LabelledImages) -> Callable[[], object]:
    device = pick_device()
    trainer = loop.engine_for(config, data, Processes(0, 1, device))
    generator = torch.Generator(device).manual_seed(0)
    return lambda: trainer.train_epoch(0, generator, lambda images: None)


def plain_step_(x: Tensor, grad: Tensor, origin: Tensor, step: float, eps: float, norm: str) -> None:
    assert norm == "linf"
    delta = torch.clamp(x + step * grad.sign() - origin, min=-eps, max=eps)
    x.copy_(torch.clamp(origin + delta, min=0, max=1))


def without_operators(run: Callable[[], object]) -> Callable[[], object]:
    def plain() -> None:
        with (
            patch.object(engine, "crop_flip", plain_crop_flip),
            patch.object(attacks, "pgd_step_", plain_step_),
        ):
            run()

    return plain


class Photos(Dataset):
    def __init__(self, data: LabelledImages) -> None:
        self.data = data
        self.transform = v2.Compose(
            [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
        )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.data.images[index].permute(2, 0, 1)), self.data.labels[index]


def released_way(case: Case, data: LabelledImages, network: str) -> Callable[[], object]:
    device = pick_device()
    model = create_network(network, 10, 32).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    attack: Callable[[Tensor, Tensor], Tensor] = lambda images, labels: images  # noqa: E731
    if case.defence is not None:
        import torchattacks

        attack = torchattacks.PGD(model, eps=EPS, alpha=1.5 * EPS / 10, steps=10)
    workers = usable_cores() - 1 if GPU else 0
    loader = DataLoader(
        Photos(data), case.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )

    def epoch() -> None:
        model.train()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            loss = functional.cross_entropy(model(attack(images, labels)), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        loss.item()

    return epoch


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.defence or "erm")
def test_training(benchmark, case, report_figures):
    if "UNLEARNABLE_CPU_CAPABILITY" in os.environ:
        pytest.skip("the forced AVX2 path is for the operators' own benchmarks")
    network, data = "resnet18" if GPU else "resnet8", images_for(case)
    config = TrainConfig(
        ".",
        network=network,
        batch_size=case.batch,
        defences=[] if case.defence is None else [{"name": case.defence, "eps": EPS}],
        amp="bf16",
    )
    variants = {
        "ours": trainer_for(config, data),
        "fp32": trainer_for(replace(config, amp=None), data),
    }
    if case.defence is None or find_spec("torchattacks"):
        variants["a"] = released_way(case, data, network)
    off = without_operators(trainer_for(config, data))
    variants["b"] = off
    if GPU:
        variants["compiled"] = trainer_for(replace(config, compile=True), data)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        timed = Interleaved(variants)
        benchmark.pedantic(timed.round, rounds=case.rounds, iterations=1)
    rates = {name: case.images / seconds for name, seconds in timed.medians().items()}
    measured = {name: rates["ours"] / rate for name, rate in rates.items() if name != "ours"}
    if case.target is not None:
        best = max(rates["ours"], rates["compiled"])
        measured[f"{case.target:,} images/s"] = best / case.target
    benchmark.extra_info["rates"] = rates
    where = torch.cuda.get_device_name() if GPU else cpu_capability()
    report_figures(
        f"training {case.defence or 'erm'}: {network}, batches of {case.batch} of 32x32, {where}",
        {name: f"{rate:,.0f} images/s" for name, rate in rates.items()},
        measured,
        {} if case.target is None else {f"{case.target:,} images/s": 1.0},
    )
