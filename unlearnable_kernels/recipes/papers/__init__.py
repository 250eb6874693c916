"""Tables as data: one module with its ``PAPER`` for each publication, and one for a table of our own."""

from fnmatch import fnmatchcase

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.recipes.papers import (
    beo_aaai2026,
    beo_arms,
    cuda_cvpr2023,
    dune_icml2026,
    formats,
    hardening,
    intensities,
    later_breaks,
    small_grid,
    worst_defence,
)
from unlearnable_kernels.recipes.row import Row

PAPERS = (
    cuda_cvpr2023.PAPER,
    beo_aaai2026.PAPER,
    later_breaks.PAPER,
    dune_icml2026.PAPER,
    small_grid.PAPER,
    beo_arms.PAPER,
    formats.PAPER,
    intensities.PAPER,
    worst_defence.PAPER,
    hardening.PAPER,
)
ROWS = {row.name: row for paper in PAPERS for row in paper}


def select(patterns: list[str]) -> list[Row]:
    """The rows whose names match, in the order of the papers; without a pattern, all.

    Args:
        patterns: Names, or shell patterns in which * stands for anything; a paper's name alone is all of it.

    Raises:
        UserError: A pattern matches no row.
    """
    chosen: set[str] = set()
    for pattern in patterns or ["*"]:
        found = [name for name, row in ROWS.items() if fnmatchcase(name, pattern) or pattern == row.paper]
        if not found:
            papers = ", ".join(paper.name for paper in PAPERS)
            raise UserError(f"no row is called {pattern!r}: see --list, or give a paper: {papers}")
        chosen.update(found)
    return [row for name, row in ROWS.items() if name in chosen]
