"""Runs with a network and a defence from a file: recorded with its hash, and never mixed with another's."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import config_for, data, one_thread, untimed_metrics

from unlearnable_kernels import plugins
from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.plugins import load_plugin
from unlearnable_kernels.report import write_report
from unlearnable_kernels.training import evaluate, train
from unlearnable_kernels.training.run_folder import RECORD

__all__ = ["data", "one_thread"]  # fixtures

SOURCE = """
from dataclasses import dataclass
from torch import nn
from unlearnable_kernels.defences import DEFENCES, Defence
from unlearnable_kernels.networks import NETWORKS

@NETWORKS.register("own-linear", "one layer")
def own_linear(num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, num_classes))

@DEFENCES.register("own-dim", "darkens")
@dataclass(frozen=True)
class OwnDim(Defence):
    factor: float = 0.5

    def prepare(self, images, labels, generator):
        return (images * self.factor).to(images.dtype), labels
"""
RUN = {"network": "own-linear", "defences": ["own-dim:factor=0.25"], "epochs": 1, "crop_padding": 0}


def forget() -> None:
    """Act as a process that did not load what is in the file."""
    sys.modules.pop("own_pieces", None)
    plugins._given.clear()
    NETWORKS._entries.pop("own-linear", None)
    DEFENCES._entries.pop("own-dim", None)


@pytest.fixture
def pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file, loaded."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "own_pieces.py"
    path.write_text(SOURCE)
    load_plugin(str(path))
    yield path
    forget()


def test_a_run_records_what_it_used(data: Path, pieces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    record = train(config_for(data, **RUN), run)
    plugin = record["plugins"]["own_pieces"]
    assert plugin["provides"] == ["defence own-dim", "network own-linear"]
    assert evaluate(run, data)["plugins"] == record["plugins"]
    write_report([run], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert all(each in page for each in ("own-linear", "own-dim, factor 0.25", plugin["sha256"][:12]))
    assert train(config_for(data, **RUN), run) == json.loads((run / RECORD).read_text())


def test_other_source_is_refused(data: Path, pieces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_for(data, **RUN), run)
    before = untimed_metrics(run)
    pieces.write_text(SOURCE + "\n")
    with pytest.raises(UserError, match="holds an earlier run: plug-in own_pieces has changed since; use an"):
        train(config_for(data, **RUN), run)
    assert untimed_metrics(run) == before


def test_without_the_plugin_one_line_says_what_to_give(data: Path, pieces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_for(data, **RUN), run)
    forget()
    for use in (lambda: evaluate(run, data), lambda: write_report([run], tmp_path / "r.html")):
        with pytest.raises(
            UserError, match=r"used defence own-dim of the plug-in own_pieces: give --plugin "
        ):
            use()
    with pytest.raises(UserError, match="unknown network 'own-linear'"):
        train(config_for(data, **RUN), run)
    NETWORKS.register("own-linear", "another's")(NETWORKS["tiny"])
    DEFENCES.register("own-dim", "another's")(type("Other", (DEFENCES["at-linf"],), {}))
    with pytest.raises(UserError, match="used defence own-dim of the plug-in own_pieces"):
        evaluate(run, data)


def test_a_plugin_that_registers_nothing_counts_too(data: Path, pieces: Path, tmp_path: Path) -> None:
    """It may have changed the trainer itself."""
    train(config_for(data, epochs=1), tmp_path / "with")
    forget()
    with pytest.raises(UserError, match="earlier run: plug-in own_pieces was used then and is not now"):
        train(config_for(data, epochs=1), tmp_path / "with")
    train(config_for(data, epochs=1), tmp_path / "without")
    load_plugin(str(pieces))
    with pytest.raises(UserError, match="earlier run: plug-in own_pieces was not used then"):
        train(config_for(data, epochs=1), tmp_path / "without")


def test_a_package_counts_with_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_pieces").mkdir()
    (tmp_path / "own_pieces" / "__init__.py").write_text("")
    load_plugin("own_pieces")
    try:
        digests = {plugins.source_digest("own_pieces")}
        (tmp_path / "own_pieces" / "part.py").write_text("a = 1")
        digests.add(plugins.source_digest("own_pieces"))
        (tmp_path / "own_pieces" / "part.py").rename(tmp_path / "own_pieces" / "other.py")
        digests.add(plugins.source_digest("own_pieces"))
        assert len(digests - {None}) == 3
    finally:
        forget()


def test_what_is_typed_in_cannot_be_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook, where a cell may also be run again."""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    code = compile(SOURCE, "<stdin>", "exec")
    try:
        for _ in range(2):
            exec(code, sys.modules["__main__"].__dict__)
        record = train(config_for(data, **RUN), tmp_path / "run")
        assert record["plugins"]["__main__"]["sha256"] is None
        assert evaluate(tmp_path / "run", data)["images"] == 20
        with pytest.raises(UserError, match="plug-in __main__ has no source file that could be compared"):
            train(config_for(data, **RUN), tmp_path / "run")
    finally:
        forget()


def test_a_file_with_the_name_of_another_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "json.py").write_text("")
    with pytest.raises(UserError, match=r"json\.py has the name of another module, .*: rename the file"):
        load_plugin(str(tmp_path / "json.py"))
    assert "json" not in plugins._given


def test_a_script_that_ends_the_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ends_the_program.py"
    path.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(UserError, match="cannot be imported: SystemExit: 3"):
        load_plugin(str(path))


def test_a_record_of_plugins_that_is_damaged_is_named() -> None:
    for provides in ("x", "foo bar", 3):
        with pytest.raises(UserError, match=r"run\.json is damaged: it says that the plug-in piece provides"):
            plugins.require_plugins({"piece": {"provides": [provides]}}, [NETWORKS, DEFENCES], "run.json")
