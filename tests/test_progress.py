"""Plain progress lines; tests/test_cli.py has both kinds as a user sees them."""

import time

import pytest

from unlearnable_kernels import progress


def test_a_job_that_begins_again_is_measured_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_AFTER", 0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress.progress() as report:
        for done in (400, 500, 100, 300):
            report("training", done, 500)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 500/500 images, 100/s, 0 s left",
        "training: 300/500 images, 200/s, 1 s left",
    ]


def test_work_of_several_kinds_is_shown_in_per_cent_with_the_hours_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_AFTER", 0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    clock = iter(range(0, 10000, 100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress.progress(None) as report:
        for done in (0, 125):
            report("reproducing", done, 10000)
    assert capsys.readouterr().err == "reproducing: 1.2 %, 2:11:40 left\n"


def test_a_prefix_names_the_job() -> None:
    seen: list[tuple[str, int, int]] = []
    progress.prefixed(lambda *event: seen.append(event), "run 2 of 3: ")("training", 1, 2)
    assert seen == [("run 2 of 3: training", 1, 2)]
