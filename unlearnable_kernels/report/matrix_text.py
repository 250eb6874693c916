"""Tables of results as text: for people, in Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from unlearnable_kernels.errors import shown
from unlearnable_kernels.recipes.results import band, outside
from unlearnable_kernels.report.matrix import Line, Result, Table

EXPLANATION = (
    "Accuracy on clean test images in percent after training on protected ones: the mean ± the standard "
    "deviation over seeds. The lower, the better a protection. Worst, where any was tried: the defence that "
    "recovers most, and what it leaves; a protection is worth no more than that, since whoever trains "
    "chooses the defence. Mean: over the defences measured, plain training among them. PSNR and SSIM compare "
    "protected training images with their originals: means over 16 million pixels of each seed's set, in "
    "earlier files over 256 images, PSNR over those that changed, SSIM with a Gaussian window of σ 1.5 px. "
    "Published figures stand in brackets, beside full rows only, marked where ours lies outside a band of "
    "several."
)

DETECTIONS = (
    "How often edge-pixel detection takes images for what they are, clean or protected, in percent; 50 is "
    "guessing. The published figure stands in brackets."
)

WORST = 3
"""Where the worst defence stands in a row of a table in which any was tried."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def text_rows(table: Table) -> list[list[str]]:
    """The table as cells of text, the heading first: picture quality, the worst defence, then all."""
    compared = ["worst", "mean"] if table.defended else []
    rows = [["protection", "PSNR, dB", "SSIM", *compared, "seeds", *table.columns]]
    for line in table.lines:
        compared = _compared(line, table) if table.defended else []
        quality = [number(line.psnr, ".1f"), number(line.ssim, ".2f")]
        figures = [figure(line.results[c]) if c in line.results else "-" for c in table.columns]
        rows.append([line.protection, *quality, *compared, seeds(line), *figures])
    return rows


def detection_rows(results: Sequence[Result]) -> list[list[str]]:
    """Detections as cells of text, the heading first; empty where there are none."""
    found = [result for result in results if result["training"] is None]
    rows = [["row", "told apart", "clean as clean", "protected as protected", "seeds"]] if found else []
    for result in found:
        parts = (fmean(result["accuracy"][kind]) for kind in ("clean_as_clean", "protected_as_protected"))
        shares = [f"{100 * part:.1f}" for part in parts]
        rows.append([result["row"], figure(result), *shares, str(len(result["seeds"]))])
    return rows


def figure(result: Result) -> str:
    """One accuracy, and beside that of a full row the published one."""
    published = None if result["scaled"] is not None else result["published"]
    if published is None:
        return accuracy(result)
    mark = ", outside" if outside(published, result["mean"]) else ""
    return f"{accuracy(result)} ({band(published, result.get('about', False))}{mark})"


def accuracy(result: Result) -> str:
    """One accuracy in percent, with the standard deviation where there is one."""
    spread = result["standard_deviation"]
    return f"{100 * result['mean']:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def markdown(table: Table) -> list[str]:
    """The table as lines of Markdown, the worst defence in bold."""
    heading, *rows = text_rows(table)
    if table.defended:
        rows = [[*row[:WORST], f"**{row[WORST]}**", *row[WORST + 1 :]] for row in rows]
    return markdown_lines([heading, *rows])


def markdown_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells of text, the heading first, as lines of Markdown."""
    heading, *others = rows
    return [f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *others)]


def csv_text(table: Table) -> str:
    """The table as CSV, accuracies in percent, a column for each part of a figure."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    compared = ["worst_defence", "worst", "mean"] if table.defended else []
    parts = ["", " sd", " published low", " published high"]
    columns = [f"{column}{part}" for column in table.columns for part in parts]
    writer.writerow(["protection", "psnr_db", "ssim", *compared, "seeds", "scaled", *columns])
    for line in table.lines:
        quality = [number(line.psnr, ".2f", ""), number(line.ssim, ".4f", "")]
        worst = [line.worst, _percent(line.results[line.worst]["mean"]), _percent(line.mean)]
        figures = [cell for column in table.columns for cell in _csv_cells(line.results.get(column))]
        writer.writerow(
            [line.protection, *quality, *(worst if compared else []), seeds(line), table.scaled, *figures]
        )
    return stream.getvalue()


def _csv_cells(result: Result | None) -> list[Any]:
    if result is None:
        return [""] * 4
    spread = result["standard_deviation"]
    published = result["published"] if result["scaled"] is None and result["published"] else ("", "")
    return [_percent(result["mean"]), "" if spread is None else _percent(spread), *published]


def latex(table: Table) -> str:
    """The table as a LaTeX tabular, the worst defence in bold; what it shows stands above as a comment."""
    heading, *rows = ([_escaped(cell) for cell in row] for row in text_rows(table))
    if table.defended:
        rows = [[*row[:WORST], rf"\textbf{{{row[WORST]}}}", *row[WORST + 1 :]] for row in rows]
    body = "\n".join(f"{' & '.join(row)} \\\\" for row in rows)
    return (
        f"% {shown(table.title)}\n% {shown(' '.join(table.conditions))}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}\n\\hline\n"
        f"{' & '.join(heading)} \\\\\n\\hline\n{body}\n\\hline\n\\end{{tabular}}\n"
    )


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _compared(line: Line, table: Table) -> list[str]:
    """The worst defence, and the mean over all."""
    part = measured(line, table)
    return [f"{line.worst} {accuracy(line.results[line.worst])}{part}", f"{100 * line.mean:.1f}{part}"]


def measured(line: Line, table: Table) -> str:
    """How many of the defences were tried, where not all were: the worst may be among the others."""
    return counted(len(line.results), len(table.columns))


def counted(tried: int, every: int) -> str:
    """How many were tried, where not all were."""
    return "" if tried == every else f" ({tried} of {every})"


def seeds(line: Line) -> str:
    """How many runs a figure of a line is the mean of."""
    counts = {len(result["seeds"]) for result in line.results.values()}
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def number(value: float | None, form: str, missing: str = "-") -> str:
    """A figure as text, or ``missing``."""
    return missing if value is None else format(value, form)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"
