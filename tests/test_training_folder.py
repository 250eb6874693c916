"""A run folder: what it refuses, what damage it names, and what cannot be written."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError
from small_runs import (
    config_for,
    data,
    finished,
    one_thread,
    stop_after,
    write_tree,
)

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.report import write_report
from unlearnable_kernels.training import (
    checkpoint,
    engine,
    evaluate,
    loop,
    train,
)
from unlearnable_kernels.training.run_folder import CHECKPOINT, CONFIG, EVALUATIONS, METRICS, RECORD

__all__ = ["data", "finished", "one_thread"]  # fixtures


def test_a_finished_run_is_left_alone(data: Path, finished: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    record = train(config_for(data), finished)
    assert record == json.loads((finished / RECORD).read_text())
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_another_configuration_is_refused_by_its_first_difference(data: Path, finished: Path) -> None:
    with pytest.raises(UserError, match=r"run with epochs 4, not 5"):
        train(config_for(data, epochs=5, seed=9), finished)


def test_a_folder_with_something_else_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"something else \(thesis.tex\)"):
        train(config_for(data), tmp_path)
    with pytest.raises(UserError, match="is a file"):
        train(config_for(data), tmp_path / "thesis.tex")


def test_changed_data_end_a_run(tmp_path: Path) -> None:
    write_tree(tmp_path / "set" / "train", ["a", "b"], 4, seed=0)
    config = config_for(tmp_path / "set", test=None, epochs=2)

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", stop_after(1, tmp_path / "run"))
    changed = tmp_path / "set" / "train" / "a" / "0000.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(changed)
    with pytest.raises(UserError, match="train set has changed"):
        train(config, tmp_path / "run")


def test_evaluate_refuses_what_is_no_run(data: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run folder: it has no config\.json"):
        evaluate(tmp_path, data)
    for name in ("config.json", "run.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(UserError, match="no finished epoch"):
        evaluate(tmp_path, data)
    (tmp_path / CHECKPOINT).write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(UserError, match="damaged or belongs to another network"):
        evaluate(tmp_path, data)


def test_a_run_keeps_clear_of_the_data(data: Path, tmp_path: Path) -> None:
    test = write_tree(tmp_path / "test", ["cat", "dog"], 1, seed=0)
    (tmp_path / "link").symlink_to(data / "train")
    config = config_for(data, test=str(test))
    for out in (data, data / "run", tmp_path / "link" / "run", test / "cat" / "run", tmp_path):
        with pytest.raises(UserError, match=r"must lie outside the dataset .*, and not around it"):
            train(config, out)
    assert [path.name for path in sorted(data.iterdir())] == ["test", "train"]
    assert not list(data.rglob("run")) + list(test.rglob("run"))


@pytest.mark.parametrize("moment", ["first", "metrics", "checkpoint", "end"])
def test_a_run_that_cannot_be_written_can_be_resumed(
    data: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = config_for(data, epochs=1)
    obstacle = {"first": run, "metrics": run / METRICS, "checkpoint": run / CHECKPOINT, "end": run / RECORD}
    blocked = obstacle[moment]

    def block(*state: Any) -> Any:
        """Put a folder where the file shall be: no write gets past it, not even root's."""
        blocked.unlink(missing_ok=True)
        blocked.mkdir()
        return original(*state)

    if moment == "first":
        run.write_text("")
        run = blocked = run / "within"
        with pytest.raises(UserError, match=rf"^cannot write {run}: Not a directory; run the same command"):
            train(config, run)
        return
    with monkeypatch.context() as patch:
        place, point = (loop, "save_checkpoint") if moment == "end" else (engine.Engine, "train_epoch")
        original = getattr(place, point)
        patch.setattr(place, point, block)
        with pytest.raises(
            UserError, match=rf"^cannot write {blocked}: .*; run the same command again to re"
        ):
            train(config, run)
    blocked.rmdir()
    assert train(config, run)["status"] == "finished"
    assert not list(run.glob(".*"))


def test_safetensors_own_error_is_a_write_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    path = tmp_path / "run" / CHECKPOINT
    with pytest.raises(UserError, match=rf"^cannot write {path}: I/O error: No space left.*; run the same"):
        train(config_for(data, epochs=1), tmp_path / "run")


def test_an_evaluation_that_cannot_be_written(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=rf"^cannot write {run / EVALUATIONS}: disk full$"):
        evaluate(run, data)


def edited(path: Path, **changes: Any) -> str:
    """The file's JSON with these fields, and without those that are ... here."""
    value = json.loads(path.read_text()) | changes
    return json.dumps({name: entry for name, entry in value.items() if entry is not ...})


@pytest.mark.parametrize("name", [CONFIG, RECORD, METRICS, EVALUATIONS])
def test_damaged_run_folders_are_named(data: Path, finished: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    path = run / name
    lines = name.endswith(".jsonl")
    contents = ["junk\n", "[]\n", "{}\n", "\xff\n", '"x"\n']
    if name == CONFIG:
        contents += [edited(path, seed=...), edited(path, lr=None), edited(path, epochs="4")]
    if name == RECORD:
        contents += [edited(path, classes=[]), edited(path, classes=[1]), edited(path, final=None)]
        contents += [edited(path, train={}), edited(path, test={}), edited(path, machine={"cpu": "x"})]
    if name == METRICS:
        contents += ["", *(line + "\n" for line in path.read_text().splitlines()[1:])]
    for content in contents:
        path.write_text(content, encoding="latin-1")
        told = rf"{path}(, line 1)? is damaged"
        if content or not lines:
            with pytest.raises(UserError, match=told):
                write_report([run], tmp_path / "r.html")
        if name in (CONFIG, RECORD, EVALUATIONS):
            with pytest.raises(UserError, match=told):
                evaluate(run, data)
        if name == RECORD:
            with pytest.raises(UserError, match=told):
                train(config_for(data), run)
        if name == METRICS:
            (run / RECORD).write_text(edited(finished / RECORD, status="unfinished"))
            with pytest.raises(UserError, match=told):
                train(config_for(data), run)
            shutil.copy(finished / RECORD, run)
    assert not (tmp_path / "r.html").exists()


def test_a_torn_last_line_is_no_damage(data: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    for name in (METRICS, EVALUATIONS):
        with (run / name).open("a") as file:
            file.write('{"epoch": 5, "tra')
    write_report([run], tmp_path / "r.html")
    line = evaluate(run, data)
    assert json.loads((run / EVALUATIONS).read_text().splitlines()[-1]) == line


def test_a_damaged_configuration_stops_training(data: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    for content in ("{", "[]"):
        (run / CONFIG).write_text(content)
        with pytest.raises(UserError, match=rf"{run / CONFIG} is damaged"):
            train(config_for(data), run)


def test_a_run_of_another_version_says_so(data: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / CONFIG).write_text(edited(run / CONFIG, protocol="erm", defences=...))
    message = rf"^{run / CONFIG} was written by another version: it has 'protocol'; train again"
    with pytest.raises(UserError, match=message):
        evaluate(run, data)
    with pytest.raises(UserError, match=message):
        train(config_for(data), run)
