"""What protections are worth: the worst published and adaptive defences, beside what pictures lose."""

from collections.abc import Sequence
from dataclasses import dataclass

from unlearnable_kernels.recipes.papers import ROWS, hardening, worst_defence
from unlearnable_kernels.recipes.results import scale_slug
from unlearnable_kernels.report.matrix import DEFENCES, TESTS, Line, Result, Table
from unlearnable_kernels.report.matrix_text import accuracy, counted, number, seeds

PLACES = (
    worst_defence.NAME,
    *(f"{worst_defence.NAME}/{where}" for where in worst_defence.ELSEWHERE),
    hardening.NAME,
)
EXPLANATION = (
    "Adaptive defences are those of somebody who knows the family of protections or has other pictures to "
    "train with; the others are published. Worst: of those measured, so many of the recipe's. Clean: what "
    "the same defence leaves of clean images or, where clean images are added, what these give alone."
)
_ALONE = "-alone"  # ends the name of what added clean images give without the protected ones


@dataclass(frozen=True)
class Verdict:
    """How one protection does against either kind of defence.

    Attributes:
        line: What was measured of it, by defence, without ``_ALONE``.
        clean: The same of clean images, with it.
        planned: Names of the recipe's defences of this protection, without ``_ALONE``.
    """

    line: Line
    clean: dict[str, Result]
    planned: frozenset[str]

    def of_kind(self, adaptive: bool) -> Line:
        """What was measured under the defences of one kind; maybe nothing."""
        kept = {name: each for name, each in self.line.results.items() if is_adaptive(name) == adaptive}
        return Line(self.line.protection, kept)

    def defences(self, adaptive: bool) -> set[str]:
        """The recipe's defences of one kind."""
        return {name for name in self.planned if is_adaptive(name) == adaptive}

    @property
    def honest(self) -> Result | None:
        """What the worst adaptive defence leaves of clean images; None where that was not measured."""
        adaptive = self.of_kind(adaptive=True)
        if self.line.reference or not adaptive.results:
            return None
        return self.clean.get(adaptive.worst) or self.clean.get(adaptive.worst + _ALONE)


def is_adaptive(defence: str) -> bool:
    """Whether a column of the recipes is a defence that nobody has published against such a protection."""
    return defence not in worst_defence.PUBLISHED


def judged(table: Table, made: Sequence[Table]) -> list[Verdict]:
    """The protections of a table, under its defences and under those that stand in other tables.

    Args:
        table: One of ``made``.
        made: All tables; those with a part of the images protected are of thieves with pictures of their own.

    Returns:
        In the order of ``table``; nothing for tables other than those of defences of the recipes ``PLACES``.
    """
    if table.kind != DEFENCES or table.place not in PLACES:
        return []
    lines: dict[str, dict[str, Result]] = {line.protection: {} for line in table.lines}
    for other in made:
        if other.kind != TESTS and _conditions(other) == _conditions(table):
            for line in other.lines:
                lines.setdefault(line.protection, {}).update(line.results)
    clean = {name: each for own in lines.values() for name, each in own.items() if each["protection"] is None}
    names = (name.rsplit("/", 2) for name in ROWS)
    planned = [(defence, of) for place, defence, of in names if place == table.place]
    verdicts = []
    for name, own in lines.items():
        measured = {column: each for column, each in own.items() if not column.endswith(_ALONE)}
        if measured:
            tried = frozenset(each for each, of in planned if of == name and not each.endswith(_ALONE))
            verdicts.append(Verdict(Line(name, measured), clean, tried))
    return verdicts


def _conditions(table: Table) -> tuple[str, str, str]:
    result = table.results[0]
    return table.place, result["training"]["network"], scale_slug(result)


def judgement_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Verdicts as cells of text, the heading first."""
    rows = [["protection", "PSNR, dB", "SSIM", "mean", "worst published", "worst adaptive", "clean", "seeds"]]
    for verdict in verdicts:
        line = verdict.line
        quality = [number(line.psnr, ".1f"), number(line.ssim, ".2f")]
        mean = f"{100 * line.mean:.1f}{counted(len(line.results), len(verdict.planned))}"
        clean = "-" if verdict.honest is None else accuracy(verdict.honest)
        worst = [_worst(verdict, adaptive) for adaptive in (False, True)]
        rows.append([line.protection, *quality, mean, *worst, clean, seeds(line)])
    return rows


def _worst(verdict: Verdict, adaptive: bool) -> str:
    own = verdict.of_kind(adaptive)
    if not own.results:
        return "-"
    tried = counted(len(own.results), len(verdict.defences(adaptive)))
    return f"{own.worst} {accuracy(own.results[own.worst])}{tried}"
