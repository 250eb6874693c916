"""A package from outside (tests/plugin) adds one thing of each kind, and the command line uses them all."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_lines import unlearnable
from small_runs import write_tree

from unlearnable_kernels.data.images import decode

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pets, and what a method and a format from outside make of them in two worker processes."""
    folder = tmp_path_factory.mktemp("plugins")
    write_tree(folder / "pets" / "train", ["cat", "dog"], 160, seed=0, side=8)
    write_tree(folder / "pets" / "test", ["cat", "dog"], 10, seed=1, side=8)
    _, protect, verify, *previews = unlearnable(
        folder,
        "keygen my.key",
        "protect pets shifted --key-file my.key --method toy-shift:levels=40 --format toy-list --workers 2",
        "verify shifted --key-file my.key",
        "preview pets --key-file my.key --method toy-shift",
        "preview pets --protected shifted --out compared.png",
    )
    for result in (protect, verify, *previews):
        assert result.status == 0, result.errors
    assert "protected 320 of 320 images" in protect.errors
    assert "key matches" in verify.output
    return folder


def test_a_method_and_a_format_from_outside_protect(folder: Path) -> None:
    manifest = json.loads((folder / "shifted" / "manifest.json").read_text())
    assert (manifest["method"], manifest["parameters"]["levels"]) == ("toy-shift", 40)
    clean = decode((folder / "pets" / "train" / "cat" / "0000.png").read_bytes(), "")
    shifted = decode((folder / "shifted" / "000000.png").read_bytes(), "")
    assert 0 < np.abs(shifted.astype(int) - clean).max() <= 40


def test_they_are_previewed(folder: Path) -> None:
    assert (folder / "preview.png").is_file()
    assert (folder / "compared.png").is_file()


def test_a_network_and_a_defence_from_outside_train_what_they_protected(folder: Path) -> None:
    common = "--test pets --network toy-linear --epochs 1 --batch-size 16 --set limit_per_class=20"
    results = unlearnable(
        folder,
        f"train --train shifted --out plain {common} --set crop_padding=0",
        f"train --train shifted --out dimmed {common} --set crop_padding=0 --defence toy-dim:factor=0.25",
        "evaluate dimmed --test pets",
        "report plain dimmed",
        "info",
        "protect --help",
    )
    for result in results:
        assert result.status == 0, result.errors
    config = json.loads((folder / "dimmed" / "config.json").read_text())
    assert config["defences"] == [{"name": "toy-dim", "factor": 0.25}]
    records = [json.loads((folder / name / "run.json").read_text()) for name in ("plain", "dimmed")]
    assert records[0]["final"]["train_loss"] != records[1]["final"]["train_loss"]
    page = (folder / "report.html").read_text()
    assert all(name in page for name in ("toy-shift", "toy-linear", "toy-dim"))
    *_, info, about = results
    assert info.output.count("toy-list: ") == 2
    assert all(f"  {name}: " in info.output for name in ("toy-shift", "toy-linear", "toy-dim"))
    assert "toy-shift: " in about.output


def test_a_plugin_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[unlearnable_kernels.plugins]\nbroken = no_such_module\n")
    (result,) = unlearnable(tmp_path, "info", plugins=tmp_path)
    assert result.status == 2
    assert result.errors == (
        "unlearnable: plug-in broken (no_such_module) cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_module'\n"
    )
