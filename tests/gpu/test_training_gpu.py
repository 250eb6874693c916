"""Training on a GPU: no step waits, graphs do what the steps do, and runs learn and resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config_for, data, stop_after, tensors_of, tiny, untimed_metrics

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.networks import create_network
from unlearnable_kernels.training import Attack, Engine, Pgd, Processes, Recipe, evaluate, train

__all__ = ["data"]  # a fixture
pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = create_network("resnet8", 10, 32)
    model(torch.rand(64, 3, 32, 32))  # running statistics of their own
    return model.to(device=DEVICE, memory_format=torch.channels_last)


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(1)
    images = torch.rand(count, 3, 32, 32, device=DEVICE, generator=generator)
    labels = torch.randint(10, (count,), device=DEVICE, generator=generator)
    return images.contiguous(memory_format=torch.channels_last), labels


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_graph_does_what_the_steps_do(norm: str, precision: str) -> None:
    """Also with weights that have moved since it was recorded, and for a batch that it does not fit."""
    model, pgd = network(), Pgd(norm, 0.1, 3)
    attack = Attack(model, pgd, precision)
    attack(*batch(64))
    recorded = attack._graph
    assert recorded is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    for count in (64, 9):
        images, labels = batch(count)
        noise = pgd.noise(images, count, torch.Generator(DEVICE).manual_seed(2))
        attacked = attack(images, labels, noise)
        expected = (images + noise).clamp_(0, 1)
        model.eval().requires_grad_(False)
        for _ in range(pgd.steps):
            attack._ascend(expected, images, labels)
        model.train().requires_grad_(True)
        # Where a gradient is near 0, rounding decides.
        assert ((attacked - expected).abs() > 1e-4).float().mean() < 0.02
    assert attack._graph is recorded


def test_the_graph_leaves_the_network_as_it_was() -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(2):
        Attack(model, Pgd("linf", 0.1, 2))(*batch(16))
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"amp": "bf16"},
        {"defences": ["at-l2:eps=0.2,steps=2"], "amp": "bf16"},
        {"network": "resnet8", "deterministic": True, "optimizer": "adamw", "lr": 0.01, "warmup": 1}
        | {"schedule": "cosine", "normalise": "cifar10"},
    ],
    ids=["erm", "bf16", "at", "deterministic"],
)
def test_runs_learn_and_resume(data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = config_for(data, **changes)
    train(config, tmp_path / "whole")
    assert untimed_metrics(tmp_path / "whole")[-1]["test_accuracy"] >= 0.8
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "resumed", stop_after(2, tmp_path / "resumed"))
    train(config, tmp_path / "resumed")
    assert untimed_metrics(tmp_path / "resumed") == untimed_metrics(tmp_path / "whole")
    expected = tensors_of(tmp_path / "whole")
    assert all(torch.equal(value, expected[name]) for name, value in tensors_of(tmp_path / "resumed").items())
    assert evaluate(tmp_path / "whole", data)["images"] == 20


@pytest.mark.parametrize("home", ["cuda", "cpu"])
@pytest.mark.parametrize("defences", [(), ("at-linf:steps=2",)], ids=["erm", "at"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_step_waits_for_the_device(optimizer: str, defences: tuple[str, ...], home: str) -> None:
    """Nor where the images stay in the host's memory; torch refuses every wait."""
    images, labels = torch.randint(256, (10, 16, 16, 3), dtype=torch.uint8), torch.arange(10) % 2
    recipe = Recipe(lambda *_: 0.1, batch_size=4, optimizer=optimizer, clip_norm=1.0, precision="bf16")
    model = tiny(2, 16).to(device=DEVICE, memory_format=torch.channels_last)
    made = [DEFENCES.create(each) for each in defences]
    group = Processes(0, 1, DEVICE)
    engine = Engine(model, images.to(home), labels.to(home), recipe, group, made, 2)
    generator = torch.Generator(DEVICE).manual_seed(0)
    engine.train_epoch(0, generator, lambda count: None)  # compiles and records
    engine.model.train()
    batches = [rows.to(home) for rows in (torch.arange(4), torch.arange(4, 8))]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for rows in batches:
            engine._step(engine._batch(rows, 0, generator))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_compiled_graphs_train_as_plain_steps(data: Path, tmp_path: Path) -> None:
    """Two epochs, so that gradients, weights and statistics of replayed steps count."""
    for name, compiled in (("plain", False), ("compiled", True)):
        train(config_for(data, epochs=2, lr=0.01, compile=compiled), tmp_path / name)
    expected, got = (untimed_metrics(tmp_path / name)[-1] for name in ("plain", "compiled"))
    # Fused kernels round otherwise.
    assert got["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-2)
    assert got["test_loss"] == pytest.approx(expected["test_loss"], rel=2e-2)


def test_the_images_stay_on_the_device(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unlearnable_kernels.training import engine

    places = set()
    crop_flip = engine.crop_flip

    def noting(images: torch.Tensor, *others: Any) -> torch.Tensor:
        places.add((images.device.type, len(images)))
        return crop_flip(images, *others)

    monkeypatch.setattr(engine, "crop_flip", noting)
    train(config_for(data, epochs=1), tmp_path / "run")
    assert places == {("cuda", 48)}
