"""The README's commands and example, on a small folder of photos; options and plug-ins that the docs show."""

import dataclasses
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from command_lines import unlearnable
from PIL import Image

from unlearnable_kernels.cli import app, main
from unlearnable_kernels.protect.methods.bayes_error import BayesError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]
PLUGINS = ("method", "network", "defence", "format")
# Of torchrun, and of scripts/imagenet100*.
OTHER_PROGRAMS = {"--nproc-per-node", "--classes", "--class-seed", "--size"}


def code_blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def command_lines(text=README):
    """The lines of all sh blocks, as lists of words, without comments."""
    lines = [
        shlex.split(line, comments=True) for block in code_blocks("sh", text) for line in block.splitlines()
    ]
    return [line for line in lines if line]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("photos")
def test_every_command_line(monkeypatch, capsys):
    shorter = dataclasses.replace(BayesError().loop, embeddings=1, first_epochs=1, epochs=1, inner_steps=1)
    monkeypatch.setattr(BayesError, "loop", shorter)
    lines = command_lines()
    commands = [line for line in lines if line[0] == "unlearnable"]
    assert {line[1] for line in commands} == {
        *(
            "keygen",
            "check",
            "preview",
            "protect",
            "verify",
            "restore",
            "plan",
            "render",
            "finish",
            "train",
            "sweep",
            "evaluate",
            "report",
            "reproduce",
        ),
        "info",
    }
    for command in commands:
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code, f"{shlex.join(command)}: {capsys.readouterr().err}"
    for made in ("preview.png", "protected/cat/0.png", "protected/manifest.json", "half.png", "report.html"):
        assert Path(made).is_file(), made
    assert Path("runs/mixed/protected-0.1").is_dir()
    [example] = [block for block in code_blocks("python") if "datasets" in block]
    names: dict = {}
    exec(example, names)  # the README's own code
    assert np.array_equal(np.array(names["image"]), np.array(names["dataset"][0][0]))
    assert not np.array_equal(np.array(names["image"]), np.array(names["Protected"]("photos")[0][0]))
    others = [line for line in lines if line[0] != "unlearnable"]
    assert others == [["make", "build", "&&", "source", ".venv/bin/activate"]]


def test_the_example():
    [example] = [block for block in code_blocks("python") if "torch.ops" in block]
    names: dict = {}
    exec(example, names)  # the README's own code
    assert names["protected"].shape == (5000, 3, 32, 32)
    assert names["protected"].dtype == torch.uint8
    assert not torch.equal(names["protected"], names["images"].permute(0, 3, 1, 2))


@pytest.mark.parametrize("page", PAGES)
def test_options_that_are_named_exist(page):
    commands = typer.main.get_command(app).commands
    known = (
        {option for command in commands.values() for option in getopts(command)} | {"--help"} | OTHER_PROGRAMS
    )
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)))
    assert named <= known, named - known


def getopts(command):
    return [option for parameter in command.params for option in parameter.opts]


@pytest.fixture
def plugins(tmp_path):
    """The packages of docs/adding_*.md as pip would install them, and the names they register."""
    folder, registered = tmp_path / "site-packages", []
    for kind in PLUGINS:
        text = (ROOT / "docs" / f"adding_a_{kind}.md").read_text()
        [package], [module] = code_blocks("toml", text), code_blocks("python", text)
        [group] = re.findall(r'\[project\.entry-points\."(.+)"\]', package)
        [(entry, name)] = re.findall(r'\[project\.entry-points.*\]\n(\w+) = "(\w+)"', package)
        information = folder / f"{name}-0.1.0.dist-info"
        information.mkdir(parents=True)
        (folder / f"{name}.py").write_text(module)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        (information / "entry_points.txt").write_text(f"[{group}]\n{entry} = {name}\n")
        registered += re.findall(r"\.register\(\s*\"([^\"]+)\"", module)
    return folder, registered


@pytest.mark.usefixtures("photos")
def test_the_plugins_that_docs_show_work(plugins, tmp_path):
    folder, registered = plugins
    assert set(registered) == {"class-colour", "three-convs", "pixel-noise", "list-csv"}
    secret = "--key-file my.key --method class-colour:levels=24"
    short = "--epochs 1 --batch-size 4 --network three-convs"
    results = unlearnable(
        tmp_path,
        "info",
        "keygen my.key",
        f"protect photos protected {secret} --format list-csv --fraction 0.5",
        "verify protected --key-file my.key",
        f"train --train protected --test photos --out run {short} --defence pixel-noise:sigma=0.2",
        plugins=folder,
    )
    for result in results:
        assert result.status == 0, result.errors
    assert [name for name in registered if f"  {name}: " not in results[0].output] == []
    assert sorted(path.suffix for path in Path("protected").iterdir()) == [".csv", ".json"] + [".png"] * 12


def test_no_figure_is_missing():
    assert not re.findall(r"\b[A-Z]+_[A-Z_]+\b", README.replace("UNLEARNABLE_DATA", ""))


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_and_sections_exist(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)h][^)]*)\)", (ROOT / page).read_text()):
        path, _, section = target.partition("#")
        linked = folder / path if path else ROOT / page
        assert linked.exists(), target
        if section:
            assert section in headings(linked.read_text()), target


def headings(text):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
