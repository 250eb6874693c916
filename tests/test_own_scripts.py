"""What a script of somebody's own may do: protect with its own method, and in processes that it starts."""

import json
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import write_tree

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.pipeline.executors import local, process, script
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.registry import MAIN, Registry

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    write_tree(folder / "pets", ["cat", "dog"], 160, seed=0, side=8)
    return folder


SCRIPT = """
import multiprocessing
import sys
from pathlib import Path

import torch

sys.path.append(sys.argv[1])
from unlearnable_toy import METHODS, ClassShift, ToyShift, dataclass
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset


class OwnShift(ClassShift):
    pass


@METHODS.register("own-shift", "as toy-shift, but of a script")
@dataclass(frozen=True)
class Own(ToyShift):
    def perturbation(self, *arguments):
        return OwnShift(super().perturbation(*arguments).shifts)


def protect(name, workers):
    protect_dataset(Path("pets"), Path(name), secret=Key(bytes(32)), method="own-shift", workers=workers)


if __name__ == "__main__":
    torch.set_num_threads(2)
    torch.ones(1 << 20).sin()  # by threads that a copy of this process has not
    protect("by-2", 2)
    for how, workers in (("fork", 2), ("spawn", 0)):
        process = multiprocessing.get_context(how).Process(target=protect, args=(how, workers))
        process.start()
        process.join(60)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def test_a_script_protects_with_a_method_of_its_own(folder: Path) -> None:
    """By workers, and in processes that it starts itself."""
    (folder / "own.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "own.py", str(PLUGIN)], check=True, cwd=folder)
    whole = contents(folder / "by-2")
    assert len(whole) > 320
    assert contents(folder / "fork") == contents(folder / "spawn") == whole
    manifest = json.loads((folder / "by-2" / "manifest.json").read_text())
    assert manifest["plugins"]["own"]["provides"] == ["method own-shift"]
    assert len(manifest["plugins"]["own"]["sha256"]) == 64


class Typed:
    """Stands for a class of the main program."""


def test_what_was_typed_in_is_refused_for_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(Typed, "__module__", "__main__")
    monkeypatch.setattr(main, "Typed", Typed, raising=False)
    monkeypatch.setattr(script, "main_file", lambda: None)
    assert script.pickled([1]) == (pickle.dumps([1], 4), None)
    with pytest.raises(
        UserError, match="Typed was typed in, which worker processes cannot import: put it into"
    ):
        script.pickled([Typed()])
    monkeypatch.setattr(script, "main_file", lambda: tmp_path / "own.py")
    assert script.pickled([Typed()])[1] == str(tmp_path / "own.py")


GUARD = "put what it runs under `if __name__ == "
UNGUARDED = """
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unlearnable_kernels.protect.run import protect_dataset

def protect():
    protect_dataset(Path("a"), Path("b"), secret=None)

"""


@pytest.mark.parametrize("call", ["protect()", "ThreadPoolExecutor(1).submit(protect).result()"])
def test_a_script_without_a_guard_is_refused(
    call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a worker process imports it, which otherwise would start workers without end."""
    (tmp_path / "own.py").write_text(UNGUARDED + call)
    for name in MAIN:
        monkeypatch.setitem(sys.modules, name, sys.modules["__main__"])
    with pytest.raises(UserError, match=rf"own\.py defines what it protects with, so worker .*: {GUARD}"):
        script.import_script(str(tmp_path / "own.py"))
    assert script.imported_script() is None


def test_a_script_that_ends_when_it_is_imported_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('no photos')")
    for name in MAIN:
        monkeypatch.setitem(sys.modules, name, sys.modules["__main__"])
    with pytest.raises(UserError, match=r"cannot import the method or format \(SystemExit: no photos\)"):
        local._unpickled(b"", str(tmp_path / "own.py"), {})


def test_a_process_that_imports_the_script_of_another_does_not_protect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    monkeypatch.setattr(sys, "argv", ["own.py"])
    with pytest.raises(
        UserError, match=rf"own\.py protects when a process that it starts imports it: {GUARD}"
    ):
        process.check_process()


def test_a_daemon_starts_no_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(multiprocessing.current_process()), "daemon", True)
    protect_dataset(folder / "pets", folder / "daemon", secret=Key(bytes(32)))
    with pytest.raises(UserError, match=r"a daemon, .* cannot start worker processes: workers must be 0"):
        protect_dataset(folder / "pets", folder / "two", secret=Key(bytes(32)), workers=2)
    assert not (folder / "two.partial").exists()


def test_a_script_that_is_imported_again_registers_its_own_again() -> None:
    registry: Registry[object] = Registry("thing", "unlearnable_kernels.networks")
    registry._loaded = True
    for module in MAIN:
        scope = {"__name__": module, "registry": registry}
        exec("registry.register('own', 'a thing')(print)", scope)
    assert registry.origin("own") == MAIN[1]
