"""What all figures of the pages share: colours, and an SVG element in the text colour of its page."""

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unlearnable_kernels.errors import shown

_COLOURS = (
    *("#2b7fd4", "#e0632b", "#2c9c69", "#a45bd0", "#c79312", "#d04a80"),
    *("#14a0b0", "#8a8f2a", "#7b8088", "#8c5a3a", "#5a50c8", "#b03a3a"),
    *("#0f5c8c", "#e39aa8", "#4d5a2a", "#6fb7e9", "#c8b26a", "#8fd1b1", "#5c3f6b"),
)
INK = "#010203"  # stands for the page's own text colour until the figure is in the page


def colour(index: int) -> str:
    """The colour of whatever stands at ``index``, in all figures of a page."""
    return _COLOURS[index % len(_COLOURS)]


@contextmanager
def drawing() -> Iterator[None]:
    """Figures drawn and turned into SVG within this look alike, and have the same bytes every time."""
    look: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif"}
    look["text.parse_math"] = False  # names are text: a dollar sign in one begins no formula
    with rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the reader's fonts draw the text, not matplotlib's
        yield


def as_svg(figure: Figure) -> Markup:
    """The figure as an SVG element in the text colour of the page that it is put into."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    return Markup(svg[svg.index("<svg") :].replace(INK, "currentColor"))


def legend(figure: Figure, columns: int, handles: Sequence[Any], names: Sequence[str]) -> None:
    """One legend below all axes: a name for each of ``handles``, artists or containers of bars."""
    drawn = figure.legend(
        handles,
        ["name"] * len(names),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        fontsize="small",
    )
    width = int(10 * figure.get_figwidth()) // columns
    # Put in afterwards: what begins with an underscore would be left out.
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(textwrap.fill(shown(name), width, break_on_hyphens=False))


def finish(axes: Axes) -> None:
    """Draw the axes of accuracies in percent in the text colour."""
    axes.set(ylabel="accuracy in %", ylim=(0, 102))
    axes.grid(alpha=0.2, color=INK)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)


def number_epochs(axes: Axes) -> None:
    """Count epochs below the axes in whole numbers, however few there are."""
    axes.set_xlabel("epoch")
    axes.set_xlim(0, max(1.0, axes.dataLim.xmax) * 1.04)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
