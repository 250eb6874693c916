"""One self-contained HTML page about results of rows, with their tables as CSV and LaTeX beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import replacing, writing
from unlearnable_kernels.progress import Progress, no_progress
from unlearnable_kernels.recipes.results import read_results
from unlearnable_kernels.report.judgement import EXPLANATION as JUDGED
from unlearnable_kernels.report.judgement import judged, judgement_rows
from unlearnable_kernels.report.judgement_plot import against_ssim
from unlearnable_kernels.report.matrix import Line, Table, tables
from unlearnable_kernels.report.matrix_text import (
    DETECTIONS,
    EXPLANATION,
    WORST,
    accuracy,
    csv_text,
    detection_rows,
    latex,
    measured,
    text_rows,
)
from unlearnable_kernels.report.page import check_page, write_page
from unlearnable_kernels.report.pictures import PictureSet, picture_sets
from unlearnable_kernels.report.plots import bars, budgets, curves, parts
from unlearnable_kernels.training.run_folder import RECORD, read_run, run_folders

_COLUMNS = "by training"  # or by defence, where any was tried
_FIGURES = (
    (_COLUMNS, bars),
    ("by budget of adversarial training", budgets),
    ("by the part that is protected", parts),
    ("by epoch, the mean and the range over seeds", curves),
)


@dataclass(frozen=True)
class Section:
    """What the page shows of one table.

    Attributes:
        table: The table.
        rows: Its cells, the heading first.
        summary: A sentence for each protection.
        worst: The column of the worst defence, by its place in a row; None for tables without one.
        figures: (what it shows, SVG element) of each figure.
        judgement: Cells of the table of published and adaptive defences; none for most tables.
        against_ssim: The figure of that; None without a picture quality.
    """

    table: Table
    rows: list[list[str]]
    worst: int | None
    summary: list[str]
    figures: list[tuple[str, Markup]]
    judgement: list[list[str]]
    against_ssim: Markup | None


def is_results(folder: Path) -> bool:
    """Whether a folder holds results of rows, rather than runs."""
    runs = [run for run in run_folders(folder) if (run / RECORD).exists()]
    return not runs and any(folder.rglob("*.json"))


def write_results_report(
    folders: Sequence[Path],
    out: Path,
    title: str = "Measured rows",
    work: Path | None = None,
    progress: Progress = no_progress,
) -> list[Path]:
    """Write an HTML page about results of rows, and each table as CSV and LaTeX beside it.

    Args:
        folders: What ``reproduce`` wrote results into.
        out: Where to write the page; the tables go into the folder of that name without its suffix.
        title: Its title.
        work: Work folder of ``reproduce``, for pictures of the protected sets; without it there are none.
        progress: Counts tables.

    Returns:
        What was written, the page first.

    Raises:
        UserError: A result is damaged, there is none, or ``out`` exists and is not an HTML page.
        WriteError: A file cannot be written.
    """
    check_page(out)
    results = [result for folder in folders for result in read_results(folder)]
    if not results:
        raise UserError(f"no results of `unlearnable reproduce` in {', '.join(map(str, folders))}")
    made = tables(results)
    pictures, missing = (
        ([], []) if work is None else _pictures([result for table in made for result in table.results], work)
    )
    write_page(
        out,
        "results.html.j2",
        title=title,
        explanation=EXPLANATION,
        judged=JUDGED,
        sections=list(_sections(made, progress)),
        detections=detection_rows(results),
        detected=DETECTIONS,
        pictures=pictures,
        missing=missing,
    )
    return [out, *write_tables(made, out.with_suffix(""))]


def table_files(made: Sequence[Table]) -> dict[str, str]:
    """The text of each table's CSV and LaTeX file, by the file's name."""
    csv_files = {f"{table.name}.csv": csv_text(table) for table in made}
    return csv_files | {f"{table.name}.tex": latex(table) for table in made}


def write_tables(made: Sequence[Table], folder: Path) -> list[Path]:
    """Write each table as CSV and LaTeX into ``folder``.

    Raises:
        WriteError: A file cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in table_files(made).items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


def _sections(made: Sequence[Table], progress: Progress) -> Iterator[Section]:
    for done, table in enumerate(made, 1):
        yield _section(table, made)
        progress("drawing", done, len(made))


def _section(table: Table, made: Sequence[Table]) -> Section:
    drawn = [(what, draw(table)) for what, draw in _FIGURES]
    named = {_COLUMNS: "by defence"} if table.defended else {}
    figures = [(named.get(what, what), svg) for what, svg in drawn if svg is not None]
    summary = [_sentence(line, table) for line in table.lines] if table.defended else []
    worst = WORST if table.defended else None
    verdicts = judged(table, made)
    judgement = judgement_rows(verdicts) if verdicts else []
    return Section(
        table,
        text_rows(table),
        worst,
        summary,
        figures,
        judgement,
        against_ssim(verdicts) if verdicts else None,
    )


def _sentence(line: Line, table: Table) -> str:
    reached = f"{accuracy(line.results[line.worst])} % with {line.worst}{measured(line, table)}"
    if line.reference:
        return f"{line.protection}, nothing protected: at best {reached}."
    quality = [] if line.psnr is None else [f"PSNR {line.psnr:.1f} dB"]
    quality += [] if line.ssim is None else [f"SSIM {line.ssim:.2f}"]
    return f"{line.protection}: at worst {reached}{''.join(f', {each}' for each in quality)}."


def _pictures(results: Sequence[dict[str, Any]], work: Path) -> tuple[list[PictureSet], list[str]]:
    """Pictures of every protected set of which a run in ``work`` tells where it is."""
    runs = [read_run(record.parent) for record in sorted(work.glob(f"runs/*/{RECORD}"))]
    trained = {record["train"]["sha256"]: config for config, record in runs}
    shown: dict[str, list[PictureSet]] = {}
    missing: list[str] = []
    for result in results:
        config = trained.get(result["data"]["train"]["sha256"])
        parts = [result["dataset"], result.get("upon"), result["protection"], result.get("stored_as")]
        heading = ", ".join(part for part in parts if part is not None)
        if result["protection"] is None or config is None or config.test is None or heading in shown:
            continue
        sets, lines = picture_sets([Path(config.test), Path(config.train)])
        shown[heading] = [replace(each, heading=heading) for each in sets]
        missing += lines
    return [each for sets in shown.values() for each in sets], missing
