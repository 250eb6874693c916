"""Tests under several attacks in one run, AutoAttack among them."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torchattacks
from small_runs import config_for, one_thread, write_tree
from torch import Tensor, nn

from unlearnable_kernels.cli.evaluate_commands import evaluate_accuracy
from unlearnable_kernels.data.augment import to_float
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.report import write_report
from unlearnable_kernels.training import AutoAttack, Pgd, evaluate, evaluate_attacks, train
from unlearnable_kernels.training.attacks import read_attack, requested_attacks
from unlearnable_kernels.training.evaluation import load_trained
from unlearnable_kernels.training.run_folder import EVALUATIONS

__all__ = ["one_thread"]  # a fixture

CPU = torch.device("cpu")
# No image stays recognised, or Square would ask its 5,000 questions about it.
STRONG = {"linf": 0.5, "l2": 8.0}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    for split, count in (("train", 8), ("test", 4)):
        write_tree(root / split, ["ant", "bee", "cat", "dog"], count, seed=0)
    return root


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(config_for(images, test=None, epochs=6), out)
    return out


def network_and_images(run: Path, images: Path) -> tuple[nn.Module, Tensor, Tensor]:
    trained = load_trained(run, CPU)
    data = trained.test_set(images)
    return trained.model.eval(), to_float(data.images), data.labels


def test_each_radius_is_tested_as_if_alone(
    run: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[str, int, int]] = []
    attacks = [Pgd("linf", eps, 3) for eps in (1 / 255, 0.25)]
    lines = evaluate_attacks(run, images, [None, *attacks], lambda *step: told.append(step))
    assert [line["attack"] and line["attack"]["eps"] for line in lines] == [None, 1 / 255, 0.25]
    assert [json.loads(line) for line in (run / EVALUATIONS).read_text().splitlines()[-3:]] == lines
    assert lines[0]["accuracy"] > lines[2]["accuracy"]
    assert evaluate(run, images, attacks[1]) == lines[2]
    assert list(dict(step[:2] for step in told)) == [
        "testing",
        "linf 1/255, 3 steps: testing",
        "linf 0.25, 3 steps: testing",
    ]
    evaluate_accuracy(run, images, [*attacks], "cpu")
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == f"{run}, epoch 6, on {images}: accuracy of 16 images under"
    expected = [(line["attack"]["eps"], f"{line['accuracy']:.2%}") for line in lines[1:]]
    assert [row.split()[-1] for row in rows[1:]] == [accuracy for _, accuracy in expected]
    assert rows[2].split()[:2] == ["linf", "0.25,"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_autoattack_is_torchattacks(run: Path, images: Path, norm: str) -> None:
    """Images in the ball, as torchattacks makes them of a contiguous network; and no trace of it."""
    model, clean, labels = network_and_images(run, images)
    state, draws = model.training, torch.get_rng_state()
    attacked = AutoAttack(norm, STRONG[norm]).against(model, 4, "fp32", 3)(clean, labels)
    assert (model.training, torch.equal(torch.get_rng_state(), draws)) == (state, True)
    assert all(each.requires_grad and each.grad is None for each in model.parameters())
    moved = (attacked - clean).abs().amax() if norm == "linf" else (attacked - clean).square().sum((1, 2, 3))
    assert moved.max() <= (STRONG[norm] if norm == "linf" else STRONG[norm] ** 2) * (1 + 1e-5)
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not (model(attacked).argmax(1) == labels).any()
    plain, _, _ = network_and_images(run, images)
    named = {"linf": "Linf", "l2": "L2"}[norm]
    theirs = torchattacks.AutoAttack(
        plain.to(memory_format=torch.contiguous_format), named, STRONG[norm], n_classes=4, seed=3
    )
    # Where a gradient is near 0, the layout's rounding decides.
    assert ((theirs(clean.contiguous(), labels) - attacked).abs() > 1e-3).float().mean() < 0.02


def test_autoattack_is_noted_beside_pgd_and_reported(run: Path, images: Path, tmp_path: Path) -> None:
    attacks = requested_attacks(["linf", "autoattack-linf"], "1/2", 2)
    weak, strong = evaluate_attacks(run, images, attacks)
    assert weak["attack"]["steps"] == 2
    assert strong["attack"].items() >= {"name": "autoattack", "norm": "linf", "eps": 0.5}.items()
    assert strong["accuracy"] == 0 <= weak["accuracy"]
    assert [read_attack(line["attack"]).name for line in (weak, strong)] == [each.name for each in attacks]
    write_report([run], tmp_path / "r.html")
    assert "0.0 % of 16 under linf 0.5, AutoAttack" in (tmp_path / "r.html").read_text()


def test_autoattack_says_what_it_needs(run: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, _ = network_and_images(run, images)
    with pytest.raises(UserError, match="AutoAttack needs at least 4 classes to aim at, not 3"):
        AutoAttack("linf", 0.1).against(model, 3, "fp32", 0)
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    before = (run / EVALUATIONS).read_bytes() if (run / EVALUATIONS).exists() else b""
    with pytest.raises(UserError, match=r"^torchattacks cannot be .* 'unlearnable_kernels\[autoattack\]'$"):
        evaluate_attacks(run, images, [None, AutoAttack("linf", 0.1)])
    assert before == ((run / EVALUATIONS).read_bytes() if (run / EVALUATIONS).exists() else b"")


def test_requested_attacks() -> None:
    assert requested_attacks([], None, None) == []
    assert requested_attacks(["linf", "l2"], None, None) == [Pgd("linf", 4 / 255), Pgd("l2", 0.5)]
    assert requested_attacks(["l2"], "1/4,1", 5) == [Pgd("l2", 0.25, 5), Pgd("l2", 1.0, 5)]
    assert requested_attacks(["autoattack-l2"], "0.5", None) == [AutoAttack("l2", 0.5)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (([], "0.5", None), r"eps is 0\.5, but there is no attack"),
        ((["linf", "autoattack-l2"], "0.5", None), "give attacks in one, not in linf and l2"),
        ((["autoattack-linf"], None, 5), "steps are those of PGD, not of AutoAttack: leave out 5"),
        ((["linf"], "0.1,", None), "eps must be a number or a fraction such as 8/255, not ''"),
        ((["autoattack-linf"], "2", None), "eps must be at most 1 with linf"),
    ],
)
def test_attacks_that_do_not_fit_are_refused(given: tuple[list[str], str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        requested_attacks(*given)
