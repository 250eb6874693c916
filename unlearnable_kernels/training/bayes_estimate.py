"""How hard a labelled set is in a network's features: the Bayes-error estimate, its interval, and 1-NN bounds."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unlearnable_kernels.ops.bayes_error import bayes_error

_ROWS = 1024  # distances of so many samples to all others are held at a time


@dataclass(frozen=True)
class BayesEstimate:
    """Estimates of the Bayes error of N labelled feature vectors, all in [0, 1].

    error: mean leave-one-out error of the kernel posterior (docs/maths.md). interval: its 95 % bootstrap
    interval over samples, given the others as the kernel's bank. nearest_neighbour: leave-one-out error of
    the 1-nearest-neighbour rule. bounds: Cover and Hart's (1967) bounds on the Bayes error from it, which
    hold as N grows.
    """

    images: int
    error: float
    interval: tuple[float, float]
    nearest_neighbour: float
    bounds: tuple[float, float]


def estimate(features: Tensor, labels: Tensor, num_classes: int, bandwidth: float) -> BayesEstimate:
    """The estimate for features float32 [N, D], divided by their largest absolute value, and labels int64 [N].

    bandwidth: σ of the kernel. Raises RuntimeError as ``bayes_error`` does.
    """
    scaled = features / features.abs().amax().clamp(min=1e-12)
    errors = bayes_error(scaled, labels, num_classes, bandwidth)
    wrong = nearest_neighbour_error(scaled, labels)
    return BayesEstimate(
        images=len(labels),
        error=float(errors.double().mean()),
        interval=bootstrap_interval(errors.cpu().double().numpy()),
        nearest_neighbour=wrong,
        bounds=cover_hart(wrong, num_classes),
    )


def bootstrap_interval(values: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of the mean of ``values`` [N] drawn anew with replacement."""
    generator = np.random.default_rng(seed)
    count = len(values)
    means = [values[generator.integers(0, count, count)].mean() for _ in range(resamples)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def nearest_neighbour_error(features: Tensor, labels: Tensor) -> float:
    """The part of the N samples whose nearest other one has another label; of equally near, the first."""
    centred = features - features.mean(0)
    norms = centred.square().sum(1)
    wrong = 0
    for start in range(0, len(labels), _ROWS):
        rows = slice(start, start + _ROWS)
        distances = norms - 2 * centred[rows] @ centred.T  # less the row's own norm, which is the same in a row
        own = torch.arange(start, start + len(distances), device=features.device)
        distances.scatter_(1, own[:, None], torch.inf)
        wrong += int((labels[distances.argmin(1)] != labels[rows]).sum())
    return wrong / len(labels)


def cover_hart(nearest_neighbour: float, num_classes: int) -> tuple[float, float]:
    """Bounds on the Bayes error R from the asymptotic 1-NN error: R <= R_NN <= R (2 - K R / (K - 1)).

    Cover and Hart, "Nearest neighbor pattern classification", 1967. K: number of classes.
    """
    most = (num_classes - 1) / num_classes
    return most * (1 - max(0.0, 1 - nearest_neighbour / most) ** 0.5), nearest_neighbour
