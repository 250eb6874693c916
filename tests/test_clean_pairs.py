"""The attack of examples/clean_pairs.py on ``spectral``: pairs of one class give its other pictures back."""

import sys
from pathlib import Path

import pytest
from example_scripts import example
from PIL import Image
from sample_images import photo


def test_pairs_of_a_class_undo_spectral(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "src" / "cat"
    folder.mkdir(parents=True)
    for number in range(14):
        Image.fromarray(photo(32, 32, number)).save(folder / f"{number:02}.png")
    script = example("clean_pairs")
    monkeypatch.setattr(script, "ROUNDS", 3)
    options = ["--pairs", "1", "12", "--others", "2", "--method", "spectral:intensity=strong"]
    monkeypatch.setattr(sys, "argv", ["clean_pairs.py", str(tmp_path / "src"), *options])
    script.main()
    published, one, twelve = (
        float(line.rpartition(": ")[2].removesuffix(" dB")) for line in capsys.readouterr().out.splitlines()
    )
    assert twelve > published + 6
    assert twelve > one
