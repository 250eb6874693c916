"""Defences while training: each beside an oracle written from its paper, its statistics, and in runs."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import defence_oracles as oracles
import numpy as np
import pytest
import torch
from scipy import stats
from small_runs import config_for, data, one_thread, tensors_of
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode, TrivialAugmentWide
from torchvision.transforms import functional as tv_functional
from torchvision.transforms.autoaugment import _apply_op

from unlearnable_kernels.defences import DEFENCES, Batch, Defence, autoaugment, ueraser
from unlearnable_kernels.defences.coin import displaced
from unlearnable_kernels.defences.dat import deconvolved
from unlearnable_kernels.defences.image_operations import OPERATIONS, SIGNED, operate
from unlearnable_kernels.defences.plasma import plasma, plasma_size
from unlearnable_kernels.defences.rsk import Rsk
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import create_network
from unlearnable_kernels.training import fresh_network, train
from unlearnable_kernels.training.engine import Engine, Recipe
from unlearnable_kernels.training.processes import Processes

__all__ = ["data", "one_thread"]  # fixtures

# Draws are of fixed seeds; of a right distribution one seed in a thousand would fail.
LEAST_P = 1e-3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_images(count: int = 6, size: int = 8) -> Tensor:
    images = torch.rand(count, 3, size, size, generator=seeded(9))
    return images.contiguous(memory_format=torch.channels_last)


def batch_of(images: Tensor, seed: int = 0, labels: Tensor | None = None, classes: int = 3) -> Batch:
    labels = torch.arange(len(images)) % classes if labels is None else labels
    return Batch(images, labels, len(images), slice(None), seeded(seed), "fp32", classes)


def augmented(text: str, images: Tensor, seed: int = 0) -> Tensor:
    return DEFENCES.create(text).augment(batch_of(images, seed)).images


def by_oracle(function: Callable[..., Any], *rows: Tensor, **others: Any) -> Tensor:
    results = [
        function(*(each.double().numpy() for each in row), **others) for row in zip(*rows, strict=True)
    ]
    return torch.tensor(np.stack(results), dtype=torch.float32)


# --- noise


def test_smoothing_adds_unclamped_gaussian_noise() -> None:
    images = torch.full((8, 3, 16, 16), 0.5)
    noise = augmented("smoothing:sigma=0.25", images) - images
    assert stats.kstest(noise.flatten().numpy(), stats.norm(0, 0.25).cdf).pvalue > LEAST_P
    assert noise.abs().max() > 0.75
    assert noise.flatten().unique().numel() > 0.99 * noise.numel()


@pytest.mark.parametrize(("sigma", "size"), [(0.1, 3), (0.8, 3), (1.5, 7)])
def test_a_gaussian_blurs_as_torchvision_does(sigma: float, size: int) -> None:
    images = noise_images(3, 12)
    expected = tv_functional.gaussian_blur(images, [size, size], [sigma, sigma])
    found = augmented(f"gaussian:sigma={sigma},size={size}", images)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (found - images).abs().max() < 1e-6 or sigma > 0.1  # the published one changes nothing


# --- mixtures


def test_mixup_mixes_images_as_labels() -> None:
    """With a class for each image, every image is the sum of all, weighted with its soft label."""
    images, defence, moved = noise_images(5, 4), DEFENCES.create("mixup"), 0
    for seed in range(20):
        mixed = defence.augment(batch_of(images, seed, classes=5))
        torch.testing.assert_close(mixed.images, torch.einsum("bk,kchw->bchw", mixed.labels, images))
        torch.testing.assert_close(mixed.labels.sum(0), torch.ones(5))  # each is one other's partner
        own = mixed.labels.diagonal()
        assert torch.allclose(own[own < 1], own.min())
        moved += int((own < 1).sum())
    assert moved > 60


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_the_share_is_from_a_beta_distribution(alpha: float) -> None:
    defence, batch = DEFENCES.create(f"mixup:alpha={alpha}"), batch_of(torch.zeros(2, 1, 1, 1))
    shares = [float(defence.augment(batch).labels[0, 0]) for _ in range(1200)]
    shares = [share for share in shares if share < 1]  # the others are their own partners
    assert 500 < len(shares) < 700
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > LEAST_P


def test_cutmix_pastes_a_box_and_mixes_labels_by_its_area() -> None:
    size, count, mixed = 12, 5, 0
    images, defence = noise_images(count, size), DEFENCES.create("cutmix")
    for seed in range(120):
        result = defence.augment(batch_of(images, seed, classes=count))
        own = result.labels.diagonal()
        mixed += bool((own < 1).any())
        draws = seeded(seed)
        share = float(torch._sample_dirichlet(torch.ones(2), draws)[0])
        centre, happens = torch.rand(2, generator=draws).tolist(), torch.rand((), generator=draws) < 0.5
        side = int(np.sqrt(1 - share) * size) if happens else 0
        expected, area = images.clone(), 0
        order = torch.randperm(count, generator=draws)
        for u, v in np.ndindex(size, size):
            if all(0 <= a - int(c * size) + side // 2 < side for a, c in zip((u, v), centre, strict=True)):
                expected[:, :, u, v], area = images[order, :, u, v], area + 1
        assert torch.equal(result.images, expected)
        for n, partner in enumerate(order.tolist()):
            if partner != n:
                assert float(own[n]) == pytest.approx(1 - area / size**2, abs=1e-6)
                assert float(result.labels[n, partner]) == pytest.approx(area / size**2, abs=1e-6)
    assert stats.binomtest(mixed, 120, 0.5).pvalue > LEAST_P


def test_the_smallest_cutout_is_a_pixel() -> None:
    black = augmented("cutout:size=0.001", torch.ones(5, 3, 8, 8)) == 0
    assert black.sum((2, 3)).eq(1).all()


def test_cutout_blackens_a_square_cut_off_at_the_border() -> None:
    """At CIFAR's 32 pixels the square has 16; its centre may be any pixel."""
    size, length, count = 32, 16, 400
    black = augmented("cutout", torch.ones(count, 3, size, size)) == 0
    assert torch.equal(black.amin(1), black.amax(1))
    rows, columns = black[:, 0].any(2), black[:, 0].any(1)
    assert torch.equal(black[:, 0], rows[:, :, None] & columns[:, None, :])
    spans = {tuple(max(0, min(size, c + d)) for d in (-length // 2, length // 2)) for c in range(size)}
    for each in (rows, columns):
        found = [tuple(torch.tensor(row).nonzero()[[0, -1], 0].tolist()) for row in each.tolist()]
        assert {(a, b + 1) for a, b in found} == spans
        inner = [a for a, b in found if b + 1 - a == length and a > 0]
        assert stats.chisquare(np.bincount(inner, minlength=17)[1:17]).pvalue > LEAST_P


# --- filters and displacements


def test_random_blur_is_class_wise_convolution_with_filters_of_their_own() -> None:
    images, defence = noise_images(4, 7), DEFENCES.create("random-blur:strength=0.3")
    filters = defence.filters(4, seeded())
    filtered = by_oracle(oracles.correlated, images, filters, padding="zeros")
    expected = filtered / filtered.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(defence.augment(batch_of(images)).images, expected)
    many = defence.filters(2000, seeded(1)).flatten(1)
    assert torch.equal((many == 1).sum(1), torch.ones(2000, dtype=torch.int64))
    assert stats.chisquare(np.bincount(many.argmax(1), minlength=9)).pvalue > LEAST_P
    assert stats.kstest(many[many < 1].numpy(), stats.uniform(0, 0.3).cdf).pvalue > LEAST_P
    assert DEFENCES.create("random-blur:size=5").filters(2, seeded()).shape == (2, 5, 5)


@pytest.mark.parametrize("padding", ["valid", "reflect", "zeros"])
def test_rsk_sharpens_every_image_with_its_cross(padding: str) -> None:
    images, defence = noise_images(4, 7), Rsk(padding=padding)
    filters = defence.filters(4, seeded())
    same = "zeros" if padding == "valid" else padding
    expected = by_oracle(oracles.correlated, images, filters, padding=same).clamp(0, 1)
    if padding == "valid":
        expected = expected[:, :, 1:-1, 1:-1]
    got = defence.augment(batch_of(images)).images
    torch.testing.assert_close(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_the_random_crosses_are_as_published() -> None:
    filters = Rsk().filters(4000, seeded()).double().numpy()
    assert (filters[:, ::2, ::2] == 0).all()
    centre = filters[:, 1, 1]
    assert stats.kstest(centre, stats.norm(2.5, 0.1).cdf).pvalue > LEAST_P
    neighbours = np.stack([filters[:, 0, 1], filters[:, 1, 0], filters[:, 1, 2], filters[:, 2, 1]])
    rest = (-neighbours - (centre - 1) / 4) / 0.1
    for each in rest:
        assert stats.kstest(each, stats.norm.cdf).pvalue > LEAST_P
        assert abs(np.corrcoef(each, centre)[0, 1]) < 0.06
    assert (np.abs(np.corrcoef(rest) - np.eye(4)) < 0.06).all()


def test_coin_reads_bilinearly_at_displaced_places() -> None:
    images = noise_images(3, 6)
    offsets = torch.empty(3, 6, 6, 2).uniform_(-2, 2, generator=seeded())
    expected = by_oracle(oracles.displaced, images, offsets)
    torch.testing.assert_close(augmented("coin", images), expected, atol=1e-5, rtol=0)
    far = offsets * 4  # beyond the opposite border and back
    torch.testing.assert_close(
        displaced(images, far), by_oracle(oracles.displaced, images, far), atol=1e-5, rtol=0
    )


def test_coin_displaces_within_two_pixels_and_wraps() -> None:
    """Seen in images whose values are the pixels' coordinates."""
    size = 16
    ramp = torch.arange(size).float().expand(40, 1, size, size)
    images = torch.cat([ramp, ramp.mT, torch.zeros_like(ramp)], 1)
    moved = augmented("coin", images) - images
    inside = moved[:, :2, 2:-2, 2:-2].double().numpy()
    for axis in (0, 1):
        assert stats.kstest(inside[:, axis].ravel(), stats.uniform(-2, 4).cdf).pvalue > LEAST_P
    assert abs(np.corrcoef(inside[:, 0].ravel(), inside[:, 1].ravel())[0, 1]) < 0.05
    # From the left border the last columns are read, whose values are large.
    assert moved[:, 0, :, 0].max() > size - 3
    assert moved[:, 0, :, -1].min() < 3 - size


# --- image operations


def torchvision_magnitude(name: str, number: int, negative: bool, size: int) -> float:
    """Of the wide or else the learnt space, as torchvision has them."""
    space = TrivialAugmentWide()._augmentation_space(31)
    if name == "Invert":
        space = AutoAugment()._augmentation_space(10, (size, size))
    magnitudes, signed = space[name]
    value = float(magnitudes[number]) if magnitudes.ndim else 0.0
    return -value if negative and signed else value


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_torchvision(name: str) -> None:
    """But for what it cuts off in between and at the end, a level each, and nearest pixels that are a tie."""
    size, steps = 33, [(number, negative) for number in (1, 7, 15, 30) for negative in (False, True)]
    stored = torch.randint(30, 200, (len(steps), 3, size, size), generator=seeded(), dtype=torch.uint8)
    stored[1] = 77
    values = [torchvision_magnitude(name, number, negative, size) for number, negative in steps]
    number = torch.full((len(steps),), OPERATIONS.index(name))
    got = operate(stored / 255, number, torch.tensor(values)) * 255
    for image, value, result in zip(stored, values, got, strict=True):
        expected = _apply_op(image, name, value, InterpolationMode.NEAREST, None)
        near = (result - expected).abs() < 2
        assert near.float().mean() > (0.97 if name in OPERATIONS[1:6] else 0.9999), value


def test_a_batch_may_have_all_operations_at_once() -> None:
    images, number = noise_images(len(OPERATIONS), 9), torch.arange(len(OPERATIONS))
    magnitudes = torch.full((len(OPERATIONS),), 0.3)
    together = operate(images, number, magnitudes)
    for n in range(len(OPERATIONS)):
        alone = operate(images[n : n + 1], number[n : n + 1], magnitudes[n : n + 1])
        torch.testing.assert_close(together[n : n + 1], alone)
    assert torch.equal(together[0], images[0])


@pytest.mark.parametrize("policy", autoaugment.POLICIES)
def test_autoaugment_has_the_policies_of_torchvision(policy: str) -> None:
    size = 32
    theirs = AutoAugment(AutoAugmentPolicy(policy))
    space = theirs._augmentation_space(10, (size, size))
    operations, chances, magnitudes = autoaugment._tables(policy, size, size)
    for mine, pair in enumerate(theirs.policies):
        for at, (name, chance, number) in enumerate(pair):
            assert OPERATIONS[operations[mine, at]] == name
            assert float(chances[mine, at]) == pytest.approx(chance)
            if number is not None:
                assert float(magnitudes[mine, at]) == pytest.approx(float(space[name][0][number]), abs=1e-4)
    signed = {name for name, (_, sign) in space.items() if sign}
    assert signed == set(SIGNED)


def test_autoaugment_draws_a_pair_and_whether_it_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = record_operations(monkeypatch, autoaugment)
    augmented("autoaugment", torch.zeros(5000, 3, 4, 4))
    policies = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    for at in (0, 1):
        operations, magnitudes = seen[at]
        expected = dict.fromkeys(OPERATIONS, 0.0)
        for pair in policies:
            expected[pair[at][0]] += pair[at][1] / 25
        expected["Identity"] = 1 - sum(expected.values())
        counts = np.bincount(operations, minlength=len(OPERATIONS))
        shares = np.array([expected[name] for name in OPERATIONS])
        assert (counts[shares < 1e-9] == 0).all()
        likely = shares > 1e-9
        assert stats.chisquare(counts[likely], 5000 * shares[likely]).pvalue > LEAST_P
        turned = magnitudes[operations == OPERATIONS.index("Color")]
        turned = turned[turned != 0]
        assert stats.binomtest(int((turned < 0).sum()), len(turned), 0.5).pvalue > LEAST_P


def record_operations(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[tuple[Tensor, Tensor]]:
    """What ``operate`` is called with, in place of it."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(images: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
        seen.append((operations, magnitudes))
        return images

    monkeypatch.setattr(module, "operate", note)
    return seen


# --- UEraser


@pytest.mark.parametrize("size", [4, 5, 9])
def test_plasma_is_diamond_and_square(size: int) -> None:
    side = plasma_size(size, size - 1)
    assert side == {4: 5, 5: 5, 9: 9}[size]
    noise = torch.rand(2, 3, side, side, generator=seeded()) * 2 - 1
    roughness = torch.tensor([0.2, 0.7])
    expected = [
        np.stack([oracles.plasma(field.double().numpy(), float(r)) for field in fields])
        for fields, r in zip(noise, roughness, strict=True)
    ]
    got = plasma(noise, roughness[:, None, None, None])
    torch.testing.assert_close(got, torch.tensor(np.stack(expected), dtype=torch.float32))


def test_rough_plasma_has_more_detail() -> None:
    noise = torch.rand(8, 3, 33, 33, generator=seeded()) * 2 - 1
    detail = [plasma(noise, torch.full((8, 1, 1, 1), r)).diff().square().mean() for r in (0.1, 0.7)]
    assert detail[1] > 4 * detail[0]


def test_ueraser_changes_brightness_and_contrast_as_published() -> None:
    images, clouds = noise_images(2, 6), torch.rand(2, 3, 6, 6, generator=seeded())
    intensity, happens = torch.tensor([0.4, 0.9]), torch.tensor([True, False])
    bright = ueraser.brightened(images, clouds, intensity[:, None, None, None], happens[:, None, None, None])
    contrast = ueraser.contrasted(images, clouds, happens[:, None, None, None])
    for c, u, v in np.ndindex(3, 6, 6):
        x, field = float(images[0, c, u, v]), float(clouds[0, c, u, v])
        assert float(bright[0, c, u, v]) == pytest.approx(np.clip(x + 0.4 * (2 * field - 1), 0, 1), abs=1e-6)
        assert float(contrast[0, c, u, v]) == pytest.approx(
            np.clip((x - 0.5) * 4 * field + 0.5, 0, 1), abs=1e-5
        )
    assert torch.equal(bright[1], images[1])
    assert torch.equal(contrast[1], images[1])


def test_ueraser_draws_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness and contrast for every other image, every order of channels, TrivialAugment's operations."""
    seen = record_operations(monkeypatch, ueraser)
    happened: list[Tensor] = []

    def note(images: Tensor, clouds: Tensor, *others: Tensor) -> Tensor:
        assert clouds.min() >= 0
        assert clouds.max() <= 1
        happened.append(others[-1])
        return images

    monkeypatch.setattr(ueraser, "brightened", note)
    monkeypatch.setattr(ueraser, "contrasted", note)
    count = 3000
    images = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1).expand(count, 3, 2, 2)
    result = augmented("ueraser", images)
    for each in happened:
        assert stats.binomtest(int(each.sum()), count, 0.5).pvalue > LEAST_P
    orders = (result[:, :, 0, 0] * 10).round().long() @ torch.tensor([100, 10, 1])
    counts = {order: int((orders == order).sum()) for order in (123, 132, 213, 231, 312, 321)}
    expected = [count * (1 / 2 + 1 / 12), *[count / 12] * 5]
    assert stats.chisquare(list(counts.values()), expected).pvalue > LEAST_P
    operations, magnitudes = seen[0]
    assert stats.chisquare(np.bincount(operations, minlength=14)).pvalue > LEAST_P
    space = TrivialAugmentWide()._augmentation_space(31)
    for number, name in enumerate(OPERATIONS[:-1]):
        values, signed = space[name]
        drawn, allowed = magnitudes[operations == number], values.reshape(-1).float()
        allowed = torch.cat([allowed, -allowed]) if signed else allowed
        assert (drawn[:, None] - allowed).abs().amin(1).max() < 1e-4
        assert bool((drawn < 0).any()) == signed
        assert values.ndim == 0 or drawn.unique().numel() > 6


class Brightness(nn.Module):
    """Logits of two classes from an image's mean; keeps statistics of what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(5.0))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        mean = images.mean((1, 2, 3))
        return torch.stack([self.slope * mean, self.slope * (1 - mean)], 1)


@pytest.mark.parametrize("soft", [False, True])
def test_ueraser_max_takes_the_copy_with_the_largest_loss(soft: bool) -> None:
    images, labels, model = noise_images(6, 8), torch.arange(6) % 2, Brightness()
    if soft:
        labels = functional.one_hot(labels, 2).float() * 0.9 + 0.05
    batch = batch_of(images, labels=labels, classes=2)
    defence = DEFENCES.create("ueraser:mode=max,copies=4,epochs=2")
    assert defence.augment(batch) is batch
    got = defence.adversary(model, batch).images
    assert float(model.seen) == 0
    assert model.slope.requires_grad
    again = batch_of(images, labels=labels, classes=2)
    copies = torch.stack([ueraser.erased(again) for _ in range(4)])
    losses = torch.stack([functional.cross_entropy(model(c), labels, reduction="none") for c in copies])
    assert torch.equal(got, copies[losses.argmax(0), torch.arange(6)])
    assert losses.argmax(0).unique().numel() > 1


def test_ueraser_max_becomes_lite() -> None:
    images = noise_images(4, 8)
    for text, epoch, lite in (("epochs=2", 1, False), ("epochs=2", 2, True), ("epochs=none", 99, False)):
        batch = replace(batch_of(images, classes=2), epoch=epoch)
        defence = DEFENCES.create(f"ueraser:mode=max,{text}")
        changed = defence.augment(batch)
        assert (changed is not batch) == lite
        assert (defence.adversary(Brightness(), changed) is changed) == lite
        if lite:
            assert torch.equal(changed.images, augmented("ueraser", images))


# --- DAT


@pytest.mark.parametrize("side", [3, 5, 7])
def test_a_deconvolution_is_a_transposed_convolution(side: int) -> None:
    images = noise_images(3, 8)
    layers = torch.randn(3, side**2 + 1, generator=seeded())
    filters = layers[:, :-1].view(3, side, side)
    expected = by_oracle(oracles.transposed, images, filters, layers[:, -1])
    torch.testing.assert_close(deconvolved(images, layers), expected, atol=1e-5, rtol=1e-5)


def test_dat_ascends_with_a_layer_for_each_class() -> None:
    """Beside torch's transposed convolution, class by class, and autograd."""
    images, labels, classes, side = noise_images(7, 8), torch.tensor([0, 1, 2, 0, 1, 0, 0]), 4, 3
    model = create_network("resnet8", classes, 8).train()
    before = copy.deepcopy(model.state_dict())
    defence = DEFENCES.create("dat:filter=3,steps=3,step_size=15")
    got = defence.adversary(model, batch_of(images, labels=labels, classes=classes)).images
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    layers = torch.empty(classes, side**2 + 1).uniform_(-1 / 3, 1 / 3, generator=seeded())

    def filtered(layers: Tensor) -> Tensor:
        rows = []
        for image, label in zip(images, labels.tolist(), strict=True):
            kernel, bias = layers[label, :-1].view(1, 1, side, side), layers[label, -1:]
            rows.append(functional.conv_transpose2d(image[:, None], kernel, bias, padding=1)[:, 0])
        return torch.stack(rows)

    for _ in range(3):
        layers = layers.clamp(-5, 5).requires_grad_()
        # Of every class the mean, so that its step does not depend on how many classes there are.
        losses = functional.cross_entropy(model(filtered(layers)), labels, reduction="none")
        loss = sum(losses[labels == each].mean() for each in labels.unique())
        layers = (layers + 15 * torch.autograd.grad(loss, layers)[0]).detach()
    assert layers.abs().max() > 5  # so that the limit took part
    expected = filtered(layers)
    low, high = expected.amin((1, 2, 3), keepdim=True), expected.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(got, (expected - low) / (high - low), atol=1e-4, rtol=0)  # 1e-6 here


def test_dat_raises_the_loss_of_what_it_filters() -> None:
    images, model = noise_images(8, 8), create_network("resnet8", 2, 8).train()
    layers: list[Tensor] = []
    defence = DEFENCES.create("dat:steps=10,step_size=1")
    batch = batch_of(images, classes=2)
    with pytest.MonkeyPatch.context() as patch:
        original = type(defence)._gradients

        def note(self: Any, model: nn.Module, batch: Batch, rows: Tensor, shares: Tensor) -> Tensor:
            layers.append(rows.detach().clone())
            return original(self, model, batch, rows, shares)

        patch.setattr(type(defence), "_gradients", note)
        defence.adversary(model, batch)
    with torch.no_grad():
        losses = [functional.cross_entropy(model(deconvolved(images, rows)), batch.labels) for rows in layers]
    assert len(losses) == 10
    assert losses[-1] > losses[0]


# --- the network


def test_orthogonality_counts_every_layer() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1, groups=4), nn.Linear(8, 5)]
    model = nn.Sequential(*layers)
    expected = sum(
        oracles.non_orthogonality(layer.weight.detach().double().numpy(), groups)
        for layer, groups in ((layers[0], 1), (layers[2], 4), (layers[3], 1))
    )
    term = DEFENCES.create("orthogonal:weight=0.5").regularise(model).detach()
    assert float(term) == pytest.approx(0.5 * expected, rel=1e-5)
    nn.init.orthogonal_(layers[3].weight)
    layers[0].requires_grad_(False)
    layers[2].requires_grad_(False)
    term = DEFENCES.create("orthogonal").regularise(model).detach()
    assert float(term) == pytest.approx(0, abs=1e-6)
    layers[3].requires_grad_(False)
    assert DEFENCES.create("orthogonal").regularise(model) is None


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    model = create_network("resnet8", 7, 16)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(0, 0.1)
    path = tmp_path_factory.mktemp("weights") / "resnet8.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("name", ["finetune-all", "finetune-last"])
def test_fine_tuning_begins_with_given_weights(weights: Path, data: Path, tmp_path: Path, name: str) -> None:
    stored = torch.load(weights, weights_only=True)
    defence = DEFENCES.create(f"{name}:weights={weights}")
    model = create_network("resnet8", 2, 16)
    defence.setup(model, "resnet8")
    for key, value in model.state_dict().items():
        assert key.startswith("fc.") or torch.equal(value, stored[key]), key
    train(config_for(data, network="resnet8", epochs=1, defences=[defence]), tmp_path / "run")
    after = {key.removeprefix("model."): value for key, value in tensors_of(tmp_path / "run").items()}
    changed = {
        key for key, value in stored.items() if key[:3] != "fc." and not torch.equal(after[key], value)
    }
    body = {key for key in stored if not key.startswith("fc.")}
    assert changed == (body if name == "finetune-all" else set())


def test_what_the_weights_lack_is_trained_too(weights: Path, tmp_path: Path) -> None:
    stored = torch.load(weights, weights_only=True)
    del stored["stem.0.weight"]
    torch.save(stored, tmp_path / "part.pth")
    model = create_network("resnet8", 2, 16)
    DEFENCES.create(f"finetune-last:weights={tmp_path / 'part.pth'}").setup(model, "resnet8")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"stem.0.weight", "fc.weight", "fc.bias"}


def test_weights_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    model = create_network("resnet8", 2, 16)
    with pytest.raises(UserError, match="must be 'cache' or a"):
        DEFENCES.create(f"finetune-all:weights={tmp_path / 'none.pth'}").setup(model, "resnet8")


# --- in runs

RUNS = [
    ["gaussian:sigma=0.8"],
    ["smoothing"],
    ["mixup", "cutmix:probability=1"],
    ["cutout", "random-blur"],
    ["autoaugment"],
    ["ueraser"],
    ["ueraser:mode=max,copies=2,epochs=1"],
    ["dat:steps=1"],
    ["orthogonal"],
    ["rsk:padding=valid", "at-linf:steps=1"],
    ["coin", "at-linf:steps=1"],
]


def losses(defences: list[str]) -> list[float]:
    """Of two epochs of one step each, the second after what the first learnt."""
    images = torch.randint(256, (12, 8, 8, 3), generator=seeded(), dtype=torch.uint8)
    recipe = Recipe(lambda epoch, step, steps: 0.1, batch_size=12, crop_padding=1)
    group = Processes(0, 1, torch.device("cpu"))
    model = fresh_network("resnet8", 3, 8, 0, group.device)
    made = [DEFENCES.create(each) for each in defences]
    engine = Engine(model, images, torch.arange(12) % 3, recipe, group, made, 3)
    return [engine.train_epoch(epoch, seeded(epoch), lambda count: None).loss for epoch in range(2)]


@pytest.mark.parametrize("defences", RUNS, ids=lambda each: "+".join(each))
def test_a_seeded_run_repeats_and_each_defence_counts(defences: list[str]) -> None:
    found = losses(defences)
    assert np.isfinite(found).all()
    assert losses(defences) == found
    for n in range(len(defences)):
        assert losses(defences[:n] + defences[n + 1 :]) != found


@pytest.mark.parametrize(
    "name", ["smoothing", "cutout", "random-blur", "rsk", "coin", "autoaugment", "ueraser"]
)
def test_what_an_image_gets_does_not_depend_on_the_number_of_processes(name: str) -> None:
    images, labels, defence = noise_images(7, 8), torch.zeros(7, dtype=torch.int64), DEFENCES.create(name)

    def part_of(part: slice) -> Tensor:
        return defence.augment(Batch(images[part], labels[part], 7, part, seeded(), "fp32", 1)).images

    whole = part_of(slice(0, 7))
    parts = [part_of(part) for part in (slice(0, 2), slice(2, 2), slice(2, 7))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 7


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gaussian:sigma=0", "defence gaussian: sigma must be above 0 and at most 100, not 0.0"),
        ("smoothing:sigma=11", "sigma must be above 0 and at most 10, not 11"),
        ("mixup:alpha=0", "alpha must be at least 0.01 and at most 100, not 0"),
        ("cutmix:alpha=0", "alpha must be at least 0.01"),
        ("cutmix:probability=2", "probability must be above 0 and at most 1, not 2"),
        ("cutout:size=16", "size must be above 0 and at most 1, not 16"),
        ("random-blur:strength=2", "strength must be above 0 and at most 1, not 2"),
        ("random-blur:size=4", "size must be an odd number from 3 to 31, not 4"),
        ("rsk:centre=0", "centre must be at least 1 and at most 10, not 0"),
        ("rsk:spread=-1", "spread must be at least 0 and at most 1, not -1"),
        ("rsk:padding=same", "padding must be valid, zeros, reflect, replicate, circular, not 'same'"),
        ("coin:reach=0", "reach must be above 0 and at most 16, not 0"),
        ("autoaugment:policy=cifar", "policy must be cifar10, imagenet, svhn, not 'cifar'"),
        ("ueraser:mode=medium", "mode must be lite or max, not 'medium'"),
        ("ueraser:copies=1", "copies must be at least 2 and at most 100, not 1"),
        ("ueraser:epochs=0", "epochs must be at least 1, or none for all, not 0"),
        ("dat:filter=2", "filter must be an odd number from 3 to 31, not 2"),
        ("dat:steps=0", "steps must be at least 1, not 0"),
        ("dat:step_size=0", "step_size must be above 0 and at most 1000, not 0"),
        ("orthogonal:weight=0", "weight must be above 0 and at most 100, not 0"),
        ("finetune-all:weights=", "weights must be cache or a file, not ''"),
    ],
)
def test_wrong_settings_are_one_line(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        DEFENCES.create(text)
    assert "\n" not in str(error.value)


def test_descriptions_are_short() -> None:
    described = {
        "ueraser": "lite",
        "ueraser:mode=max,epochs=none": "max of 5 copies, all epochs",
        "dat:filter=5": "filter 5, steps 10, step size 0.1",
        "smoothing": "sigma 0.5",
    }
    for text, expected in described.items():
        found: Defence = DEFENCES.create(text)
        assert found.describe() == expected


def test_a_size_that_the_network_cannot_take_is_one_line(data: Path, tmp_path: Path) -> None:
    config = config_for(data, network="timm:vit_tiny_patch16_224", epochs=1, defences=["rsk:padding=valid"])
    with pytest.raises(
        UserError, match="the network cannot take 14x14 px, to which the defences bring images"
    ):
        train(config, tmp_path / "run")


def test_a_batch_of_one_that_batch_norm_cannot_take_is_one_line(data: Path, tmp_path: Path) -> None:
    config = config_for(data, network="densenet121-cuda2023", epochs=1, batch_size=1, image_size=32)
    with pytest.raises(UserError, match=r"a batch of one image is too small .*: give another batch_size"):
        train(config, tmp_path / "run")
