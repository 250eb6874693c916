"""The seven defences on which protections are compared since DUNE (ICML 2026, arXiv 2605.01718).

ResNet-18 on CIFAR-10, 80 epochs, batches of 128.
"""

from collections.abc import Iterator

from unlearnable_kernels.recipes.papers.cuda_cvpr2023 import CUDA
from unlearnable_kernels.recipes.row import Paper, Row, once

NAME = "dune-icml2026"
TRAINING = {"epochs": 80, "batch_size": 128}
DIFFUSION = "a trained diffusion model, which is not here"

# Name, defences; None where it cannot be run.
COLUMNS: tuple[tuple[str, tuple[str, ...] | None], ...] = (
    ("none", ()),
    ("at", ("at-linf:eps=8/255",)),
    ("ueraser", ("ueraser",)),
    ("op", ("op",)),
    ("grayscale", ("grayscale",)),
    ("jpeg", ("jpeg:quality=10",)),
    ("eclipse", None),
    ("coin", ("coin",)),
)
MATRIX = {
    "cuda": (25.48, 49.32, 40.78, 28.66, 22.89, 43.31, 34.18, 72.02),
    "dune": (13.26, 24.96, 19.55, 12.81, 10.18, 28.88, 57.49, 19.21),
    "sem": (15.94, 32.43, 39.29, 15.99, 31.94, 81.58, 85.82, 24.22),
    "rem": (25.81, 59.12, 45.83, 29.45, 38.87, 81.33, 87.16, 33.67),
    "em": (18.26, 69.72, 82.08, 64.37, 89.09, 78.91, 82.07, 19.49),
}

# As published; that of REM is not the mean of its figures, 50.16.
MEANS = {"cuda": 39.58, "dune": 23.29, "sem": 40.90, "rem": 51.47, "em": 63.00}


def _rows() -> Iterator[Row]:
    for protection, figures in MATRIX.items():
        method = CUDA if protection == "cuda" else None
        absent = "" if method else f"the protection {protection.upper()}, which is not built here"
        for (column, defences), figure in zip(COLUMNS, figures, strict=True):
            name = f"{NAME}/cifar10/{column}/{protection}"
            if absent or defences is None:
                yield Row(name, once(figure), "cifar10", method, lacking=absent or DIFFUSION)
            else:
                yield Row(name, once(figure), "cifar10", method, defences=defences, training=TRAINING)
        name, mean = f"{NAME}/cifar10/mean/{protection}", once(MEANS[protection])
        yield Row(name, mean, "cifar10", method, lacking=absent or f"ECLIPSE among the others: {DIFFUSION}")


PAPER = Paper(NAME, "DUNE, ICML 2026 (arXiv 2605.01718)", tuple(_rows()))
