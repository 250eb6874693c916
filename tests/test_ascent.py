import dataclasses
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unlearnable_kernels.data.augment import to_float
from unlearnable_kernels.networks import penultimate_features
from unlearnable_kernels.ops.bayes_error import bayes_error
from unlearnable_kernels.protect.methods import ascent as ascent_module
from unlearnable_kernels.protect.methods import bayes_ascent, embedding
from unlearnable_kernels.protect.methods.ascent import Budget, Target
from unlearnable_kernels.protect.methods.ascent_loop import ADAM_LR, Loop, adamw_ascent
from unlearnable_kernels.protect.methods.bayes_ascent import BayesAscent
from unlearnable_kernels.protect.methods.bayes_error import BayesError, BeoAaai2026
from unlearnable_kernels.protect.methods.embedding import fast_precision, half_cosine, train_embedding
from unlearnable_kernels.protect.methods.method import Workspace
from unlearnable_kernels.training import features_of, fresh_network, pixel_gradient

CPU = torch.device("cpu")
OURS, AUTHORS = BayesError().loop, BeoAaai2026().loop


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ascent_module, "fast_precision", lambda device: "fp32")


def target(count: int = 40, classes: int = 3) -> Target:
    rng = np.random.default_rng(1)
    base = rng.integers(30, 226, (classes, 12, 12, 3))
    labels = torch.arange(count) % classes
    images = np.clip(base[labels.numpy()] + rng.normal(0, 50, (count, 12, 12, 3)), 0, 255)
    return Target(torch.from_numpy(images.astype(np.uint8)), labels, torch.arange(0, count, 2), classes)


def seed_for(purpose: str, *context: str | int) -> int:
    return zlib.crc32(f"{purpose} {context}".encode())


def make(
    loop: Loop,
    folder: Path,
    steps: int = 1,
    norm: str = "linf",
    sigma: float | str = 0.3,
    scale: str = "largest",
) -> BayesAscent:
    workspace = Workspace(folder, False, lambda message: None, lambda what, done, total: None)
    budget = Budget({"linf": 8 / 255, "l2": 2.0}[norm], norm)
    return BayesAscent(sigma, scale, target(), budget, steps, "resnet8", loop, seed_for, workspace)


DIVISORS: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda z: z.abs().max(),
    "length": lambda z: z.square().sum(1, keepdim=True).sqrt(),
    "none": lambda z: torch.ones(()),
}


@pytest.mark.parametrize("scale", DIVISORS)
@pytest.mark.parametrize("through_divisor", [False, True])
def test_the_gradient_in_parts_is_that_of_the_whole(
    full_precision: None, tmp_path: Path, through_divisor: bool, scale: str
) -> None:
    """The mean error of all images, through features and scaling, as autograd has it in one piece."""
    loop = dataclasses.replace(OURS, differentiate_divisor=through_divisor)
    sigma = {"largest": 0.3, "length": 0.2, "none": 1.0}[scale]
    ascent = make(loop, tmp_path, sigma=sigma, scale=scale)
    model = fresh_network("resnet8", 3, 12, 0, CPU)
    found = features_of(model, ascent.current)
    upstream = ascent._feature_gradient(found)
    parts = [pixel_gradient(model, ascent.current[a : a + 7], upstream[a : a + 7]) for a in range(0, 40, 7)]
    pixels = (ascent.current / 255).permute(0, 3, 1, 2).requires_grad_()
    z = penultimate_features(model.eval(), pixels)
    divisor = DIVISORS[scale](z)
    errors = bayes_error(z / (divisor if through_divisor else divisor.detach()), ascent.labels, 3, sigma)
    (expected,) = torch.autograd.grad(errors.mean(), pixels)
    got = torch.cat(parts).permute(0, 3, 1, 2)
    assert expected.abs().max() > 0
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
    summed = dataclasses.replace(ascent.loop, rule="adamw")
    ascent.loop = summed
    torch.testing.assert_close(ascent._feature_gradient(found), 40 * upstream)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ascending_raises_the_error_of_the_embedding_at_hand(tmp_path: Path, norm: str) -> None:
    loop = dataclasses.replace(OURS, embeddings=2, first_epochs=4)
    ascent = make(loop, tmp_path, norm=norm)
    ascent._train_all(0)

    def estimate(name: str) -> float:
        scaled = ascent._scaled(ascent._features(ascent.models[name], ascent.current))
        return float(bayes_error(scaled, ascent.labels, 3, 0.3).mean())

    before = [estimate(f"ascended {index}") for index in range(2)]
    ascent._ascend()
    after = [estimate(f"ascended {index}") for index in range(2)]
    assert sum(after) > sum(before) + 0.02, (before, after)
    clean = np.setdiff1d(np.arange(40), ascent.rows.numpy())
    assert torch.equal(ascent.current[clean], target().images[clean])


