"""The figure of a judgement: what the worst defences leave, against how like the originals pictures are."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unlearnable_kernels.errors import shown
from unlearnable_kernels.report.figures import INK, as_svg, colour, drawing, finish, legend
from unlearnable_kernels.report.judgement import Verdict

_STRENGTHS = ("strength", "cells", "colour", "tone", "contrast", "erased")
_PROPORTION = 1.25  # between the largest and the least ratio of two protections' strengths on one curve
_KINDS = (("o", "-", "worst published defence"), ("D", "--", "worst adaptive defence"))
_APART = 0.05  # of the axes' width: a name that is written upwards


def against_ssim(verdicts: Sequence[Verdict]) -> Markup | None:
    """Accuracy under the worst defence of either kind against SSIM, a curve for each protection.

    Protections that differ in strength alone are on one curve. A mark is hollow where not all of the recipe's
    defences of its kind were measured. None where no protection has an SSIM.
    """
    drawn = [verdict for verdict in verdicts if verdict.line.ssim is not None]
    if not drawn:
        return None
    with drawing():
        figure = Figure(figsize=(5.5, 5), layout="constrained")
        axes = figure.add_subplot()
        handles, names = _keys(axes, verdicts)
        for index, members in enumerate(by_shape(drawn)):
            for adaptive in (False, True):
                _curve(axes, members, adaptive, colour(index))
            handles.append(Line2D([], [], color=colour(index), lw=4))
            names.append(", ".join(verdict.line.protection for verdict in members))
        finish(axes)
        axes.set_xlabel("SSIM")
        axes.margins(x=0.08)
        axes.set_ylim(0, 10 * (axes.dataLim.ymax // 10 + 1))
        _name_above(axes, drawn)
        legend(figure, 2, handles, names)
        return as_svg(figure)


def _keys(axes: Axes, verdicts: Sequence[Verdict]) -> tuple[list[Line2D], list[str]]:
    """What marks and lines mean, whatever their colour; and the line of clean images, drawn."""
    handles = [Line2D([], [], color="gray", marker=mark, ls=style) for mark, style, _ in _KINDS]
    handles.append(Line2D([], [], color="gray", marker="_", ls="", markersize=12, mew=2))
    names = [*(name for _, _, name in _KINDS), "clean images under the latter"]
    for verdict in verdicts:
        published = verdict.of_kind(adaptive=False)
        if verdict.line.reference and published.results:
            best = published.results[published.worst]["mean"]
            handles.append(axes.axhline(100 * best, color="gray", ls=":", lw=1.2))
            names.append("clean images, published defences")
    return handles, names


def _likeness(verdict: Verdict) -> float:
    """The SSIM of a protection that has one."""
    return verdict.line.ssim or 0.0


def by_shape(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    """Protections that differ in strength alone together, by SSIM."""
    groups: list[list[Verdict]] = []
    for verdict in verdicts:
        for group in groups:
            if _differ_in_strength_alone(group[0], verdict):
                group.append(verdict)
                break
        else:
            groups.append([verdict])
    return [sorted(group, key=_likeness) for group in groups]


def _differ_in_strength_alone(one: Verdict, other: Verdict) -> bool:
    """Whether all their other settings are the same, and all their strengths nearly in one proportion."""
    (kind, strengths), (other_kind, other_strengths) = map(_kind_and_strengths, (one, other))
    if kind != other_kind or strengths.keys() != other_strengths.keys():
        return False
    ratios = [strengths[name] / other_strengths[name] for name in strengths]
    return not ratios or max(ratios) <= _PROPORTION * min(ratios)


def _kind_and_strengths(verdict: Verdict) -> tuple[tuple[str | None, ...], dict[str, float]]:
    result = next(iter(verdict.line.results.values()))
    method, _, settings = result["protection"].partition(":")
    given = dict(each.split("=", 1) for each in settings.split(",") if each)
    strengths = {name: float(given.pop(name)) for name in _STRENGTHS if float(given.get(name, 0))}
    given.pop("intensity", None)
    return (method, result.get("upon"), *sorted(map("=".join, given.items()))), strengths


def _curve(axes: Axes, members: Sequence[Verdict], adaptive: bool, shade: str) -> None:
    """The marks of one curve, and between marks of the same kind a line."""
    mark, style, _ = _KINDS[adaptive]
    measured = [(verdict, verdict.of_kind(adaptive)) for verdict in members]
    measured = [(verdict, own) for verdict, own in measured if own.results]
    at = [_likeness(verdict) for verdict, _ in measured]
    axes.plot(at, [100 * own.results[own.worst]["mean"] for _, own in measured], style, color=shade, lw=1.4)
    for verdict, own in measured:
        whole = verdict.defences(adaptive) <= own.results.keys()
        result = own.results[own.worst]
        axes.errorbar(
            _likeness(verdict),
            100 * result["mean"],
            100 * (result["standard_deviation"] or 0),
            fmt=mark,
            color=shade,
            ecolor="gray",
            markerfacecolor=shade if whole else "none",
        )
        if adaptive and verdict.honest is not None:
            axes.plot(
                _likeness(verdict), 100 * verdict.honest["mean"], "_", color="gray", markersize=12, mew=2
            )


def _name_above(axes: Axes, verdicts: Sequence[Verdict]) -> None:
    """Names of protections above the axes, each over its marks or, where they are close, a little beside."""
    low, high = axes.get_xlim()
    free = -1.0
    for verdict in sorted(verdicts, key=_likeness):
        place = (_likeness(verdict) - low) / (high - low)
        free = max(place, free + _APART)
        axes.annotate(
            shown(verdict.line.protection),
            (place, 1),
            (free, 1.06),
            xycoords="axes fraction",
            rotation=90,
            ha="center",
            va="bottom",
            color=INK,
            fontsize="small",
            arrowprops={"arrowstyle": "-", "color": "gray", "lw": 0.6, "shrinkA": 0, "shrinkB": 0},
        )
        axes.axvline(_likeness(verdict), color="gray", lw=0.4, alpha=0.5, zorder=0)
