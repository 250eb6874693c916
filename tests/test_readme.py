"""Every command line and the example in the README, on a small folder of photos."""

import dataclasses
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlearnable_kernels.cli import main
from unlearnable_kernels.protect.methods.bayes_error import BayesError

README = (Path(__file__).parents[1] / "README.md").read_text()


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.jpg")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("photos")
def test_every_command_line(monkeypatch, capsys):
    shorter = dataclasses.replace(BayesError.loop, embeddings=1, first_epochs=1, epochs=1, inner_steps=1)
    monkeypatch.setattr(BayesError, "loop", shorter)
    lines = [line.split("#")[0].split() for block in code_blocks("sh") for line in block.splitlines()]
    commands = [line for line in lines if line[0] == "unlearnable" and line[1] != "--help"]
    assert {line[1] for line in commands} == {
        *("keygen", "preview", "protect", "verify", "train", "evaluate", "report", "info")
    }
    for command in commands:
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code, f"{shlex.join(command)}: {capsys.readouterr().err}"
    for made in ("preview.png", "protected/cat/0.png", "protected/manifest.json", "half.png", "report.html"):
        assert Path(made).is_file(), made
    others = [line for line in lines if line[0] != "unlearnable"]
    assert others == [["make", "demo"], ["source", ".venv/bin/activate"]]


def test_the_example():
    [example] = code_blocks("python")
    names: dict = {}
    exec(example, names)  # the README's own code
    assert names["protected"].shape == (5000, 3, 32, 32)
    assert names["protected"].dtype == torch.uint8
    assert not torch.equal(names["protected"], names["images"].permute(0, 3, 1, 2))


def test_no_figure_is_missing():
    assert not re.findall(r"\b[A-Z]+_[A-Z_]+\b", README.replace("UNLEARNABLE_DATA", ""))


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
