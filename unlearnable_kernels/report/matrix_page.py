"""The measured rows as sections of Markdown pages: docs/results.md in full, the README in short."""

from collections.abc import Sequence

from unlearnable_kernels.recipes.papers.small_grid import NAME as GRID
from unlearnable_kernels.report.judgement import EXPLANATION as JUDGED
from unlearnable_kernels.report.judgement import judged, judgement_rows
from unlearnable_kernels.report.matrix import Result, Table
from unlearnable_kernels.report.matrix_text import (
    DETECTIONS,
    EXPLANATION,
    detection_rows,
    figure,
    markdown,
    markdown_lines,
    text_rows,
)

HEAD = """## Protections against defences

The rows of [recipes.md](recipes.md) that were measured, from `results/reproduce/`, one JSON file each. The
same tables lie in `docs/results/` as CSV and LaTeX; `make results` also makes a page with figures,
`docs/results.html`.
"""

NOT_MEASURED = "Not yet measured."
PLAIN = "plain"  # the grid's column without a defence


def sections(made: Sequence[Table], results: Sequence[Result], folder: str) -> list[str]:
    """Lines of Markdown on all tables, and on detections.

    Args:
        made: What was measured, which may be nothing.
        results: Of which detections are taken.
        folder: Where their CSV and LaTeX files lie, as seen from the page.
    """
    lines = [HEAD, EXPLANATION if made else NOT_MEASURED, ""]
    for table in made:
        files = f"[CSV]({folder}/{table.name}.csv), [LaTeX]({folder}/{table.name}.tex)"
        lines += [
            f"### {table.title}",
            "",
            *markdown(table),
            "",
            f"{' '.join(table.conditions)} {files}.",
            "",
        ]
        verdicts = judged(table, made)
        if verdicts:
            rows = markdown_lines(judgement_rows(verdicts))
            lines += [f"#### {table.place}: published and adaptive defences", "", *rows, "", JUDGED, ""]
    if found := detection_rows(results):
        lines += ["### Detections", "", *markdown_lines(found), "", DETECTIONS, ""]
    return lines


def grid_block(made: Sequence[Table]) -> list[str]:
    """Lines of Markdown on our own grid: for each protection the worst defence, plain training, the mean."""
    lines: list[str] = []
    for table in made:
        if (table.place, table.defended, table.scaled) == (GRID, True, ""):
            lines += [""] if lines else []
            lines += [*markdown_lines(_short_rows(table)), "", " ".join(table.conditions)]
    return lines or [NOT_MEASURED]


def _short_rows(table: Table) -> list[list[str]]:
    mean = f"mean of {len(table.columns)} trainings"
    rows = [["protection", "PSNR, dB", "SSIM", "worst defence", "plain training", mean, "seeds"]]
    for line, row in zip(table.lines, text_rows(table)[1:], strict=True):
        name, decibels, likeness, worst, of_all, seeds = row[:6]
        alone = figure(line.results[PLAIN]) if PLAIN in line.results else "-"
        rows.append([name, decibels, likeness, f"**{worst}**", alone, of_all, seeds])
    return rows
