"""Edge-pixel detection (EPD): whether images were protected, told by their borders with a linear classifier.

From the paper of COIN (AAAI 2025). Zero padding darkens the borders of filtered images.
"""

import dataclasses
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearnable_kernels.data.checked import open_checked
from unlearnable_kernels.data.named import resolve
from unlearnable_kernels.data.source import load_image
from unlearnable_kernels.environment import usable_cores, versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.progress import Progress, no_progress


@dataclass(frozen=True)
class Detection:
    """How well held-out images were told apart.

    Attributes:
        images: How many there were, clean and protected ones.
        hit_rate: Mean of the two following; 0.5 is guessing, however many images there are of either kind.
        standard_error: Of ``hit_rate``, binomial.
        clean_as_clean: The part of the clean images that was taken for that, in [0, 1].
        protected_as_protected: The part of the protected images that was taken for that, in [0, 1].
    """

    images: int
    hit_rate: float
    standard_error: float
    clean_as_clean: float
    protected_as_protected: float


def evaluate_detection(
    clean: Path, protected: Path, seed: int = 0, progress: Progress = no_progress
) -> dict[str, Any]:
    """Fit a linear SVM on the borders of half of the images, and try it on the other half.

    Images of both sets that have the same name, suffix aside, come into the same half.

    Args:
        clean: A dataset as ``open_source`` takes it, of whose training split all images count as clean.
        protected: Another one, of which all count as protected.
        seed: Of the halves.
        progress: Told of the images that are decoded.

    Returns:
        The sets, the seed, what ``Detection`` holds, and the versions, as JSON.

    Raises:
        UserError: A dataset cannot be read or has too few images, or the seed is out of range.
    """
    if not 0 <= seed < 2**63:
        raise UserError(f"seed must be 0 or more and below 2^63, not {seed}")
    paths = (clean, protected)
    names, features = zip(*(edge_features(path, progress) for path in paths), strict=True)
    fitted = halves(names, seed)
    for path, half in zip(paths, fitted, strict=True):
        if len(half.unique()) < 2:
            raise UserError(f"{path} has too few images to fit a detector and to try it: {len(half)}")
    result = detect(features, fitted)
    sets = {
        kind: {"path": resolve(path), "images": len(rows)}
        for kind, path, rows in zip(("clean", "protected"), paths, features, strict=True)
    }
    return {**sets, "seed": seed, **dataclasses.asdict(result), "versions": versions()}


def edge_features(path: Path, progress: Progress = no_progress) -> tuple[list[str], Tensor]:
    """What the detector sees of the images of a dataset's training split, whatever their sizes.

    Returns:
        Their names without suffix, and their features, float64 [N, 12].

    Raises:
        UserError: The dataset cannot be read or has no images.
    """
    source = open_checked(path, "train").source
    if not source.samples:
        raise UserError(f"{path} has no images")
    features = np.empty((len(source.samples), 12))
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            rows = pool.map(lambda sample: edges(load_image(source, sample, None)), source.samples)
            for number, row in enumerate(rows):
                features[number] = row
                progress("reading borders", number + 1, len(features))
        finally:
            pool.shutdown(cancel_futures=True)
    names = [str(PurePosixPath(sample.name).with_suffix("")) for sample in source.samples]
    return names, torch.from_numpy(features)


def edges(image: np.ndarray) -> np.ndarray:
    """The sums of the four outermost lines of pixels in each channel, divided by the lines' lengths.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        float64 [12]: red, green and blue of the upper border, then of the lower, left and right ones.
    """
    lines = (image[0], image[-1], image[:, 0], image[:, -1])
    return np.concatenate([line.mean(0) for line in lines])


def halves(names: Iterable[list[str]], seed: int) -> list[Tensor]:
    """Which images of each set the detector is fitted on, bool [N]; equal names share a half."""
    names = list(names)
    distinct = sorted(set().union(*names))
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)).tolist()
    first = {distinct[index] for index in order[: len(distinct) // 2]}
    return [torch.tensor([name in first for name in each]) for each in names]


def detect(features: Iterable[Tensor], fitted: Iterable[Tensor]) -> Detection:
    """Fit a detector on some images of each set and try it on the others.

    Args:
        features: float64 [N, D] of the clean images and [M, D] of the protected ones.
        fitted: bool [N] and [M]: which images to fit on; some of each, and not all.
    """
    pairs = list(zip(features, fitted, strict=True))
    known, held_out = [rows[half] for rows, half in pairs], [rows[~half] for rows, half in pairs]
    mean, deviation = torch.cat(known).mean(0), torch.cat(known).std(0).clamp(min=1e-9)
    sides = torch.cat([torch.full((len(rows),), side) for rows, side in zip(known, (-1.0, 1.0), strict=True)])
    weights, bias = fit_svm((torch.cat(known) - mean) / deviation, sides.double())
    clean, protected = ((rows - mean) / deviation @ weights + bias > 0 for rows in held_out)
    rates = [1 - float(clean.double().mean()), float(protected.double().mean())]
    counts = [len(clean), len(protected)]
    variance = sum(rate * (1 - rate) / count for rate, count in zip(rates, counts, strict=True))
    return Detection(sum(counts), sum(rates) / 2, variance**0.5 / 2, *rates)


def fit_svm(features: Tensor, sides: Tensor, penalty: float = 1.0) -> tuple[Tensor, Tensor]:
    """A linear support vector machine with squared hinge loss, both sides weighing the same.

    Minimises ½‖w‖² + penalty · Σ_i v_i max(0, 1 − y_i (w·x_i + b))², where v_i is N / 2 divided by the number
    of samples on the side of i.

    Args:
        features: float64 [N, D], of about unit size.
        sides: float64 [N], −1 or 1, both of them there.
        penalty: Of the loss.

    Returns:
        Weights float64 [D], and bias, float64 scalar.
    """
    shares = torch.where(sides > 0, (sides > 0).double().mean(), (sides < 0).double().mean())
    weights = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights, bias], max_iter=500, tolerance_grad=1e-6, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def objective() -> float:
        solver.zero_grad()
        hinge = (1 - sides * (features @ weights + bias)).clamp(min=0)
        loss = weights.square().sum() / 2 + penalty * (hinge.square() / (2 * shares)).sum()
        loss.backward()
        return float(loss.detach())

    solver.step(objective)
    return weights.detach(), bias.detach()