def test_the_judge_is_never_ascended_and_learns_the_same_way_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    ascended: list[int] = []
    true_training, true_gradient = train_embedding, pixel_gradient

    def training(model, images, labels, *, epochs, lr, seed, **others):  # type: ignore[no-untyped-def]
        seen.append((epochs, seed))
        true_training(model, images, labels, epochs=epochs, lr=lr, seed=seed, **others)

    def gradient(model, images, upstream, precision):  # type: ignore[no-untyped-def]
        ascended.append(id(model))
        return true_gradient(model, images, upstream, precision)

    monkeypatch.setattr(ascent_module, "train_embedding", training)
    monkeypatch.setattr(bayes_ascent, "pixel_gradient", gradient)
    ascent = make(
        dataclasses.replace(OURS, embeddings=2, first_epochs=2, epochs=1, inner_steps=1), tmp_path, steps=2
    )
    models: list[int] = []
    note = ascent._note

    def noting() -> None:
        models.append(id(ascent.models[ascent._measuring_name()]))
        note()

    monkeypatch.setattr(ascent, "_note", noting)
    _, log = ascent.run()
    assert len(log) == 3
    assert not set(models[:2]) & set(ascended)
    assert [epochs for epochs, _ in seen] == [2, 2, 2, 1, 1, 1, 2]
    assert seen[2] == seen[-1]  # the held-out embedding on the clean data, and on the result
    assert len({seed for _, seed in seen}) == 6


def test_steps_smaller_than_a_level_add_up(tmp_path: Path) -> None:
    """The authors' rate is a quarter of a level: of four steps one shows."""
    ascent = make(dataclasses.replace(AUTHORS, float_images=False), tmp_path)
    part = slice(0, 20)
    gradient = torch.ones_like(ascent.master)
    before = ascent.current.clone()
    moved = []
    for _ in range(4):
        ascent._move(part, gradient[part])
        ascent.done += 1
        inside = before[ascent.rows] < 255
        moved.append((ascent.current[ascent.rows].int() - before[ascent.rows])[inside].max().item())
    assert moved == [0, 1, 1, 1]
    torch.testing.assert_close(
        (ascent.master - ascent.origin / 255)[inside].mean(), torch.tensor(4 * ADAM_LR), rtol=0.02, atol=0
    )


def test_float_images_show_steps_smaller_than_a_level(tmp_path: Path) -> None:
    ascent = make(AUTHORS, tmp_path)
    before = ascent.current[ascent.rows]
    ascent._move(slice(0, 20), torch.ones_like(ascent.master))
    inside = before < 1 - ADAM_LR
    moved = (ascent.current[ascent.rows] - before)[inside]
    torch.testing.assert_close(moved.mean(), torch.tensor(ADAM_LR), rtol=0.02, atol=0)
    assert torch.equal(ascent._written(slice(0, 20)), ascent.origin)


def test_a_single_step_leads_from_end_to_end_of_the_budget(tmp_path: Path) -> None:
    ascent = make(dataclasses.replace(OURS, inner_steps=1), tmp_path)
    inside = (ascent.origin >= 8) & (ascent.origin <= 247)
    for sign in (1, -1, 1):
        ascent._move(slice(0, 20), sign * torch.ones_like(ascent.master))
        moved = ascent.current[ascent.rows].int() - ascent.origin.int()
        assert (moved[inside] == 8 * sign).all()


