"""Learning curves as an SVG element."""

from statistics import fmean
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unlearnable_kernels.report.figures import as_svg, colour, drawing, finish, legend, number_epochs
from unlearnable_kernels.report.runs import Entry


def learning_curves(entries: list[Entry]) -> Markup:
    """Draw accuracy by epoch: test solid, training dashed; of several seeds the mean, in the range as a band.

    Args:
        entries: A pair of lines each.

    Returns:
        An SVG element in the text colour of the page that it is put into.
    """
    with drawing():
        figure = Figure(figsize=(6.8, 3.4), layout="constrained")
        axes = figure.add_subplot()
        lines, names = [], []
        for index, entry in enumerate(entries):
            style: dict[str, Any] = {"color": colour(index), "markersize": 3.5}
            lines.append(_draw(axes, entry, "train_accuracy", "--x", lw=1.2, alpha=0.75, **style))
            names.append(f"{entry.name}: in training")
            if entry.first.config.test is not None:
                lines.append(_draw(axes, entry, "test_accuracy", "-o", lw=2, **style))
                names.append(f"{entry.name}: clean test")
        finish(axes)
        number_epochs(axes)
        legend(figure, 2, lines, names)
        return as_svg(figure)


def _draw(axes: Axes, entry: Entry, name: str, line: str, **style: Any) -> Line2D:
    """One line through the epochs that all of the entry's runs have."""
    runs = [run for run in entry.runs if run.metrics] or entry.runs[:1]
    epochs = range(min(len(run.metrics) for run in runs))
    values = [[100 * run.metrics[epoch][name] for run in runs] for epoch in epochs]
    numbers = [epoch + 1 for epoch in epochs]
    [drawn] = axes.plot(numbers, [fmean(each) for each in values], line, **style)
    if len(runs) > 1:
        lowest, highest = [min(each) for each in values], [max(each) for each in values]
        axes.fill_between(numbers, lowest, highest, color=style["color"], alpha=0.15, lw=0)
    return drawn
