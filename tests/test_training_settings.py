"""Adversarial training, precision, compilation and other settings beyond the plain recipe."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from small_runs import config_for, data, one_thread, stop_after, tensors_of, untimed_metrics
from torch import nn

from unlearnable_kernels import networks
from unlearnable_kernels.defences import Batch
from unlearnable_kernels.defences import pgd as attacks
from unlearnable_kernels.defences.adversarial import AtLinf
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.registry import Entry
from unlearnable_kernels.report import write_report
from unlearnable_kernels.training import Pgd, TrainConfig, engine, evaluate, train
from unlearnable_kernels.training.config import parse_settings
from unlearnable_kernels.training.run_folder import CHECKPOINT, CONFIG, EVALUATIONS

__all__ = ["data", "one_thread"]  # fixtures

ATTACK = {"name": "at-linf", "eps": 0.1, "steps": 2, "step_size": None}
AT: dict[str, Any] = {"defences": [ATTACK], "epochs": 4}


@pytest.fixture(scope="module")
def hardened(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "at"
    train(config_for(data, **AT), run)
    return run


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "erm"
    train(config_for(data), run)
    return run


ADAMW: dict[str, Any] = {"optimizer": "adamw", "lr": 0.01, "schedule": "cosine", "warmup": 1}


@pytest.mark.parametrize("changes", [AT, {"amp": "bf16"}, ADAMW], ids=["at", "bf16", "adamw"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = config_for(data, **changes | {"epochs": 2})
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "resumed", stop_after(1, tmp_path / "resumed"))
    train(config, tmp_path / "resumed")
    assert untimed_metrics(tmp_path / "resumed") == untimed_metrics(tmp_path / "whole")
    expected = tensors_of(tmp_path / "whole")
    assert all(torch.equal(value, expected[name]) for name, value in tensors_of(tmp_path / "resumed").items())


def test_adversarial_training_hardens(data: Path, plain: Path, hardened: Path) -> None:
    attack = Pgd("linf", 0.25)
    accuracies = {run: evaluate(run, data, attack)["accuracy"] for run in (plain, hardened)}
    assert evaluate(plain, data)["accuracy"] >= 0.9
    assert accuracies[hardened] >= accuracies[plain] + 0.2


def test_training_is_on_the_attacked_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the network is trained on is what the attack returned, in the ball around the cropped image."""
    pairs = []
    seen = []
    call = attacks.Attack.__call__

    def noting(self: Any, images: Any, labels: Any, noise: Any = None) -> Any:
        assert noise is not None
        attacked = call(self, images, labels, noise)
        pairs.append((images.clone(), attacked.clone()))
        return attacked

    step = engine.Engine._step

    def stepping(self: Any, batch: Batch) -> Any:
        assert self.model.training
        seen.append(batch.images.clone())
        return step(self, batch)

    monkeypatch.setattr(attacks.Attack, "__call__", noting)
    monkeypatch.setattr(engine.Engine, "_step", stepping)
    train(config_for(data, **AT | {"epochs": 1}), tmp_path / "run")
    assert len(seen) == len(pairs) == 12
    for (clean, attacked), used in zip(pairs, seen, strict=True):
        assert torch.equal(attacked, used)
        assert 0.01 < (attacked - clean).abs().max() <= 0.1 + 1e-6


def test_the_configuration_names_the_attack(hardened: Path) -> None:
    config = json.loads((hardened / CONFIG).read_text())
    assert config.items() >= AT.items()

    def attacks_of(*defences: Any) -> list[Pgd]:
        return [each.pgd for each in TrainConfig("x", defences=defences).make_defences()]

    assert TrainConfig("x", defences=["at-linf"]).as_dict()["defences"] == [
        {"name": "at-linf", "eps": 4 / 255, "steps": 10, "step_size": None}
    ]
    assert attacks_of("at-l2") == [Pgd("l2", 0.5, 10)]
    assert attacks_of("at-l2:eps=0.2", AtLinf(steps=3)) == [Pgd("l2", 0.2, 10), Pgd("linf", 4 / 255, 3)]
    assert Pgd("linf", 4 / 255).step == pytest.approx(1.5 * 4 / 255 / 10)
    assert TrainConfig("x").as_dict()["defences"] == []


