"""A package from outside (tests/plugin) adds one thing of each kind, and the command line uses them all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import write_tree

from unlearnable_kernels.data.images import decode

PLUGIN = Path(__file__).parent / "plugin"


def unlearnable(folder: Path, *arguments: object, plugins: Path = PLUGIN) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(plugins), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return subprocess.run(
        [sys.executable, "-m", "unlearnable_kernels", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    write_tree(folder / "pets" / "train", ["cat", "dog"], 160, seed=0, side=8)
    write_tree(folder / "pets" / "test", ["cat", "dog"], 10, seed=1, side=8)
    assert unlearnable(folder, "keygen", "my.key").returncode == 0
    return folder


def test_a_method_and_a_format_from_outside_protect(folder: Path) -> None:
    options = ("--key-file", "my.key", "--method", "toy-shift:levels=40", "--format", "toy-list")
    result = unlearnable(folder, "protect", "pets", "shifted", *options, "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert "protected 320 of 320 images" in result.stderr
    manifest = json.loads((folder / "shifted" / "manifest.json").read_text())
    assert (manifest["method"], manifest["parameters"]["levels"]) == ("toy-shift", 40)
    clean = decode((folder / "pets" / "train" / "cat" / "0000.png").read_bytes(), "")
    shifted = decode((folder / "shifted" / "000000.png").read_bytes(), "")
    assert 0 < np.abs(shifted.astype(int) - clean).max() <= 40
    assert unlearnable(folder, "verify", "shifted", "--key-file", "my.key").returncode == 0


def test_they_are_previewed(folder: Path) -> None:
    result = unlearnable(folder, "preview", "pets", "--key-file", "my.key", "--method", "toy-shift")
    assert result.returncode == 0, result.stderr
    assert (folder / "preview.png").is_file()


def test_a_network_and_a_defence_from_outside_train_what_they_protected(folder: Path) -> None:
    common = ("--test", "pets", "--network", "toy-linear", "--epochs", 1, "--batch-size", 16)
    few = ("--set", "crop_padding=0", "--limit-per-class", 20)
    for name, defences in (("plain", ()), ("dimmed", ("--defence", "toy-dim:factor=0.25"))):
        train = ("train", "--train", "shifted", "--out", name, *common, *few, *defences)
        result = unlearnable(folder, *train)
        assert result.returncode == 0, result.stderr
    config = json.loads((folder / "dimmed" / "config.json").read_text())
    assert config["defences"] == [{"name": "toy-dim", "factor": 0.25}]
    losses = [
        json.loads((folder / n / "run.json").read_text())["final"]["train_loss"] for n in ("plain", "dimmed")
    ]
    assert losses[0] != losses[1]
    assert unlearnable(folder, "evaluate", "dimmed", "--test", "pets").returncode == 0
    result = unlearnable(folder, "report", "plain", "dimmed")
    assert result.returncode == 0, result.stderr
    page = (folder / "report.html").read_text()
    assert all(name in page for name in ("toy-shift", "toy-linear", "toy-dim"))


def test_info_and_help_list_them(folder: Path) -> None:
    text = unlearnable(folder, "info").stdout
    assert text.count("toy-list: ") == 2
    for name in ("toy-shift", "toy-linear", "toy-dim"):
        assert f"  {name}: " in text
    assert "toy-shift: " in unlearnable(folder, "protect", "--help").stdout


def test_a_plugin_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[unlearnable_kernels.plugins]\nbroken = no_such_module\n")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    }
    command = [sys.executable, "-m", "unlearnable_kernels", "info"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert result.returncode == 2
    assert result.stderr == (
        "unlearnable: plug-in broken (no_such_module) cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_module'\n"
    )
