"""What people expect of training: seeds, logs, devices, determinism, normalised and pretrained networks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config_for, data, one_thread, stop_after, tensors_of, tiny, untimed_metrics
from torch import Tensor, nn

from unlearnable_kernels.cli.train_commands import print_spread
from unlearnable_kernels.device import pick_device
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.registry import Entry
from unlearnable_kernels.report import write_report
from unlearnable_kernels.report.curves import learning_curves
from unlearnable_kernels.report.runs import read_entries
from unlearnable_kernels.training import deterministic, evaluate, train, train_seeds
from unlearnable_kernels.training.engine import Engine, Recipe
from unlearnable_kernels.training.processes import Processes, join_processes
from unlearnable_kernels.training.run_folder import METRICS, RECORD, TENSORBOARD

__all__ = ["data", "one_thread"]  # fixtures

CPU = torch.device("cpu")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every forward pass of the network "tiny" saw: images, and whether torch was deterministic."""
    seen: list[Any] = []

    def build(num_classes: int, image_size: int) -> nn.Module:
        model = tiny(num_classes, image_size)
        first = model[0]
        assert isinstance(first, nn.Module)
        first.register_forward_pre_hook(
            lambda _, inputs: seen.append((inputs[0].detach(), torch.are_deterministic_algorithms_enabled()))
        )
        return model

    monkeypatch.setitem(NETWORKS._entries, "tiny", Entry("tiny", build, "", ""))
    return seen


def test_adamw_takes_its_published_steps() -> None:
    """Two steps of Loshchilov and Hutter's algorithm 2, in plain arithmetic."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    images, labels = torch.randint(0, 256, (4, 1, 1, 3), dtype=torch.uint8), torch.tensor([0, 1, 1, 0])
    recipe = Recipe(
        rate=lambda *_: 0.01, batch_size=4, optimizer="adamw", weight_decay=0.1, crop_padding=0, flip=False
    )
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    expected, first, second = layer.weight.detach().clone(), torch.zeros(2, 3), torch.zeros(2, 3)
    engine = Engine(model, images, labels, recipe, Processes(0, 1, CPU))
    for step in (1, 2):
        engine.train_epoch(0, torch.Generator().manual_seed(0), lambda _: None)
        assert layer.weight.grad is not None
        gradient = layer.weight.grad
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        moved = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        expected = expected - 0.01 * (moved + 0.1 * expected)
        torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def seeds(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds, of which the second was interrupted, and then all resumed."""
    out = tmp_path_factory.mktemp("seeds") / "runs"
    with pytest.raises(KeyboardInterrupt):
        train_seeds(config_for(data, epochs=2), [0, 1, 2], out, stop_after(1, out / "seed-1"))
    assert not (out / "seed-2").exists()
    train_seeds(config_for(data, epochs=2), [0, 1, 2], out)
    return out


def test_each_seed_is_a_run_of_its_own(data: Path, seeds: Path, tmp_path: Path) -> None:
    train(config_for(data, epochs=2, seed=1), tmp_path / "alone")
    assert untimed_metrics(seeds / "seed-1") == untimed_metrics(tmp_path / "alone")
    assert untimed_metrics(seeds / "seed-2") != untimed_metrics(seeds / "seed-1")
    (folder,) = train_seeds(config_for(data, epochs=2), [1], tmp_path / "alone")
    assert folder == tmp_path / "alone"
    with pytest.raises(UserError, match="alone is the folder of one run: give several seeds another folder"):
        train_seeds(config_for(data), [0, 1], tmp_path / "alone")


def test_several_seeds_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    print_spread([{"test_accuracy": 0.5}])
    print_spread([{}, {}])
    assert capsys.readouterr().out == ""
    print_spread([{"test_accuracy": accuracy} for accuracy in (0.5, 0.6, 0.85)])
    assert capsys.readouterr().out == "3 seeds: test accuracy 65.00% ± 18.03%\n"


