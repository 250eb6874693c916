"""The Gaussian mixture's classifiers against densities, sampling and cases with a formula."""

import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image
from scipy.stats import multivariate_normal, ncx2

from unlearnable_kernels.cli import app
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.theory.gaussian_mixture import (
    QuadraticClassifier,
    accuracy,
    accuracy_bound,
    accuracy_by_sampling,
    clean_classifier,
    probability_positive,
    protected_classifier,
    sine_basis,
    wilson_interval,
)
from unlearnable_kernels.theory.sweep import agreement, check_picture, summary, sweep

D = 12


def mean_of(norm: float, dimension: int = D) -> np.ndarray:
    direction = np.random.default_rng(3).standard_normal(dimension)
    return norm * direction / np.linalg.norm(direction)


def toeplitz(strength: float) -> np.ndarray:
    return np.eye(D) + strength * (np.eye(D, k=1) + np.eye(D, k=-1))


@pytest.mark.parametrize(("minus", "plus"), [(0.0, 0.4), (0.31, 0.12), (0.5, 0.5)])
def test_the_classifier_is_the_likelihood_ratio(minus: float, plus: float) -> None:
    mu, points = mean_of(2.0), np.random.default_rng(4).standard_normal((50, D))
    densities = [
        multivariate_normal(sign * matrix @ mu, matrix @ matrix.T).logpdf(points)
        for sign, matrix in ((1, toeplitz(plus)), (-1, toeplitz(minus)))
    ]
    found = protected_classifier(sine_basis(mu), minus, plus)(sine_basis(points))
    np.testing.assert_allclose(found, densities[0] - densities[1], rtol=1e-9, atol=1e-9)


def test_without_a_difference_in_filters_the_accuracy_has_a_formula() -> None:
    for norm in (0.3, 1.0, 2.5):
        mu = sine_basis(mean_of(norm))
        assert accuracy(clean_classifier(mu), mu) == pytest.approx(NormalDist().cdf(norm), abs=1e-9)
        same = protected_classifier(mu, 0.3, 0.3)
        linear = float(same.linear @ mu / np.linalg.norm(same.linear))
        assert accuracy(same, mu) == pytest.approx(NormalDist().cdf(linear), abs=1e-9)


@pytest.mark.parametrize("constant", [-30.0, -9.0, -2.0])
def test_the_integral_is_that_of_a_chi_square(constant: float) -> None:
    mean = mean_of(1.5)
    found = probability_positive(QuadraticClassifier(np.ones(D), np.zeros(D), constant), mean)
    assert found == pytest.approx(ncx2(D, 1.5**2).sf(-constant), abs=1e-9)


@pytest.mark.parametrize("norm", [1.0, 5.0])
def test_sampling_agrees_and_the_bound_holds(norm: float) -> None:
    mu = sine_basis(mean_of(norm))
    for minus, plus in ((0.1, 0.3), (0.5, 0.2), (0.0, 0.5)):
        classifier = protected_classifier(mu, minus, plus)
        exact = accuracy(classifier, mu)
        sampled, (low, high) = accuracy_by_sampling(classifier, mu, 40_000, seed=1)
        assert low < sampled < high
        assert abs(sampled - exact) < 4 * (high - low) / 3.92  # four standard errors
        assert exact <= accuracy_bound(classifier, mu) <= 1
        assert exact < accuracy(clean_classifier(mu), mu)


