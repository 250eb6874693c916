"""Detection of protected images by their borders: the features, the classifier, the halves, the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import photo
from sklearn.svm import LinearSVC
from small_runs import data, finished, one_thread

from unlearnable_kernels.cli import app
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.training import evaluate_certified, evaluate_detection
from unlearnable_kernels.training.detection import detect, edge_features, edges, fit_svm, halves
from unlearnable_kernels.training.run_folder import CERTIFICATIONS, DETECTIONS

__all__ = ["data", "finished", "one_thread"]  # fixtures
# Takes most from the neighbour above, and keeps the brightness.
FILTER = torch.full((1, 3, 3), 0.05)
FILTER[0, 0, 1] = 0.6


def write_set(root: Path, images: torch.Tensor, suffix: str) -> Path:
    (root / "cat").mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image.numpy()).save(root / "cat" / f"{number:03d}.{suffix}")
    return root


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures of little contrast, and what a filter leaves of them with either padding."""
    root = tmp_path_factory.mktemp("sets")
    photos = torch.from_numpy(np.stack([photo(16, 16, seed) // 6 + 100 for seed in range(60)]))
    labels = torch.zeros(len(photos), dtype=torch.int64)
    made = {"photos": write_set(root / "photos", photos, "webp")}
    for padding in ("zeros", "reflect"):
        filtered = classwise_conv(photos.permute(0, 3, 1, 2).float(), labels, FILTER, padding, "none")
        made[padding] = write_set(root / padding, filtered.permute(0, 2, 3, 1).round().byte(), "png")
    return made


def test_the_features_are_sums_along_the_borders_for_each_channel() -> None:
    image = photo(5, 7)
    sums = [image[0].sum(0) / 7, image[4].sum(0) / 7, image[:, 0].sum(0) / 5, image[:, 6].sum(0) / 5]
    np.testing.assert_allclose(edges(image), np.concatenate(sums))


def test_the_classifier_is_the_support_vector_machine_of_another_library() -> None:
    generator = np.random.default_rng(0)
    features = np.concatenate([generator.normal(0, 1, (90, 4)), generator.normal(0.7, 1, (30, 4))])
    sides = np.repeat([-1.0, 1.0], [90, 30])
    weights, bias = fit_svm(torch.from_numpy(features), torch.from_numpy(sides), 0.2)
    # A large constant input stands for a bias that is not regularised.
    other = LinearSVC(C=0.2, class_weight="balanced", intercept_scaling=1e3, tol=1e-8, max_iter=100_000)
    other.fit(features, sides)
    np.testing.assert_allclose(weights, other.coef_[0], rtol=1e-3)
    np.testing.assert_allclose(bias, other.intercept_[0], rtol=1e-3)


def test_pairs_share_a_half_which_the_seed_draws() -> None:
    names = [[f"cat/{number}" for number in range(40)], [f"cat/{number}" for number in range(39, 19, -1)]]
    first, second = halves(names, 0)
    assert int(first.sum()) == 20
    assert second.tolist() == first.tolist()[:19:-1]
    assert torch.equal(halves(names, 0)[0], first)
    assert not torch.equal(halves(names, 1)[0], first)


def test_zero_padding_shows_and_reflection_does_not(sets: dict[str, Path]) -> None:
    seen = evaluate_detection(sets["photos"], sets["zeros"])
    assert seen["images"] == 60
    assert seen["hit_rate"] >= 0.9
    assert seen == evaluate_detection(sets["photos"], sets["zeros"])
    assert evaluate_detection(sets["photos"], sets["reflect"])["hit_rate"] < 0.65


def test_equal_sets_are_guessed(sets: dict[str, Path]) -> None:
    assert evaluate_detection(sets["photos"], sets["photos"])["hit_rate"] == 0.5


def test_errors_are_binomial(sets: dict[str, Path]) -> None:
    found = evaluate_detection(sets["photos"], sets["reflect"])
    clean, protected = found["clean_as_clean"], found["protected_as_protected"]
    assert found["hit_rate"] == pytest.approx((clean + protected) / 2)
    variance = clean * (1 - clean) / 30 + protected * (1 - protected) / 30
    assert found["standard_error"] == pytest.approx(variance**0.5 / 2)
    assert variance > 0


def test_unequal_numbers_do_not_make_guessing_good(sets: dict[str, Path]) -> None:
    names, features = edge_features(sets["photos"])
    few = slice(0, 12)
    found = detect((features, features[few]), halves([names, names[few]], 0))
    assert 0.3 < found.hit_rate < 0.7


def test_the_command_notes_what_it_found(sets: dict[str, Path], finished: Path, tmp_path: Path) -> None:
    app(["evaluate", "--detect", str(sets["photos"]), str(sets["zeros"])], standalone_mode=False)
    out = tmp_path / "found.jsonl"
    line = ["evaluate", str(finished), "--detect", str(sets["photos"]), str(sets["zeros"])]
    app([*line, "--seed", "3", "--out", str(out)], standalone_mode=False)
    found = json.loads(out.read_text())
    assert found == evaluate_detection(sets["photos"], sets["zeros"], 3)
    assert (finished / DETECTIONS).read_text() == out.read_text()


def test_what_cannot_be_detected_is_named(sets: dict[str, Path], tmp_path: Path) -> None:
    one = write_set(tmp_path / "one", torch.zeros(1, 4, 4, 3, dtype=torch.uint8), "png")
    with pytest.raises(UserError, match=r"one has too few images to fit a detector and to try it: 1$"):
        evaluate_detection(sets["photos"], one)
    with pytest.raises(UserError, match="is not a run"):
        app(["evaluate", str(tmp_path), "--detect", str(one), str(one)], standalone_mode=False)


def test_a_network_is_certified_and_the_result_noted(
    data: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", str(finished), "--test", str(data), "--certify", "0.02", "--samples", "50"]
    app([*line, "--radii", "0,1/100,1", "--images", "6"], standalone_mode=False)
    shown = capsys.readouterr().out
    certified = json.loads((finished / CERTIFICATIONS).read_text())
    assert [each["radius"] for each in certified["accuracies"]] == [0.0, 0.01, 1.0]
    assert (certified["sigma"], certified["samples"], certified["images"]) == (0.02, 50, 6)
    # At most 0.02 * 1.13 can be certain with 50 samples.
    assert certified["accuracies"][0]["accuracy"] >= certified["accuracies"][1]["accuracy"] > 0.5
    assert certified["accuracies"][2]["accuracy"] == 0
    assert f"radius 0.01: certified accuracy {certified['accuracies'][1]['accuracy']:.2%}" in shown
    (finished / CERTIFICATIONS).write_text('{"test": "x"}\n')
    with pytest.raises(UserError, match=r"certifications\.jsonl, line 1 is damaged: 'sigma' is missing"):
        evaluate_certified(finished, data, 0.02, samples=10, images=1)
    (finished / CERTIFICATIONS).unlink()


REFUSED = {
    ("r", "--certify", "1", "--bayes-error", "a", "b"): "a certificate needs images to certify: give --test",
    ("r", "--test", "a", "--radii", "0"): "samples, radii and images are those of a certificate: give --cert",
    ("r", "--test", "a", "--certify", "1", "--attack", "l2"): "an attack and a certificate are two tests",
    ("--test", "a"): "a network is needed: give its run folder",
    ("r", "--test", "a", "--seed", "1"): "seed and out are those of a detection: give --detect",
}


@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_options_that_do_not_fit_together_are_refused(options: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=REFUSED[options]):
        app(["evaluate", *options], standalone_mode=False)