def test_an_evaluation_under_attack_is_noted_and_reported(
    data: Path, hardened: Path, plain: Path, tmp_path: Path
) -> None:
    done = []
    line = evaluate(hardened, data, Pgd("linf", 8 / 255, 3), lambda *told: done.append(told))
    assert line["attack"] == {"norm": "linf", "eps": 8 / 255, "steps": 3, "step_size": 4 / 255}
    assert json.loads((hardened / EVALUATIONS).read_text().splitlines()[-1]) == line
    assert done == [("testing", 4 * number, 20) for number in range(1, 6)]
    write_report([plain, hardened], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "of 20 under linf 8/255, 3 steps" in page
    assert "against linf 0.1, 2 steps" in page
    assert "plain (ERM)" in page


def test_bf16_computes_in_bfloat16_and_keeps_float32(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = set()
    build = engine.create_network

    def watched(*arguments: Any) -> nn.Module:
        model = build(*arguments)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
        return model

    monkeypatch.setattr(engine, "create_network", watched)
    run = tmp_path / "run"
    train(config_for(data, amp="bf16"), run)
    assert types == {torch.bfloat16}
    assert {t.dtype for name, t in tensors_of(run).items() if "num_batches" not in name} == {torch.float32}
    assert untimed_metrics(run)[-1]["test_accuracy"] >= 0.9
    assert evaluate(run, data)["accuracy"] == untimed_metrics(run)[-1]["test_accuracy"]


@pytest.mark.unsanitized
def test_compiled_training_is_training(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly the same numbers, and checkpoints of the same names; on a network that compiles in seconds."""

    def smaller(num_classes: int, image_size: int) -> nn.Module:
        layers = (nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        return nn.Sequential(*layers, nn.Linear(8 * 49, num_classes))

    monkeypatch.setitem(networks.NETWORKS._entries, "tiny", Entry("tiny", smaller, "", ""))
    changes: dict[str, Any] = AT | {"epochs": 1, "lr": 0.01, "batch_size": 24}
    for name, compiled in (("plain", False), ("compiled", True)):
        train(config_for(data, compile=compiled, **changes), tmp_path / name)
    expected, got = (untimed_metrics(tmp_path / name)[0] for name in ("plain", "compiled"))
    assert got["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)
    assert got["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-2)
    with safe_open(tmp_path / "compiled" / CHECKPOINT, framework="pt") as file:
        assert set(file.keys()) == set(tensors_of(tmp_path / "plain"))
    assert evaluate(tmp_path / "compiled", data)["accuracy"] == pytest.approx(got["test_accuracy"], abs=0.06)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"defences": ["trades"]}, "unknown defence 'trades': choose one of at-l2, at-linf"),
        ({"amp": "fp16"}, "unknown amp 'fp16': choose one of none, bf16"),
        ({"defences": ["at-l2:eps=0"]}, r"^defence at-l2: eps must be a finite number above 0, not 0\.0"),
        (
            {"defences": ["at-linf:eps=1.5"]},
            r"^defence at-linf: eps must be at most 1 with linf",
        ),
        ({"defences": ["at-linf:steps=0"]}, "^defence at-linf: steps must be at least 1, not 0"),
        (
            {"defences": [ATTACK | {"step_size": math.inf}]},
            "step_size must be a finite number above 0",
        ),
        ({"defences": [ATTACK | {"eps": "0.1"}]}, "at-linf: eps must be a number, not '0.1'"),
        ({"defences": [ATTACK | {"norm": "l2"}]}, "'norm' is not a setting of defence at-linf: choose from"),
        ({"defences": [{"eps": 0.1}]}, "a defence must be an object with a name, not {'eps': 0.1}"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        TrainConfig("x", **changes)


def test_settings() -> None:
    texts = ["flip=false", "crop_padding=2", "weight_decay=1/1000", "clip_norm=none", "schedule=one-cycle"]
    assert parse_settings(texts, ["lr"]) == {
        "flip": False,
        "crop_padding": 2,
        "weight_decay": 0.001,
        "clip_norm": None,
        "schedule": "one-cycle",
    }


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (
            ["flips=true"],
            "'flips' is not a setting of training: choose from test, .*, weight_decay",
        ),
        (["lr=1"], "'lr' is not a setting of training"),
        (["flip"], "training: give flip a value, as in flip=VALUE"),
        (["flip=no"], "flip must be true or false, not 'no'"),
        (["crop_padding=1.5"], "crop_padding must be a whole number, not '1.5'"),
        (["crop_padding=none"], "crop_padding must be a whole number, not 'none'"),
        (["momentum=much"], "momentum must be a number or a fraction .* not 'much'"),
        (["momentum=0", "momentum=1"], "momentum is given twice, as 0.0 and as 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(texts: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse_settings(texts, ["lr", "train"])