@pytest.mark.parametrize("norm", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("direction", ["random", "lowest frequency", "highest frequency"])
def test_whatever_a_minus_every_other_a_plus_lowers_the_accuracy(norm: float, direction: str) -> None:
    where = {
        "random": np.random.default_rng(5).standard_normal(20),
        "lowest frequency": np.eye(20)[0],
        "highest frequency": np.eye(20)[-1],
    }[direction]
    mu = norm * where / np.linalg.norm(where)
    clean = accuracy(clean_classifier(mu), mu)
    for minus in np.linspace(0, 0.5, 6):
        others = [plus for plus in np.linspace(0, 0.5, 6) if plus != minus]
        classifiers = [protected_classifier(mu, minus, plus) for plus in others]
        left = [accuracy(classifier, mu) for classifier in classifiers]
        assert max(left) < clean - 1e-5
        assert min(left) < 0.51
        assert min(accuracy_bound(classifier, mu) for classifier in classifiers) < min(clean, 0.51)


def test_the_bound_is_chernoffs_with_the_best_s() -> None:
    mu = sine_basis(mean_of(1.0))
    classifier = protected_classifier(mu, 0.05, 0.3)

    def moment(sign: int, s: float) -> float:
        """E exp(s·sign·Q) in the class ``sign``: (T4) of docs/maths.md."""
        room = 1 - 2 * s * sign * classifier.quadratic
        slope = classifier.linear + 2 * classifier.quadratic * sign * mu
        exponent = s * sign * classifier((sign * mu)[None])[0] + s**2 / 2 * (slope**2 / room).sum()
        return float(np.exp(exponent) / np.sqrt(room.prod()))

    points = np.random.default_rng(6).standard_normal((100_000, D))
    sampled = np.exp(-0.02 * classifier(points - mu)).mean()
    assert moment(-1, 0.02) == pytest.approx(sampled, rel=0.01)

    bound = accuracy_bound(classifier, mu)
    least = []
    for sign in (1, -1):
        end = 0.5 / (sign * classifier.quadratic).max()
        least.append(min(moment(sign, s) for s in np.linspace(0, end, 1000, endpoint=False)))
    assert 0.5 < bound < 0.99
    assert bound == pytest.approx(sum(least) / 2, rel=1e-4)


def test_the_bound_says_something_where_filters_differ_much() -> None:
    mu = sine_basis(mean_of(1.0, 100))
    assert accuracy_bound(protected_classifier(mu, 0.0, 0.5), mu) < 0.51


def test_wilsons_interval() -> None:
    # Wilson (1927) for 8 of 10: 0.490 to 0.943.
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 10)[0] == pytest.approx(0, abs=1e-12)


def test_a_sweep_is_drawn_with_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "theory.png"
    line = ["theory", "--out", str(out), "--norm", "1", "--points", "3", "--samples", "2000"]
    app([*line, "--dimension", "20"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "‖μ‖ 1: clean 84.13%, protected from 50.00% to 84.13%"
    assert "by the bound 50.05%" in lines[1]
    result = json.loads(out.with_suffix(".json").read_text())
    values = np.array(result["sweeps"][0]["accuracy"])
    assert values.shape == (3, 3)
    assert values[0, 0] == pytest.approx(NormalDist().cdf(1), abs=1e-9)
    assert agreement(result) >= 7 / 9
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.height > 1.5 * picture.width  # the accuracies' square above the bounds'


def test_the_bounds_are_printed_beside_what_they_bound() -> None:
    # By row of a₋: of the accuracies the second row has the higher minimum, of the bounds the first.
    accuracies, bounds = [[0.8, 0.6], [0.85, 0.7]], [[1, 0.95], [0.85, 0.89]]
    each = {"norm": 1, "clean": 0.9, "accuracy": accuracies, "bound": bounds}
    assert summary(each).splitlines() == [
        "‖μ‖ 1: clean 90.00%, protected from 60.00% to 85.00%",
        "  for every a₋ some a₊ leaves at most 70.00%, by the bound 95.00%; "
        "the bound is below clean for 2 of 4 pairs",
    ]


def test_what_is_out_of_range_is_refused() -> None:
    for settings, message in (
        ({"dimension": 7}, "dimension must be at least 8, not 7"),
        ({"points": 1}, "points must be at least 2, not 1"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"norms": [0.0]}, "norm must be above 0 and at most 100, not 0.0"),
    ):
        with pytest.raises(UserError, match=message):
            sweep(**settings)  # type: ignore[arg-type]
    for out, message in ((Path("no/x.png"), "no is not a folder"), (Path("x.gif"), "must end in .png")):
        with pytest.raises(UserError, match=message):
            check_picture(out)
    with pytest.raises(UserError, match=r"a must be from 0 to 0.5, not 0.6"):
        protected_classifier(mean_of(1.0), 0.6, 0.1)