def test_every_step_of_adamw_is_counted(tmp_path: Path) -> None:
    """Its corrections of the first steps would otherwise make later ones too long."""
    loop = dataclasses.replace(AUTHORS, inner_steps=2)
    ascent = make(loop, tmp_path)
    x, moments = ascent.master.clone(), [torch.zeros_like(ascent.master) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        gradient = torch.randn(x.shape, generator=generator)
        x = adamw_ascent(x, gradient, moments, step + 1).clamp(0, 1)
        ascent.done = step // 2
        ascent._move(slice(0, 20), gradient, step % 2)
    torch.testing.assert_close(ascent.master, x)


def test_what_is_returned_is_what_was_measured_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def training(model, images, labels, **others):  # type: ignore[no-untyped-def]
        seen.append(images.clone())

    monkeypatch.setattr(ascent_module, "train_embedding", training)
    ascent = make(dataclasses.replace(AUTHORS, first_epochs=1), tmp_path, steps=2)
    images, _ = ascent.run()
    assert images.dtype == torch.uint8
    assert not torch.equal(images, ascent.origin)
    assert torch.equal(seen[-1][ascent.rows], images / 255)


def test_adamw_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 5, generator=generator)
    moments = [torch.zeros_like(x), torch.zeros_like(x)]
    parameter = torch.nn.Parameter(x.clone())
    optimizer = torch.optim.AdamW([parameter], lr=ADAM_LR, maximize=True)
    for step in range(1, 6):
        gradient = torch.randn(4, 5, generator=generator) * 1e-7
        x = adamw_ascent(x, gradient, moments, step)
        parameter.grad = gradient
        optimizer.step()
    torch.testing.assert_close(x, parameter.detach(), rtol=1e-6, atol=1e-7)


def test_training_learns_and_repeats() -> None:
    data = target(60)
    runs = []
    for _ in range(2):
        model = fresh_network("resnet8", 3, 12, 5, CPU)
        told: list[int] = []
        train_embedding(model, data.images, data.labels, epochs=6, lr=0.1, seed=1, report=told.append)
        assert sum(told) == 6 * 60
        runs.append(features_of(model, data.images, fast_precision(CPU)))
    assert torch.equal(*runs)
    model.train()  # six steps are too few for the running statistics
    with torch.no_grad():
        guesses = model(to_float(data.images)).argmax(1)
    assert (guesses == data.labels).float().mean() > 0.6


def test_without_augmentation_all_epochs_show_the_images_as_they_are_in_one_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = target(10)
    monkeypatch.setattr(embedding, "fast_precision", lambda device: "fp32")
    for images in (data.images, data.images / 255):
        model = fresh_network("resnet8", 3, 12, 5, CPU)
        shown: list[torch.Tensor] = []
        model.register_forward_pre_hook(lambda _, args, shown=shown: shown.append(args[0].clone()))
        train_embedding(
            model, images, data.labels, epochs=2, lr=0.1, seed=1, report=lambda images: None, augment=False
        )
        first, second = shown
        assert torch.equal(first, second)
        clean = {image.numpy().tobytes() for image in to_float(data.images)}
        assert {image.numpy().tobytes() for image in first.float()} == clean
        assert not torch.equal(first.float(), to_float(data.images))


def test_the_global_generator_is_left_alone() -> None:
    data = target(10)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model = fresh_network("resnet8", 3, 12, 5, CPU)
    train_embedding(model, data.images, data.labels, epochs=1, lr=0.1, seed=1, report=lambda images: None)
    assert torch.equal(torch.rand(3), expected)


def test_a_single_last_image_is_passed_over_but_a_single_one_is_not() -> None:
    """It has no batch statistics; where there is no other, it is all there is."""
    for count, expected in ((129, 128), (1, 1)):
        images = torch.zeros(count, 12, 12, 3, dtype=torch.uint8)
        told: list[int] = []
        model = fresh_network("resnet8", 2, 12, 5, CPU)
        labels = torch.zeros(count, dtype=torch.int64)
        train_embedding(model, images, labels, epochs=2, lr=0.01, seed=1, report=told.append)
        assert told == [expected] * 2


def test_the_rate_falls_as_half_a_cosine_over_all_steps() -> None:
    rate = half_cosine(0.4, epochs=2)
    assert [rate(epoch, step, 2) for epoch in (0, 1) for step in (0, 1)] == pytest.approx(
        [0.4, 0.2 * (1 + 0.5**0.5), 0.2, 0.2 * (1 - 0.5**0.5)]
    )
