"""Accuracies of the protected mixture's optimal classifier on clean points, over all pairs of strengths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import replacing, write_json
from unlearnable_kernels.progress import Progress, no_progress
from unlearnable_kernels.theory.gaussian_mixture import (
    STRONGEST,
    accuracy,
    accuracy_bound,
    accuracy_by_sampling,
    clean_classifier,
    protected_classifier,
    sine_basis,
)

NORMS = (1.0, 2.5, 5.0)  # of the paper's figure
SMALLEST_DIMENSION = 8  # below it the integral converges too slowly more often


def sweep(
    norms: Sequence[float] = NORMS,
    dimension: int = 100,
    points: int = 11,
    samples: int = 20_000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Accuracies for a₋ and a₊ on a grid over [0, 0.5] and for every ‖μ‖, μ in a random direction.

    Args:
        norms: ‖μ‖ of each sweep, above 0.
        dimension: d, at least 8.
        points: Strengths of each class, at least 2.
        samples: Points of the check by sampling.
        seed: Of the direction of μ and of these points.
        progress: Called with grid points.

    Returns:
        The arguments; "strengths" [points]; and in "sweeps" for every norm its "clean" accuracy (of the clean
        mixture's optimal classifier), and by a₋ and a₊ [points][points] the exact "accuracy", Chernoff's
        "bound", the "sampled" accuracy and its 95 % "interval", all in [0, 1].

    Raises:
        UserError: A value is out of range.
    """
    for name, value, least in (
        ("dimension", dimension, SMALLEST_DIMENSION),
        ("points", points, 2),
        ("samples", samples, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UserError(f"{name} must be at least {least}, not {value}")
    for norm in norms:
        if not 0 < norm <= 100:
            raise UserError(f"norm must be above 0 and at most 100, not {norm}")
    direction = np.random.default_rng(seed).standard_normal(dimension)
    direction = sine_basis(direction / np.linalg.norm(direction))
    strengths = np.linspace(0, STRONGEST, points).tolist()
    sweeps, cells, done = [], len(norms) * points**2, 0
    for norm in norms:
        mu = norm * direction
        rows = []
        for minus in strengths:
            row = []
            for plus in strengths:
                # Fresh points for every cell: the intervals' hits are then independent.
                row.append(_cell(mu, minus, plus, samples, (seed, done)))
                done += 1
                progress("strengths", done, cells)
            rows.append(row)
        found = {
            name: [[cell[name] for cell in row] for row in rows]
            for name in ("accuracy", "bound", "sampled", "interval")
        }
        sweeps.append({"norm": norm, "clean": accuracy(clean_classifier(mu), mu), **found})
    return {
        "dimension": dimension,
        "samples": samples,
        "seed": seed,
        "strengths": strengths,
        "sweeps": sweeps,
    }


def _cell(mu: np.ndarray, minus: float, plus: float, samples: int, seed: tuple[int, int]) -> dict[str, Any]:
    classifier = protected_classifier(mu, minus, plus)
    sampled, interval = accuracy_by_sampling(classifier, mu, samples, seed)
    return {
        "accuracy": accuracy(classifier, mu),
        "bound": accuracy_bound(classifier, mu),
        "sampled": sampled,
        "interval": interval,
    }


def agreement(result: dict[str, Any]) -> float:
    """The part of all grid points whose exact accuracy lies within the interval found by sampling."""
    inside = [
        low <= value <= high
        for each in result["sweeps"]
        for values, intervals in zip(each["accuracy"], each["interval"], strict=True)
        for value, (low, high) in zip(values, intervals, strict=True)
    ]
    return float(np.mean(inside))


def summary(each: dict[str, Any]) -> str:
    """Two lines on one of a result's "sweeps": its accuracies, and what a₊ can be chosen to leave of them."""
    accuracies, bounds = np.array(each["accuracy"]), np.array(each["bound"])
    return (
        f"‖μ‖ {each['norm']:g}: clean {each['clean']:.2%}, "
        f"protected from {accuracies.min():.2%} to {accuracies.max():.2%}\n"
        f"  for every a₋ some a₊ leaves at most {accuracies.min(1).max():.2%}, "
        f"by the bound {bounds.min(1).max():.2%}; "
        f"the bound is below clean for {(bounds < each['clean']).sum()} of {bounds.size} pairs"
    )


def check_picture(out: Path) -> str:
    """The kind of picture that ``out`` is to be, before a sweep takes its time.

    Raises:
        UserError: It is none that can be written, or its folder is not there.
    """
    kind = out.suffix.lower().lstrip(".")
    if kind not in ("png", "pdf", "svg"):
        raise UserError(f"{out} must end in .png, .pdf or .svg")
    if not out.resolve().parent.is_dir():
        raise UserError(f"{out.parent} is not a folder")
    return kind


def write_sweep(result: dict[str, Any], out: Path) -> None:
    """Draw a sweep as a picture and write its figures beside it as JSON.

    For every ‖μ‖ there are two squares, of the exact accuracies and below of their bounds.

    Args:
        result: What ``sweep`` returned.
        out: The picture, a PNG, PDF or SVG file by its suffix.

    Raises:
        UserError: The suffix is another one.
        WriteError: A file cannot be written.
    """
    from matplotlib.figure import Figure

    kind = check_picture(out)
    sweeps = result["sweeps"]
    figure = Figure(figsize=(3.4 * len(sweeps) + 0.8, 7), layout="constrained")
    panels = figure.subplots(2, len(sweeps), squeeze=False)
    half = STRONGEST / (len(result["strengths"]) - 1) / 2
    for each, column in zip(sweeps, panels.T, strict=True):
        titles = f"‖μ‖ = {each['norm']:g} (clean {each['clean']:.1%})", "Chernoff's bound"
        for axes, values, title in zip(column, ("accuracy", "bound"), titles, strict=True):
            image = axes.imshow(
                100 * np.array(each[values]).T,
                origin="lower",
                extent=(-half, STRONGEST + half) * 2,
                vmin=50,
                vmax=100,
            )
            axes.set(xlabel="a₋", ylabel="a₊", title=title)
    figure.colorbar(image, ax=list(panels.flat), label="accuracy on clean points in %", shrink=0.6)
    with replacing(out) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)
    write_json(out.with_suffix(".json"), result)
