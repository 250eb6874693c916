"""Training end to end on a small tree: what is learnt, written, resumed, refused; and testing afterwards."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from small_runs import (
    config_for,
    data,
    finished,
    one_thread,
    saved_epochs,
    tensors_of,
    untimed_metrics,
    write_tree,
)

from unlearnable_kernels.cli.evaluate_commands import evaluate_accuracy
from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import create_network
from unlearnable_kernels.progress import no_progress
from unlearnable_kernels.training import (
    DIGITS_DEMO,
    PHOTO_DEMO,
    TrainConfig,
    evaluate,
    loop,
    train,
)
from unlearnable_kernels.training.evaluation import measure
from unlearnable_kernels.training.processes import Processes
from unlearnable_kernels.training.run_folder import CHECKPOINT, EVALUATIONS, HISTORY, METRICS, RECORD

__all__ = ["data", "finished", "one_thread"]  # fixtures


def history_of(run: Path) -> list[dict[str, float]]:
    """history.csv as the lines of metrics.jsonl."""
    with (run / HISTORY).open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_it_learns_and_writes_what_it_says(data: Path, finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoint.safetensors",
        "config.json",
        "history.csv",
        "metrics.jsonl",
        "run.json",
    ]
    metrics = untimed_metrics(finished)
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4]
    assert metrics[-1]["test_accuracy"] >= 0.9
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]
    record = json.loads((finished / RECORD).read_text())
    assert record["status"] == "finished"
    assert record["classes"] == ["cat", "dog"]
    assert record["final"].items() >= metrics[-1].items()
    assert record["train"]["images"] == 48
    assert record["train"]["protection"] is None
    assert record["machine"]["cores"] >= 1
    assert json.loads((finished / "config.json").read_text()) == config_for(data).as_dict()
    assert history_of(finished) == [
        json.loads(line) for line in (finished / METRICS).read_text().splitlines()
    ]


def test_the_checkpoint_is_safetensors_with_momentum(finished: Path) -> None:
    with safe_open(finished / CHECKPOINT, framework="pt") as file:
        assert file.metadata() == {"epoch": "4"}
    tensors = tensors_of(finished)
    model = {name for name in tensors if name.startswith("model.")}
    momentum = {name for name in tensors if name.startswith("optimizer.momentum_buffer.")}
    assert model | momentum == set(tensors)
    assert {name.removeprefix("optimizer.momentum_buffer.") for name in momentum} < {
        name.removeprefix("model.") for name in model
    }
    assert all(tensors[name].abs().sum() > 0 for name in momentum)


@pytest.mark.parametrize("moment", ["between epochs", "within an epoch", "before the checkpoint"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    data: Path, finished: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = tmp_path / "run"

    def stop(what: str, done: int, total: int) -> None:
        images = 2 * 48 if moment == "between epochs" else 2 * 48 + 32
        if what == "training" and done == images and saved_epochs(run) == 2:
            raise KeyboardInterrupt

    save = loop.save_checkpoint

    def die(path: Path, epoch: int, *state: Any) -> None:
        if epoch == 3:
            raise KeyboardInterrupt
        save(path, epoch, *state)

    with monkeypatch.context() as patch:
        if moment == "before the checkpoint":
            patch.setattr(loop, "save_checkpoint", die)
        with pytest.raises(KeyboardInterrupt):
            train(config_for(data), run, no_progress if moment == "before the checkpoint" else stop)
    assert json.loads((run / RECORD).read_text())["status"] == "unfinished"
    evaluate_accuracy(run, data, None, None)
    assert ", unfinished, on " in capsys.readouterr().out
    with (run / METRICS).open("a") as file:
        file.write('{"epoch": 3, "train_l')
    seen = []
    train(config_for(data), run, lambda what, done, total: seen.append((what, done, total)))
    trained = [(done, total) for what, done, total in seen if what == "training"]
    assert trained[0] == (2 * 48 + 4, 4 * 48)
    assert trained[-1] == (4 * 48, 4 * 48)
    assert untimed_metrics(run) == untimed_metrics(finished)
    assert [line["epoch"] for line in history_of(run)] == [1, 2, 3, 4]
    expected = tensors_of(finished)
    assert all(torch.equal(value, expected[name]) for name, value in tensors_of(run).items())


def test_another_seed_gives_another_run(data: Path, finished: Path, tmp_path: Path) -> None:
    train(config_for(data, seed=1, epochs=1), tmp_path / "run")
    assert untimed_metrics(tmp_path / "run")[0]["train_loss"] != untimed_metrics(finished)[0]["train_loss"]


def test_every_epoch_draws_afresh(data: Path, tmp_path: Path) -> None:
    """With weights that stand still, the epochs' losses differ by order and augmentation alone."""
    train(config_for(data, epochs=3, lr=1e-30, schedule="step"), tmp_path / "run")
    assert len({line["train_loss"] for line in untimed_metrics(tmp_path / "run")}) == 3


