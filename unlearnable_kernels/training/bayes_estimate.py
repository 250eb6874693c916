"""How hard a labelled set is in a network's features: Bayes-error estimate, interval, 1-NN bounds."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.named import resolve
from unlearnable_kernels.device import pick_device
from unlearnable_kernels.environment import versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import append_jsonl
from unlearnable_kernels.ops.bayes_error import bayes_error
from unlearnable_kernels.training.evaluation import load_trained, require_size
from unlearnable_kernels.training.features import features_of
from unlearnable_kernels.training.run_folder import BAYES_ERROR

BANDWIDTH = 0.3  # of the published artefact
_ROWS = 1024  # distances of so many samples to all others are held at a time


@dataclass(frozen=True)
class BayesEstimate:
    """Estimates of the Bayes error of N labelled feature vectors, all in [0, 1].

    Attributes:
        images: N.
        error: Mean leave-one-out error of the kernel posterior (docs/maths.md).
        interval: Its 95 % bootstrap interval over samples, given the others as the kernel's bank.
        nearest_neighbour: Leave-one-out error of the 1-nearest-neighbour rule.
        bounds: Cover and Hart's (1967) bounds on the Bayes error from it, which hold as N grows.
    """

    images: int
    error: float
    interval: tuple[float, float]
    nearest_neighbour: float
    bounds: tuple[float, float]


def evaluate_bayes_error(
    run: Path, before: Path, after: Path, bandwidth: float = BANDWIDTH
) -> dict[str, BayesEstimate]:
    """Estimates for the training splits of two datasets in the features of a trained network.

    The features are the last linear layer's inputs, in the run's network, for images as they are stored.
    A line is appended to bayes_error.jsonl in ``run``.

    Args:
        run: The run folder.
        before: A dataset as ``open_source`` takes it.
        after: Another one, such as the protected copy of the first.
        bandwidth: σ of the kernel, for features divided by their largest absolute value.

    Returns:
        The estimates under "before" and "after".

    Raises:
        UserError: As ``evaluate`` does, for a set of fewer than two images, and for a bandwidth out of range.
    """
    if not 0 < bandwidth < math.inf:
        raise UserError(f"bandwidth must be a finite number above 0, not {bandwidth}")
    device = pick_device()
    trained = load_trained(run, device)
    config, record = trained.config, trained.record
    found, sets = {}, {}
    for name, path in (("before", before), ("after", after)):
        data = load_arrays(path, "train", config.image_size).relabelled(record["classes"], str(path))
        require_size(data, record["image_size"], str(path))
        if len(data) < 2:
            raise UserError(f"{path} holds one image only: at least 2 are needed")
        features = features_of(trained.model, data.images)
        found[name] = estimate(features, data.labels.to(device), len(record["classes"]), bandwidth)
        sets[name] = {"path": resolve(path), "sha256": data.digest()}
    results = {name: sets[name] | dataclasses.asdict(each) for name, each in found.items()}
    line: dict[str, Any] = {"epoch": trained.epoch, "bandwidth": bandwidth, **results, "versions": versions()}
    append_jsonl(run / BAYES_ERROR, line)
    return found


def estimate(features: Tensor, labels: Tensor, num_classes: int, bandwidth: float) -> BayesEstimate:
    """The estimate for labelled features.

    Args:
        features: float32 [N, D], N at least 2.
        labels: int64 [N], each in [0, num_classes), on the same device.
        num_classes: Number of classes.
        bandwidth: σ of the kernel, for features divided by their largest absolute value.

    Raises:
        RuntimeError: As ``bayes_error`` does.
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
    """The 2.5 and 97.5 percentiles of the mean of ``values``, float64 [N], drawn anew with replacement."""
    generator = np.random.default_rng(seed)
    count = len(values)
    means = [values[generator.integers(0, count, count)].mean() for _ in range(resamples)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def nearest_neighbour_error(features: Tensor, labels: Tensor) -> float:
    """The part of the samples whose nearest other one has another label; of equally near ones, the first.

    Args:
        features: float32 [N, D].
        labels: int64 [N], on the same device.
    """
    centred = features - features.mean(0)
    norms = centred.square().sum(1)
    wrong = 0
    for start in range(0, len(labels), _ROWS):
        rows = slice(start, start + _ROWS)
        # Less the row's own norm, which is the same for all of a row.
        distances = norms - 2 * centred[rows] @ centred.T
        own = torch.arange(start, start + len(distances), device=features.device)
        distances.scatter_(1, own[:, None], torch.inf)
        wrong += int((labels[distances.argmin(1)] != labels[rows]).sum())
    return wrong / len(labels)


def cover_hart(nearest_neighbour: float, num_classes: int) -> tuple[float, float]:
    """Bounds on the Bayes error R from the asymptotic 1-NN error: R <= R_NN <= R (2 - K R / (K - 1)).

    Cover and Hart, "Nearest neighbor pattern classification", 1967. K is the number of classes.
    """
    most = (num_classes - 1) / num_classes
    capped = min(nearest_neighbour, most)  # no Bayes error is above chance, which finite samples may be
    return most * (1 - (1 - capped / most) ** 0.5), capped