def test_seeds_are_one_entry_of_the_report(data: Path, seeds: Path, tmp_path: Path) -> None:
    train(config_for(data, epochs=1), tmp_path / "single")
    accuracies = [0.5, 0.6, 0.85]  # mean 0.65, standard deviation √0.0325 = 0.1803
    for seed, accuracy in enumerate(accuracies):
        path = seeds / f"seed-{seed}" / METRICS
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[-1]["test_accuracy"] = accuracy
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report([seeds, tmp_path / "single"], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count("65.0 ± 18.0 % (3 seeds)") == 2  # the bar and the table
    assert "<td>0, 1, 2</td><td>0</td>" in page
    assert '<th scope="col">runs</th><th scope="col">single</th>' in page
    write_report([seeds / "seed-2", seeds / "seed-0"], tmp_path / "r.html")
    assert "67.5 ± 24.7 % (2 seeds)" in (tmp_path / "r.html").read_text()


def test_one_epoch_has_an_axis_of_whole_epochs(data: Path, tmp_path: Path) -> None:
    train(config_for(data, epochs=1, test=None), tmp_path / "single")
    labels = re.findall(r">([^<>]+)</text>", learning_curves(read_entries([tmp_path / "single"])))
    assert labels == ["0", "1", "epoch", *map(str, range(0, 101, 20)), "accuracy in %", "single: in training"]


def test_tensorboard_has_every_step_once(data: Path, tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run, config = tmp_path / "run", config_for(data, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        train(config, run, stop_after(2, run), log="tensorboard")
    train(config, run, log="tensorboard")
    events = accumulators.EventAccumulator(str(run / TENSORBOARD))
    events.Reload()
    for tag, name in (("test/accuracy", "test_accuracy"), ("train/loss", "train_loss"), ("lr", "lr")):
        shown = [(event.step, event.value) for event in events.Scalars(tag)]
        metrics = [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in untimed_metrics(run)]
        assert shown == metrics


def test_without_tensorboard_no_run_begins(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'unlearnable_kernels\[tensorboard\]'"):
        train(config_for(data), tmp_path / "run", log="tensorboard")
    assert not (tmp_path / "run").exists()


def test_deterministic_holds_for_the_run_alone(data: Path, tmp_path: Path, watched: list[Any]) -> None:
    for name in ("one", "two"):
        train(config_for(data, epochs=1, deterministic=True), tmp_path / name)
        assert watched
        assert all(enabled for _, enabled in watched[1:])  # the first looks whether the size fits
        watched.clear()
    assert not torch.are_deterministic_algorithms_enabled()
    one, two = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "two")
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    train(config_for(data, epochs=1), tmp_path / "plain")
    assert not any(enabled for _, enabled in watched)


def test_what_has_no_deterministic_algorithm_is_refused() -> None:
    def write() -> None:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))

    write()
    with (
        pytest.raises(UserError, match=r"put_ does not have a deterministic .*: train without deterministic"),
        deterministic(strict=True),
    ):
        write()
    assert not torch.are_deterministic_algorithms_enabled()


def test_devices(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = train(config_for(data, epochs=1), tmp_path / "run", device="cpu")
    assert record["device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert pick_device() == pick_device("cuda") == torch.device("cuda")
    assert chosen == []
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")]
    with pytest.raises(UserError, match="there is no device cuda:2: torch finds 2 GPUs here"):
        pick_device("cuda:2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="device must be cpu or cuda with several processes, not cuda:1"):
        join_processes("cuda:1")


def test_normalised_networks_see_normalised_images(data: Path, tmp_path: Path, watched: list[Any]) -> None:
    statistics = "0.5,0.25,0/0.1,0.2,0.5"
    mean, std = torch.tensor([0.5, 0.25, 0]), torch.tensor([0.1, 0.2, 0.5])
    run = tmp_path / "run"
    train(config_for(data, normalise=statistics, crop_padding=0, flip=False), run)
    images: Tensor = torch.cat([seen for seen, _ in watched[1:] if len(seen) == 4])
    pixels = (images * std[:, None, None] + mean[:, None, None]) * 255
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-3, rtol=0)
    assert 0 <= pixels.round().min() < pixels.round().max() <= 255
    assert not any("input_" in name for name in tensors_of(run))
    assert evaluate(run, data)["loss"] == untimed_metrics(run)[-1]["test_loss"]
    write_report([run], tmp_path / "r.html")
    assert f"tiny, 16 px, images normalised by {statistics}" in (tmp_path / "r.html").read_text()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    path = tmp_path / "weights.pth"
    torch.save(tiny(7, 16).state_dict(), path)
    return path


def test_pretrained_weights_are_where_a_run_begins(data: Path, tmp_path: Path, weights: Path) -> None:
    still: dict[str, Any] = {"lr": 1e-30, "weight_decay": 0.0, "schedule": "step", "epochs": 2}
    config, run = config_for(data, pretrained=str(weights), **still), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, run, stop_after(1, run))
    stored = torch.load(weights, weights_only=True)
    weights.unlink()  # a run that goes on needs it no more
    train(config, run)
    assert json.loads((run / RECORD).read_text())["fresh_tensors"] == ["fc.weight", "fc.bias"]
    trained = tensors_of(run)
    for name, _ in tiny(2, 16).named_parameters():
        found, expected = trained[f"model.{name}"], stored[name]
        same = found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=1e-20)
        assert same == (not name.startswith("fc.")), name
    write_report([run], tmp_path / "r.html")
    assert "pretrained (weights.pth) but for 2 tensors" in (tmp_path / "r.html").read_text()
