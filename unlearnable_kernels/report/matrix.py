"""Results of rows as tables: protections against defences, parts protected, and other test images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from unlearnable_kernels.recipes.papers import PAPERS, ROWS
from unlearnable_kernels.recipes.results import scale_slug, scale_words, slug
from unlearnable_kernels.recipes.row import CLEAN

Result = dict[str, Any]

DEFENCES, PARTS, TESTS = "defences", "parts", "tests"
"""What the columns of a table are; of ``DEFENCES`` some, or all, may be trainings without one."""
_TITLES = {DEFENCES: "", PARTS: ", a part of the images protected", TESTS: ", other test images"}


@dataclass(frozen=True)
class Line:
    """What was measured of one protection, and one way of storing: the sets of its rows differ in nothing.

    Attributes:
        protection: The last part of its rows' names.
        results: By column, the part before it; at least one.
    """

    protection: str
    results: dict[str, Result]

    @property
    def reference(self) -> bool:
        """Whether nothing is protected."""
        return all(result["protection"] is None for result in self.results.values())

    @property
    def worst(self) -> str:
        """The column with the highest accuracy: the defence against which the protection does worst."""
        return max(self.results, key=lambda column: self.results[column]["mean"])

    @property
    def mean(self) -> float:
        """Over the columns that were measured, in [0, 1]."""
        return fmean(result["mean"] for result in self.results.values())

    @property
    def psnr(self) -> float | None:
        """In dB, over all seeds; None where nothing is protected or nothing changed."""
        return self._quality("psnr")

    @property
    def ssim(self) -> float | None:
        """Over all seeds; None where nothing is protected or images are too small."""
        return self._quality("ssim")

    def _quality(self, name: str) -> float | None:
        # Columns share their sets: more seeds are more sets.
        quality = max((result["quality"] for result in self.results.values()), key=len)
        found = [each[name] for each in quality if each[name] is not None]
        return fmean(found) if found else None


@dataclass(frozen=True)
class Table:
    """Rows of one data set, network and scale, measured on whichever machine.

    Attributes:
        name: For files.
        place: What its rows' names begin with: PAPER/DATA SET, or PAPER alone.
        kind: One of ``DEFENCES``, ``PARTS`` and ``TESTS``.
        columns: In the order of the paper.
        lines: The references first, then in the order of the paper.
    """

    name: str
    place: str
    kind: str
    columns: list[str]
    lines: list[Line]

    @property
    def results(self) -> list[Result]:
        """All results in it."""
        return [result for line in self.lines for result in line.results.values()]

    @property
    def defended(self) -> bool:
        """Whether a defence was tried: columns that are none, such as protocols, have no worst one."""
        return self.kind == DEFENCES and any(result["training"]["defences"] for result in self.results)

    @property
    def scaled(self) -> str:
        """What was left out; "" for full rows."""
        scaled = self.results[0]["scaled"]
        return "" if scaled is None else ", ".join(scale_words(scaled))

    @property
    def title(self) -> str:
        """What it shows, where it is scaled that first."""
        network = self.results[0]["training"]["network"]
        return f"{'Scaled: ' if self.scaled else ''}{self.place}, {network}{_TITLES[self.kind]}"

    @property
    def conditions(self) -> list[str]:
        """Sentences on how it was measured."""
        results = self.results
        machines = dict.fromkeys(_machine(result, run) for result in results for run in result["runs"])
        epochs = _numbers(result["training"]["epochs"] for result in results)
        images = _numbers(result["test_images"] for result in results)
        error = max(result["standard_error"] for result in results)
        paper = self.place.partition("/")[0]
        told = [f"{each.title[0].upper()}{each.title[1:]}." for each in PAPERS if each.name == paper]
        told.append(f"{epochs} epochs; {'; or '.join(machines)}.")
        told.append(
            f"Tested on {images} images: the standard error of one accuracy is at most {100 * error:.1f}."
        )
        if self.scaled:
            told.append(f"Scaled ({self.scaled}): not to be compared with published figures.")
        return told


def tables(results: Sequence[Result]) -> list[Table]:
    """Put results together into tables, in the order of the papers' rows.

    Args:
        results: As ``read_results`` gives them; detections, which are no accuracies, are left out. Of a row
            that was measured on several machines that of most seeds counts, then the latest.

    Returns:
        Tables of full rows first.
    """
    order = {name: position for position, name in enumerate(ROWS)}
    groups: dict[tuple[str, ...], list[Result]] = {}
    trained = [result for result in results if result["training"] is not None]
    for result in sorted(trained, key=lambda result: order.get(result["row"], len(order))):
        place = result["row"].rsplit("/", 2)[0]
        key = place, _kind(result), result["training"]["network"], scale_slug(result)
        groups.setdefault(key, []).append(result)
    made = [_table(key, members) for key, members in groups.items()]
    return sorted(made, key=lambda table: table.scaled != "")


def _kind(result: Result) -> str:
    if result["test"] != CLEAN:
        return TESTS
    return DEFENCES if result["training"]["protected_fraction"] is None else PARTS


def _table(key: tuple[str, ...], results: list[Result]) -> Table:
    place, kind, network, scale = key
    lines: dict[str, dict[str, Result]] = {}
    for result in results:
        column, protection = result["row"].split("/")[-2:]
        line = lines.setdefault(protection, {})
        line[column] = max(
            line.get(column, result), result, key=lambda each: (len(each["seeds"]), each["date"])
        )
    columns = list(dict.fromkeys(result["row"].split("/")[-2] for result in results))
    made = sorted((Line(*line) for line in lines.items()), key=lambda line: not line.reference)
    name = slug(place, *([] if kind == DEFENCES else [kind]), network, *filter(None, [scale]))
    return Table(name, place, kind, columns, made)


def _machine(result: Result, run: dict[str, Any]) -> str:
    """Where a run was trained, and by which torch; early files have the machine of the last run alone."""
    machine, versions = run.get("machine") or result["machine"], run["versions"]
    if run.get("device") == "cpu":
        machine = machine | {"gpu": None}
    processor = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    return f"{processor}, torch {versions['torch']}"


def _numbers(values: Iterable[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(set(values)))
