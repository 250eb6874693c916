"""Progress of long work: a bar with speed and time left on a terminal, else a plain line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

FIRST_LINE_AFTER = 1.0  # seconds, and so are these
SECONDS_BETWEEN_LINES = 5.0

Report = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and how much there is."""


class _SpeedColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self.unit}/s")


@contextmanager
def progress(unit: str = "images") -> Iterator[Report]:
    """A function to report progress to; it writes to stderr, and nothing at all in the first second."""
    if sys.stderr.isatty():
        with _bars(unit) as report:
            yield report
    else:
        yield _lines(unit)


@contextmanager
def _bars(unit: str) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(unit),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def _lines(unit: str) -> Report:
    begun: dict[str, tuple[float, int]] = {}
    last = time.monotonic() - SECONDS_BETWEEN_LINES + FIRST_LINE_AFTER

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        start, first = begun.setdefault(what, (now, done))
        if now - last < SECONDS_BETWEEN_LINES or now == start or done == first:
            return
        last = now
        speed = (done - first) / (now - start)
        print(
            f"{what}: {done:,}/{total:,} {unit}, {speed:,.0f}/s, {(total - done) / speed:,.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return report
