"""Learning curves as an SVG element."""

import io
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unlearnable_kernels.report.runs import Run

_COLOURS = ("#2b7fd4", "#e0632b", "#2c9c69", "#a45bd0", "#c79312", "#d04a80", "#14a0b0", "#8a8f2a")
_INK = "#010203"  # stands for the page's own text colour until the figure is in the page


def colour(index: int) -> str:
    """The colour of the run at ``index`` in all figures."""
    return _COLOURS[index % len(_COLOURS)]


def learning_curves(runs: list[Run]) -> Markup:
    """Draw accuracy by epoch: test solid, training dashed.

    Args:
        runs: A pair of lines each.

    Returns:
        An SVG element in the text colour of the page that it is put into.
    """
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif"}):
        figure = Figure(figsize=(6.8, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for index, run in enumerate(runs):
            epochs = [line["epoch"] for line in run.metrics]
            style: dict[str, Any] = {"color": colour(index), "markersize": 3.5}
            training = [100 * line["train_accuracy"] for line in run.metrics]
            axes.plot(epochs, training, "--", lw=1.2, alpha=0.75, label=f"{run.name}: in training", **style)
            if run.config.test is not None:
                tested = [100 * line["test_accuracy"] for line in run.metrics]
                axes.plot(epochs, tested, "-o", lw=2, label=f"{run.name}: clean test", **style)
        _finish(axes)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=_INK, fontsize="small")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    return Markup(svg[svg.index("<svg") :].replace(_INK, "currentColor"))


def _finish(axes: Axes) -> None:
    """Label the axes and draw them in the text colour."""
    axes.set(xlabel="epoch", ylabel="accuracy in %", ylim=(0, 102))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.2, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
