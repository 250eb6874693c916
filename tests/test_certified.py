"""Certified accuracy: the exact bound, and networks whose smoothed answer is known in closed form."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from unlearnable_kernels.data.arrays import LabelledImages
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.training.certified import certified_accuracy, certify, lower_bound

SIZE = 4
VALUES = 3 * SIZE**2


class Threshold(nn.Module):
    """Class 1 where the mean of an image is above 0.5: under noise a Gaussian, whose spread is known."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        above = self.slope * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-above, above], 1)


def grey(levels: list[int], labels: list[int]) -> LabelledImages:
    images = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, SIZE, SIZE, 3).contiguous()
    names = [str(n) for n in range(len(levels))]
    return LabelledImages(images, torch.tensor(labels), ["dark", "bright"], names, None)


@pytest.mark.parametrize(
    ("successes", "trials", "alpha"),
    [
        (1, 10, 0.05),
        (10, 10, 0.001),
        (37, 50, 0.01),
        (990, 1000, 0.001),
        (99_000, 100_000, 0.001),
        (9, 10, 0.9),
    ],
)
def test_the_bound_is_clopper_and_pearson(successes: int, trials: int, alpha: float) -> None:
    exact = stats.beta.ppf(alpha, successes, trials - successes + 1)
    assert lower_bound(successes, trials, alpha) == pytest.approx(exact, rel=1e-9)
    assert lower_bound(0, trials, alpha) == 0


def test_the_radius_is_the_distance_to_the_boundary_at_most() -> None:
    """For a half-space the true radius is the distance; 2000 copies come near it from below."""
    image, model, sigma, samples = torch.full((3, SIZE, SIZE), 0.56), Threshold().eval(), 0.5, 2000
    distance = 0.06 * math.sqrt(VALUES)
    found = certify(model, image, sigma, samples=samples, generator=torch.Generator().manual_seed(0))
    assert found.label == 1
    assert 0.7 * distance < found.radius < distance
    truth = stats.norm.cdf(distance / sigma)
    spread = stats.binom(samples, truth).ppf([1e-4, 1 - 1e-4])
    least, most = (sigma * stats.norm.ppf(lower_bound(int(k), samples, 0.001)) for k in spread)
    assert least <= found.radius <= most


def test_who_is_undecided_abstains() -> None:
    found = certify(
        Threshold().eval(), torch.full((3, SIZE, SIZE), 0.5), 0.5, generator=torch.Generator(), samples=200
    )
    assert (found.label, found.radius) == (None, 0.0)


def test_accuracy_counts_the_recognised_at_each_radius() -> None:
    """Two far from the boundary, one near it, one on it, and one that is wrong."""
    data = grey([255, 0, 150, 127, 255], [1, 0, 1, 1, 0])
    told: list[tuple[str, int, int]] = []
    result = certified_accuracy(
        Threshold().train(),
        data,
        0.25,
        (0.0, 0.3, 0.6, 0.9),
        samples=600,
        progress=lambda *event: told.append(event),
    )
    most = 0.25 * stats.norm.ppf(lower_bound(600, 600, 0.001))
    assert 0.5 < most < 0.6
    assert result == {
        "sigma": 0.25,
        "samples": 600,
        "selection": 100,
        "alpha": 0.001,
        "images": 5,
        "abstained": 1 / 5,
        "accuracies": [
            {"radius": 0.0, "accuracy": 3 / 5},
            {"radius": 0.3, "accuracy": 3 / 5},
            {"radius": 0.6, "accuracy": 0.0},
            {"radius": 0.9, "accuracy": 0.0},
        ],
    }
    assert told[-1] == ("certifying", 5, 5)


def test_few_images_are_taken_at_even_distances_and_have_their_own_noise() -> None:
    data = grey([140, 0, 255, 0, 140, 0], [1, 1, 1, 1, 1, 1])
    few = certified_accuracy(Threshold(), data, 0.25, (0.0,), samples=200, images=3)
    assert (few["images"], few["accuracies"][0]["accuracy"]) == (3, 1.0)
    assert (
        certified_accuracy(Threshold(), data, 0.25, (0.0,), samples=200)["accuracies"][0]["accuracy"] == 0.5
    )
    again = [certified_accuracy(Threshold(), data, 0.25, (0.1,), samples=200, seed=seed) for seed in (3, 3)]
    assert again[0] == again[1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sigma": 0.0}, "sigma must be a finite number above 0, not 0.0"),
        ({"alpha": 1.0}, "alpha must be above 0 and below 1, not 1.0"),
        ({"radii": [-1.0]}, "radii must be finite numbers of 0 or more, not -1.0"),
        ({"samples": 0}, "samples must be from 1 to 10,000,000, not 0"),
        ({"images": 0}, "images must be from 1 to 10,000,000, not 0"),
    ],
)
def test_wrong_settings_are_one_line(changes: dict, told: str) -> None:
    settings = {"sigma": 0.5, "radii": (0.0,)} | changes
    with pytest.raises(UserError, match=told):
        certified_accuracy(Threshold(), grey([0], [0]), **settings)