def test_testing_is_plain_inference(data: Path) -> None:
    images = load_arrays(data, "test")
    torch.manual_seed(0)
    model = create_network("tiny", 2, 16)
    model(torch.rand(8, 3, 16, 16))  # running statistics that differ from any batch's
    result = measure(model.train(), images, 7, Processes(0, 1, torch.device("cpu")))
    with torch.no_grad():
        logits = model.eval()(images.images.permute(0, 3, 1, 2) / 255)
    assert result.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, images.labels)), rel=1e-5
    )
    right = logits.argmax(1) == images.labels
    assert result.correct == [int(right[:10].sum()), int(right[10:].sum())]
    assert result.total == [10, 10]
    assert result.accuracy == pytest.approx(float(right.float().mean()))


def test_the_callers_random_state_is_kept(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(config_for(data, epochs=1), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_without_a_test_set(data: Path, tmp_path: Path) -> None:
    record = train(config_for(data, test=None, epochs=1), tmp_path / "run")
    assert record["test"] is None
    assert "test_accuracy" not in record["final"]


def test_incompatible_sets_are_refused(data: Path, tmp_path: Path) -> None:
    other = write_tree(tmp_path / "other", ["cat", "fox"], 2, seed=0)
    with pytest.raises(UserError, match="class 'fox', which the training set lacks"):
        train(config_for(data, test=str(other)), tmp_path / "run1")
    larger = write_tree(tmp_path / "larger", ["cat", "dog"], 2, seed=0, side=20)
    with pytest.raises(UserError, match="20 px, but the network is for 16 px"):
        train(config_for(data, test=str(larger)), tmp_path / "run2")
    train(config_for(data, test=str(larger), image_size=16, epochs=1), tmp_path / "run3")
    single = write_tree(tmp_path / "single", ["cat"], 2, seed=0)
    with pytest.raises(UserError, match="one class only"):
        train(config_for(single, test=None), tmp_path / "run4")


def test_a_diverged_run_says_so(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged in epoch 1"):
        train(config_for(data, lr=1e30, clip_norm=None, schedule="step"), tmp_path / "run")
    assert untimed_metrics(tmp_path / "run") == []


def test_evaluate_agrees_with_training_and_counts_by_class(data: Path, finished: Path) -> None:
    line = evaluate(finished, data)
    last = untimed_metrics(finished)[-1]
    assert line["accuracy"] == last["test_accuracy"]
    assert line["loss"] == last["test_loss"]
    assert (line["epoch"], line["status"]) == (4, "finished")
    assert line["images"] == 20
    assert sum(line["per_class"].values()) / 2 == pytest.approx(line["accuracy"])
    written = (finished / EVALUATIONS).read_text().splitlines()
    assert json.loads(written[-1]) == line


def test_evaluate_matches_classes_by_name(finished: Path, tmp_path: Path) -> None:
    """A test set with the second class alone, whose label is therefore 0 there."""
    both = write_tree(tmp_path / "both", ["cat", "dog"], 10, seed=3)
    alone = tmp_path / "alone"
    alone.mkdir()
    (both / "dog").rename(alone / "dog")
    line = evaluate(finished, alone)
    assert list(line["per_class"]) == ["dog"]
    assert line["accuracy"] >= 0.9
    assert line["images"] == 10


def test_learning_rates() -> None:
    step = TrainConfig("x", lr=0.1)
    assert [step.learning_rate(e) for e in (0, 39.9)] == [0.1, 0.1]
    assert [step.learning_rate(e) for e in (40, 99)] == pytest.approx([0.01, 0.001])
    cycle = TrainConfig("x", lr=0.4, epochs=8, schedule="one-cycle")
    assert [cycle.learning_rate(e) for e in (0, 1, 2, 5, 8)] == pytest.approx([0, 0.2, 0.4, 0.2, 0])
    cosine = TrainConfig("x", lr=0.4, epochs=10, schedule="cosine", warmup=2)
    quarter = 0.2 * (1 + math.sqrt(0.5))
    expected = [0, 0.2, 0.4, quarter, 0.2, 0]
    assert [cosine.learning_rate(e) for e in (0, 1, 2, 4, 6, 10)] == pytest.approx(expected, abs=1e-12)
    warm = TrainConfig("x", lr=0.4, epochs=10, warmup=2)
    assert [warm.learning_rate(e) for e in (0.5, 2, 4, 8)] == pytest.approx([0.1, 0.4, 0.04, 0.004])


@pytest.mark.parametrize(("epochs", "lr_step"), [(1, 1), (2, 1), (30, 12), (80, 32), (100, 40)])
def test_the_rates_drops_follow_the_number_of_epochs(epochs: int, lr_step: int) -> None:
    assert TrainConfig("x", epochs=epochs).lr_step == lr_step
    assert TrainConfig("x", epochs=epochs, lr_step=7).lr_step == 7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("clip_norm", -1.0),
        ("momentum", -0.1),
        ("momentum", 1.5),
        ("seed", 2**63),
        ("crop_padding", -1),
        ("seed", -1),
        ("schedule", "linear"),
        ("optimizer", "adam"),
        ("warmup", -1),
        ("warmup", 100),
        ("limit_per_class", 0),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{field} .*{value}"):
        TrainConfig("x", **{field: value})


def test_the_published_recipe_is_the_default() -> None:
    config = TrainConfig("x")
    assert (config.epochs, config.batch_size, config.lr, config.momentum) == (100, 512, 0.1, 0.9)
    assert (config.weight_decay, config.lr_step, config.lr_factor, config.clip_norm) == (5e-4, 40, 0.1, 5.0)
    assert (config.network, config.crop_padding, config.flip, config.schedule) == (
        "resnet18",
        4,
        True,
        "step",
    )


@pytest.mark.parametrize("settings", [DIGITS_DEMO, PHOTO_DEMO])
def test_the_demos_settings_are_valid(settings: dict[str, Any]) -> None:
    assert TrainConfig("x", **settings).network == "resnet8"
    assert not DIGITS_DEMO["flip"]


def test_both_sets_can_be_limited(data: Path, tmp_path: Path) -> None:
    config = config_for(data, epochs=1, limit_per_class=5, test_limit_per_class=3)
    record = train(config, tmp_path / "run")
    assert (record["train"]["images"], record["test"]["images"]) == (10, 6)


def test_the_gradient_is_clipped_as_a_whole(data: Path, tmp_path: Path) -> None:
    """One plain step of rate 1 moves the weights as far as the gradient is long."""
    plain: dict[str, Any] = {
        "test": None,
        "epochs": 1,
        "batch_size": 48,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "step",
    }
    names = [f"model.{name}" for name, _ in create_network("tiny", 2, 16).named_parameters()]
    moved = {}
    for name, lr, clip in (("still", 1e-30, None), ("clipped", 1.0, 0.01), ("free", 1.0, None)):
        train(config_for(data, lr=lr, clip_norm=clip, **plain), tmp_path / name)
        still, after = tensors_of(tmp_path / "still"), tensors_of(tmp_path / name)
        moved[name] = float(torch.cat([(after[each] - still[each]).ravel() for each in names]).norm())
    assert moved["clipped"] == pytest.approx(0.01, rel=1e-3)
    assert moved["free"] > 0.02


def test_weights_decay(data: Path, tmp_path: Path) -> None:
    """With gradients clipped to nothing, each step leaves 1 - lr * weight_decay of every weight."""
    changes: dict[str, Any] = {"epochs": 1, "momentum": 0.0, "clip_norm": 1e-12, "schedule": "step"}
    for name, decay in (("still", 0.0), ("decayed", 0.1)):
        train(config_for(data, test=None, lr=0.5, weight_decay=decay, **changes), tmp_path / name)
    before, after = tensors_of(tmp_path / "still"), tensors_of(tmp_path / "decayed")
    for name, _ in create_network("tiny", 2, 16).named_parameters():
        torch.testing.assert_close(after[f"model.{name}"], before[f"model.{name}"] * 0.95**12)


def test_a_crop_that_leaves_nothing_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="crop_padding must be at most the images' 16 px, not 17"):
        train(config_for(data, crop_padding=17), tmp_path / "run")
    assert not (tmp_path / "run").exists()
