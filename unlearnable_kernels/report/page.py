"""One self-contained HTML page about finished and running trainings: summary, curves, pictures, table."""

from pathlib import Path
from typing import Any

import jinja2

from unlearnable_kernels.environment import versions
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import replacing, require_replaceable, writing
from unlearnable_kernels.report.curves import learning_curves
from unlearnable_kernels.report.figures import colour
from unlearnable_kernels.report.pictures import picture_sets
from unlearnable_kernels.report.runs import Entry, percent, read_entries
from unlearnable_kernels.report.summary import summarise
from unlearnable_kernels.report.table import table_rows

_DOCTYPE = b"<!doctype html"


def write_report(runs: list[Path], out: Path, title: str = "Training on protected images") -> None:
    """Write one HTML page about finished or running trainings; the file is replaced in one step.

    The page needs nothing else: no network, no other file. Pictures are taken from the training sets whose
    folders are still there.

    Args:
        runs: Run folders, at least one, or folders that hold those of several seeds; runs that differ by
            their seed alone are shown as one.
        out: Where to write the page.
        title: Its title.

    Raises:
        UserError: A folder does not hold a run, or ``out`` exists and is not an HTML page.
        WriteError: The page cannot be written.
    """
    if not runs:
        raise UserError("a report needs at least one run folder")
    check_page(out)
    entries = read_entries(runs)
    trained_on = [Path(entry.first.config.train) for entry in entries]
    pictures, missing = picture_sets(list(dict.fromkeys(trained_on)))
    write_page(
        out,
        "report.html.j2",
        title=title,
        summary=summarise(entries),
        entries=entries,
        bars=[bar(entry, colour(index)) for index, entry in enumerate(entries)],
        rows=table_rows(entries),
        curves=learning_curves(entries),
        pictures=pictures,
        missing=missing,
    )


def check_page(out: Path) -> None:
    """Check that a page can be written to ``out``.

    Raises:
        UserError: It exists and is not an HTML page.
    """
    require_replaceable(out, _DOCTYPE, "an HTML page")


def write_page(out: Path, template: str, **values: Any) -> None:
    """Write a template of this folder, filled with ``values`` and the versions, in one step.

    Raises:
        WriteError: The page cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("unlearnable_kernels.report", ""),
        autoescape=True,
        finalize=_one_line,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(versions=versions(), **values)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _one_line(value: Any) -> Any:
    """A name as it may stand in a page: no control characters, nothing that UTF-8 cannot hold."""
    return shown(value) if type(value) is str else value  # markup is of a class of its own


def bar(entry: Entry, colour: str) -> tuple[str, float | None, str, str]:
    """An entry's name, its accuracy in [0, 1] if it was tested, that in words, and its colour."""
    accuracies = entry.test_accuracies
    return entry.name, entry.test_accuracy, percent(accuracies) if accuracies else "not tested", colour
