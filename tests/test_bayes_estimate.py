import math

import numpy as np
import pytest
import torch

from unlearnable_kernels.cli import app
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import read_jsonl
from unlearnable_kernels.training import TrainConfig, evaluate_bayes_error, features_of, train
from unlearnable_kernels.training.bayes_estimate import (
    bootstrap_interval,
    cover_hart,
    estimate,
    nearest_neighbour_error,
)


def two_gaussians(count, distance, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    features = torch.randn(count, 3, generator=generator)
    features[:, 0] += labels * distance
    return features, labels


def test_nearest_neighbour_error_by_hand():
    features = torch.tensor([[0.0], [1.0], [10.0], [11.0], [11.5]])
    labels = torch.tensor([0, 0, 0, 1, 1])  # only the third one's neighbour has another label
    assert nearest_neighbour_error(features, labels) == pytest.approx(1 / 5)
    assert nearest_neighbour_error(features + 1000, labels) == pytest.approx(1 / 5)


def test_nearest_neighbour_error_equals_the_whole_distance_matrix():
    features, labels = two_gaussians(2500, 1.0)
    distances = torch.cdist(features.double(), features.double()).fill_diagonal_(torch.inf)
    expected = (labels[distances.argmin(1)] != labels).double().mean()
    assert nearest_neighbour_error(features, labels) == pytest.approx(float(expected), abs=2 / 2500)


def test_cover_hart_bounds():
    assert cover_hart(0.0, 10) == (0.0, 0.0)
    low, high = cover_hart(0.9, 10)  # chance: nothing can be known
    assert (low, high) == (pytest.approx(0.9), 0.9)
    low, high = cover_hart(0.3, 4)
    assert low * (2 - 4 / 3 * low) == pytest.approx(0.3)
    assert cover_hart(1.0, 2) == (pytest.approx(0.5), 0.5)  # a sample may do worse than chance


def test_bootstrap_interval_is_that_of_a_mean():
    values = np.random.default_rng(1).normal(size=2000)
    low, high = bootstrap_interval(values)
    error = 1.96 / math.sqrt(2000)
    assert low == pytest.approx(values.mean() - error, abs=error / 4)
    assert high == pytest.approx(values.mean() + error, abs=error / 4)


def test_the_bounds_hold_where_the_bayes_error_is_known():
    features, labels = two_gaussians(6000, 2.0)
    known = 0.5 * math.erfc(1.0 / math.sqrt(2))  # Φ(−1), half the distance being one deviation
    found = estimate(features, labels, 2, bandwidth=0.05)
    assert found.images == 6000
    assert found.bounds[0] - 0.02 < known < found.bounds[1] + 0.02
    assert found.interval[0] < found.error < found.interval[1]
    assert abs(found.error - known) < 0.08


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    from unlearnable_kernels.data.digits import write_digits

    folder = tmp_path_factory.mktemp("bayes")
    digits = write_digits(folder / "digits")
    config = TrainConfig(train=str(digits), network="resnet8", epochs=1, batch_size=64, limit_per_class=20)
    train(config, folder / "run")
    return folder / "run", digits


def test_before_and_after_are_noted_in_the_run_folder(digits_run, capsys):
    run, digits = digits_run
    app(["evaluate", str(run), "--bayes-error", str(digits), str(digits)], standalone_mode=False)
    said = capsys.readouterr().out.splitlines()
    [line] = read_jsonl(run / "bayes_error.jsonl")
    assert line["before"] == line["after"]
    assert 0 < line["before"]["error"] < 1
    assert said[0].startswith(f"before ({digits}, ")
    assert said[1].startswith(f"after ({digits}, ")
    assert f"Bayes error {line['before']['error']:.4f}" in said[0]
    assert "σ 0.3" in said[2]


def test_features_are_those_the_classifier_sees(digits_run):
    from unlearnable_kernels.training.evaluation import load_trained

    model = load_trained(digits_run[0], torch.device("cpu")).model
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    features = features_of(model, images)
    logits = model(images.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(model.fc(features), logits)


def test_unusable_sets_are_named(digits_run, tmp_path):
    run, digits = digits_run
    with pytest.raises(UserError, match="no-such"):
        evaluate_bayes_error(run, digits, tmp_path / "no-such")
    with pytest.raises(UserError, match=r"^nothing to evaluate: give --test, --bayes-error or --detect$"):
        app(["evaluate", str(run)], standalone_mode=False)
