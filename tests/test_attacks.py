"""PGD: as strong as torchattacks', within its ball and [0, 1], and without a trace on the network."""

import math
from statistics import mean
from typing import Any

import pytest
import torch
import torchattacks
from small_runs import one_thread
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.augment import to_float
from unlearnable_kernels.data.digits import write_digits
from unlearnable_kernels.defences.pgd import written
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.training import Attack, Pgd, robust_accuracy

__all__ = ["one_thread"]  # a fixture
SETTINGS = [("linf", 16 / 255), ("l2", 2.0)]


class SmallNet(nn.Module):
    """Normalises inside, as networks here do if they do; with batch norm and dropout, which have modes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(32 * 64, 10)),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers((images - 0.5) / 0.25)
        return logits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    root = write_digits(tmp_path_factory.mktemp("source") / "digits")
    sets = {split: load_arrays(root, split) for split in ("train", "test")}
    return {split: (to_float(data.images), data.labels) for split, data in sets.items()}


@pytest.fixture(scope="module")
def trained(digits: dict[str, tuple[Tensor, Tensor]]) -> nn.Module:
    torch.manual_seed(0)
    model = SmallNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    images, labels = digits["train"]
    for _ in range(4):
        for index in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


@pytest.mark.parametrize(("norm", "eps"), SETTINGS)
def test_it_is_as_strong_as_torchattacks(
    digits: dict[str, tuple[Tensor, Tensor]], trained: nn.Module, norm: str, eps: float
) -> None:
    """On 900 images, over two random starts: what one start gives moves by half a point."""
    images, labels = (torch.cat(both)[:900] for both in zip(digits["train"], digits["test"], strict=True))
    theirs = (torchattacks.PGD if norm == "linf" else torchattacks.PGDL2)(
        trained, eps=eps, alpha=1.5 * eps / 5, steps=5
    )
    expected, measured = [], []
    for seed in range(2):
        torch.manual_seed(seed)
        attacked = theirs(images.contiguous(), labels)  # channels-last stops PGDL2
        expected.append(accuracy(trained, attacked, labels))
        measured.append(robust_accuracy(trained, images, labels, norm, eps, 5, seed=seed))
    clean = accuracy(trained, images, labels)
    assert 0.1 < mean(expected) < clean - 0.2, (
        "the setting tells nothing: the attack is too weak or too strong"
    )
    print(expected, measured)
    assert mean(measured) == pytest.approx(mean(expected), abs=0.01)


@pytest.mark.parametrize(("norm", "eps"), SETTINGS)
def test_without_a_random_start_it_takes_torchattacks_path(
    digits: dict[str, tuple[Tensor, Tensor]], trained: nn.Module, norm: str, eps: float
) -> None:
    """Step by step the same images, but for rounding, which decides where a gradient is near 0."""
    images, labels = (each[:64] for each in digits["test"])
    theirs = torchattacks.PGD if norm == "linf" else torchattacks.PGDL2
    expected = theirs(trained, eps=eps, alpha=eps / 4, steps=3, random_start=False)(
        images.contiguous(), labels
    )
    attacked = Attack(trained, Pgd(norm, eps, 3, eps / 4))(images, labels)
    assert ((attacked - expected).abs() > 1e-4).float().mean() < 0.01


@pytest.mark.parametrize(("norm", "eps"), SETTINGS)
def test_it_stays_in_the_ball_and_in_range(
    digits: dict[str, tuple[Tensor, Tensor]], trained: nn.Module, norm: str, eps: float
) -> None:
    images, labels = (each[:64] for each in digits["test"])
    pgd = Pgd(norm, eps, 4)
    noise = pgd.noise(images, 64, torch.Generator().manual_seed(0))
    for attacked in (Attack(trained, pgd)(images, labels, noise), (images + noise).clamp(0, 1)):
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        moved = (attacked - images).flatten(1)
        radii = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
        assert radii.max() <= eps * (1 + 1e-5)
    assert Attack(trained, pgd)(images, labels, noise).is_contiguous(memory_format=torch.channels_last)


def test_the_random_starts_fill_the_ball() -> None:
    images = torch.zeros(2000, 3, 8, 8)
    linf = Pgd("linf", 0.1).noise(images, 2000, torch.Generator().manual_seed(0))
    assert float(linf.std()) == pytest.approx(0.2 / math.sqrt(12), rel=0.01)
    assert float(linf.abs().max()) == pytest.approx(0.1, rel=0.001)
    l2 = Pgd("l2", 0.5).noise(images, 2000, torch.Generator().manual_seed(0))
    lengths = l2.flatten(1).norm(dim=1)
    assert float(lengths.mean()) == pytest.approx(0.25, rel=0.03)
    assert float(lengths.max()) == pytest.approx(0.5, rel=0.01)
    assert float(l2.mean(0).abs().max()) < 0.002, "some direction is preferred"
    again = Pgd("l2", 0.5).noise(images, 2000, torch.Generator().manual_seed(0))
    assert torch.equal(l2, again)


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_left_as_it_was(
    digits: dict[str, tuple[Tensor, Tensor]], trained: nn.Module, training: bool
) -> None:
    model = SmallNet()
    model.load_state_dict(trained.state_dict())
    model.train(training)
    layer = model.layers[1]
    layer.train(not training)
    model.layers[0].requires_grad_(False)
    weight = model.layers[-1].weight
    weight.grad = torch.ones_like(weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = (each[:32] for each in digits["test"])
    given = images.clone()

    robust_accuracy(model, images, labels, "linf", 4 / 255, steps=2)

    assert [module.training for module in model.layers] == [
        training if module is not layer else not training for module in model.layers
    ]
    assert model.training == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    wanting = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert wanting == {name for name, _ in model.named_parameters()} - {"layers.0.weight", "layers.0.bias"}
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(each.grad is None for each in model.parameters() if each is not weight)
    assert torch.equal(images, given)
    assert not images.requires_grad


def test_a_network_that_fails_is_left_as_it_was(digits: dict[str, tuple[Tensor, Tensor]]) -> None:
    model = SmallNet().train()
    with pytest.raises(RuntimeError):
        Attack(model, Pgd("linf", 0.1))(torch.zeros(2, 3, 7, 7), torch.zeros(2, dtype=torch.int64))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_in_training_mode_is_attacked_in_evaluation_mode(
    digits: dict[str, tuple[Tensor, Tensor]], trained: nn.Module
) -> None:
    images, labels = (each[:32] for each in digits["test"])
    model = SmallNet()
    model.load_state_dict(trained.state_dict())
    attacked = [Attack(model.train(mode), Pgd("linf", 0.05, 3))(images, labels) for mode in (True, False)]
    assert torch.equal(*attacked)


def test_an_images_attack_does_not_depend_on_its_batch(
    digits: dict[str, tuple[Tensor, Tensor]], trained: nn.Module
) -> None:
    images, labels = (each[:32] for each in digits["test"])
    attack = Attack(trained, Pgd("l2", 0.5, 3))
    torch.testing.assert_close(attack(images, labels)[:4], attack(images[:4], labels[:4]))


def test_bf16_attacks_in_float32_steps(digits: dict[str, tuple[Tensor, Tensor]], trained: nn.Module) -> None:
    """Every step shows in the images, though bfloat16 near 1 cannot tell 4/255 from 4.5/255."""
    images, labels = (each[:64] for each in digits["test"])
    attacked = Attack(trained, Pgd("linf", 4 / 255), "bf16")(images, labels)
    assert attacked.dtype == torch.float32
    moved = (attacked - images).abs()
    assert float(moved.max()) == pytest.approx(4 / 255, rel=1e-4)
    full = Attack(trained, Pgd("linf", 4 / 255))(images, labels)
    assert accuracy(trained, attacked, labels) == pytest.approx(accuracy(trained, full, labels), abs=0.07)


def test_an_empty_batch_stays_empty(trained: nn.Module) -> None:
    """A process may be left without images of a last, small batch."""
    attacked = Attack(trained, Pgd("l2", 0.5, 2))(
        torch.zeros(0, 3, 32, 32), torch.zeros(0, dtype=torch.int64)
    )
    assert attacked.shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"norm": "l1"}, "unknown norm 'l1': choose one of linf, l2"),
        ({"eps": 0.0}, "eps must be a finite number above 0, not 0.0"),
        ({"eps": math.nan}, "eps must be a finite number above 0, not nan"),
        ({"steps": 0}, "^steps must be at least 1, not 0"),
        ({"step_size": -1.0}, "^step_size must be a finite number above 0, not -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Pgd(**{"norm": "linf", "eps": 0.1} | changes)


def test_no_images_are_refused(trained: nn.Module) -> None:
    with pytest.raises(UserError, match="no images to attack"):
        robust_accuracy(trained, torch.zeros(0, 3, 32, 32), torch.zeros(0, dtype=torch.int64), "linf", 0.1)


def test_names() -> None:
    assert Pgd("linf", 4 / 255).name == "linf 4/255, 10 steps"
    assert Pgd("l2", 0.5, 7).name == "l2 0.5, 7 steps"
    assert Pgd("l2", 0.5, 1).name == "l2 0.5, 1 step"
    assert [written(eps) for eps in (1 / 255, 0.1, 1e-9, 255.0)] == ["1/255", "0.1", "1e-09", "65025/255"]
    assert Pgd("l2", 0.5).as_dict() == {"norm": "l2", "eps": 0.5, "steps": 10, "step_size": 0.075}
