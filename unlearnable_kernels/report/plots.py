"""Figures of a table of results: accuracy by defence, by budget, by the protected part, and by epoch."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unlearnable_kernels.errors import shown
from unlearnable_kernels.report.figures import as_svg, colour, drawing, finish, legend, number_epochs
from unlearnable_kernels.report.matrix import PARTS, TESTS, Result, Table

_BUDGETS = {
    "at-linf": (255.0, "adversarial training, L∞ ε in 1/255"),
    "at-l2": (1.0, "adversarial training, L2 ε"),
}
_ACROSS = 3  # axes next to each other


def bars(table: Table) -> Markup:
    """Accuracy of every line in every column, with the standard deviation over seeds."""
    with drawing():
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(table.lines)
        drawn = []
        for index, line in enumerate(table.lines):
            shift = (index - (len(table.lines) - 1) / 2) * width
            places = [place + shift for place, c in enumerate(table.columns) if c in line.results]
            results = [line.results[c] for c in table.columns if c in line.results]
            container = axes.bar(
                places,
                [100 * result["mean"] for result in results],
                width,
                yerr=[100 * (result["standard_deviation"] or 0) for result in results],
                color=colour(index),
                ecolor="gray",
            )
            drawn.append(container)
        finish(axes)
        axes.set_xticks(range(len(table.columns)), [shown(c) for c in table.columns], rotation=30, ha="right")
        legend(figure, 4, drawn, [line.protection for line in table.lines])
        return as_svg(figure)


def budgets(table: Table) -> Markup | None:
    """Accuracy by the ε of adversarial training, from plain training at 0; None without two budgets."""
    series: dict[str, dict[str, list[tuple[float, Result]]]] = defaultdict(lambda: defaultdict(list))
    for line in table.lines:
        plain = [result for result in line.results.values() if not result["training"]["defences"]]
        for result in line.results.values():
            defences = result["training"]["defences"]
            if len(defences) == 1 and defences[0]["name"] in _BUDGETS:
                name = defences[0]["name"]
                found = series[name][line.protection]
                found[:0] = [(0.0, result) for result in plain[: not found]]
                found.append((_BUDGETS[name][0] * defences[0]["eps"], result))
    drawn = {
        _BUDGETS[name][1]: lines
        for name, lines in series.items()
        if max(len({eps for eps, _ in points if eps}) for points in lines.values()) > 1
    }
    return _lines(table, drawn) if drawn else None


def parts(table: Table) -> Markup | None:
    """Accuracy by the protected part; None for another kind of table, and without two parts."""
    if table.kind != PARTS:
        return None
    points = {
        line.protection: [(100 * r["training"]["protected_fraction"], r) for r in line.results.values()]
        for line in table.lines
    }
    if len({part for each in points.values() for part, _ in each}) < 2:
        return None
    return _lines(table, {"protected images in %": points})


def curves(table: Table) -> Markup | None:
    """Accuracy by epoch, axes for every column; None where that was not recorded."""
    if table.kind == TESTS:
        return None
    columns = {
        column: {
            line.protection: line.results[column]["accuracy"]["by_epoch"]
            for line in table.lines
            if column in line.results and "by_epoch" in line.results[column]["accuracy"]
        }
        for column in table.columns
    }
    columns = {column: lines for column, lines in columns.items() if lines}
    if not columns:
        return None
    names = [line.protection for line in table.lines]
    with drawing():
        figure, grid = _grid(len(columns))
        for axes, (column, lines) in zip(grid, columns.items(), strict=True):
            for name, seeds in lines.items():
                epochs = list(zip(*seeds, strict=True))
                at, shade = range(1, len(epochs) + 1), colour(names.index(name))
                axes.plot(
                    at, [100 * fmean(each) for each in epochs], "-o", color=shade, lw=1.8, markersize=2.5
                )
                low, high = [100 * min(each) for each in epochs], [100 * max(each) for each in epochs]
                axes.fill_between(at, low, high, color=shade, alpha=0.15, lw=0)
            axes.set_title(shown(column), fontsize="medium")
            number_epochs(axes)
            finish(axes)
        _legend_of_lines(figure, grid[0], names)
        return as_svg(figure)


def _lines(table: Table, drawn: dict[str, dict[str, list[tuple[float, Result]]]]) -> Markup:
    """Accuracy against a number, axes for each of ``drawn``, a line for each protection."""
    names = [line.protection for line in table.lines]
    with drawing():
        figure, grid = _grid(len(drawn))
        for axes, (label, lines) in zip(grid, drawn.items(), strict=True):
            for name, points in lines.items():
                at, results = zip(*sorted(points, key=lambda point: point[0]), strict=True)
                spread = [100 * (result["standard_deviation"] or 0) for result in results]
                means = [100 * result["mean"] for result in results]
                axes.errorbar(at, means, spread, fmt="-o", color=colour(names.index(name)), ecolor="gray")
            axes.set_xlabel(label)
            finish(axes)
        _legend_of_lines(figure, grid[0], names)
        return as_svg(figure)


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """Axes for so many small figures."""
    across = min(count, _ACROSS)
    down = math.ceil(count / across)
    figure = Figure(figsize=(9, 0.6 + 2.4 * down), layout="constrained")
    return figure, [figure.add_subplot(down, across, place + 1) for place in range(count)]


def _legend_of_lines(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    handles = [axes.plot([], [], color=colour(index))[0] for index in range(len(names))]
    legend(figure, 4, handles, names)
