"""Progress of long work: a bar with speed and time left on a terminal, otherwise an occasional line."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec

FIRST_LINE_AFTER = 1.0  # seconds
SECONDS_BETWEEN_LINES = 5.0

Progress = Callable[[str, int, int], None]
"""Called with (what is going on, how much of it is done, how much there is in all)."""

Notify = Callable[[str], None]
"""Called with a message of one line."""


def no_progress(what: str, done: int, total: int) -> None:
    """A ``Progress`` that shows nothing."""


def prefixed(progress: Progress, prefix: str) -> Progress:
    """A ``Progress`` for one of several jobs, whose name ``prefix`` is put before what it does."""
    return lambda what, done, total: progress(prefix + what, done, total)


def by_share(progress: Progress, units: int, what: str) -> Callable[[int, int], None]:
    """Progress of work that is not done unit by unit: (how much is done, of how much), told in ``units``."""
    return lambda done, total: progress(what, units * done // max(1, total), units)


@contextmanager
def progress(unit: str | None = "images") -> Iterator[Progress]:
    """Show progress on stderr: bars on a terminal, with rich, otherwise a line every few seconds.

    Args:
        unit: What is counted; None shows per cent of work of several kinds, and no speed.

    Yields:
        The function to report progress to.
    """
    if sys.stderr.isatty() and find_spec("rich"):
        with _bars(unit) as report:
            yield report
    else:
        yield _lines(unit)


@contextmanager
def _bars(unit: str | None) -> Iterator[Progress]:
    from rich import progress as bars
    from rich.console import Console
    from rich.text import Text

    class SpeedColumn(bars.ProgressColumn):
        def render(self, task: bars.Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {unit}/s")

    amount: tuple[bars.ProgressColumn, ...] = (bars.MofNCompleteColumn(), SpeedColumn())
    if unit is None:
        amount = (bars.TaskProgressColumn("{task.percentage:.1f} %"),)
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        *amount,
        bars.TimeRemainingColumn(),
        bars.TextColumn("left"),
    )
    # What is of several kinds goes now faster, now slower.
    over = 30 if unit is not None else 3600
    with bars.Progress(*columns, console=Console(stderr=True), speed_estimate_period=over) as display:
        tasks: dict[str, bars.TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = display.add_task(what, total=total)
            display.update(tasks[what], completed=done, total=total)

        yield report


def _lines(unit: str | None) -> Progress:
    begun: dict[str, tuple[float, int]] = {}
    last = time.monotonic() - SECONDS_BETWEEN_LINES + FIRST_LINE_AFTER

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        start, first = begun.setdefault(what, (now, done))
        if done < first:  # the same again, from the beginning
            start, first = begun[what] = now, done
        if now - last < SECONDS_BETWEEN_LINES or now == start or done == first:
            return
        last = now
        speed = (done - first) / (now - start)
        left = (total - done) / speed
        if unit is None:
            shown = f"{100 * done / total:.1f} %, {timedelta(seconds=round(left))} left"
        else:
            shown = f"{done:,}/{total:,} {unit}, {speed:,.0f}/s, {left:,.0f} s left"
        print(f"{what}: {shown}", file=sys.stderr, flush=True)

    return report
