"""The attack of examples/clean_pairs.py on ``spectral``: pairs of one class give its other pictures back."""

import sys
from pathlib import Path

import pytest
from example_scripts import example, one_class
from sample_images import photo


def test_pairs_of_a_class_undo_spectral(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    src = one_class(tmp_path / "src", (photo(32, 32, number) for number in range(14)))
    script = example("clean_pairs")
    monkeypatch.setattr(script, "ROUNDS", 3)
    options = ["--pairs", "1", "12", "--others", "2", "--method", "spectral:intensity=strong"]
    monkeypatch.setattr(sys, "argv", ["clean_pairs.py", str(src), *options])
    script.main()
    published, one, twelve = (
        float(line.rpartition(": ")[2].removesuffix(" dB")) for line in capsys.readouterr().out.splitlines()
    )
    assert twelve > published + 6
    assert twelve > one
