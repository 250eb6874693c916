"""The attack of examples/two_releases.py: it succeeds on filters by place, not on a set that was extended."""

import sys
from pathlib import Path

import pytest
from example_scripts import example, one_class
from sample_images import photo


def test_two_releases_give_filters_away_unless_they_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = photo(32, 32)
    images = (pixels[:: (-1) ** number] // (1 + number % 3) for number in range(12))
    src = one_class(tmp_path / "src", images)
    monkeypatch.setattr(sys, "argv", ["two_releases.py", str(src), "--pictures", "12"])
    example("two_releases").main()
    lines = capsys.readouterr().out.splitlines()
    found = [line.rpartition(":")[2].split(",") for line in lines if "correlation" in line]
    place, name = [[float(figure) for figure in each] for each in found]
    assert min(place) > 0.9
    assert max(name) < 0.9
    assert "  the two releases are the same bytes" in lines
