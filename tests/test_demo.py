import errno
import os
from pathlib import Path

import pytest

from unlearnable_kernels import demo
from unlearnable_kernels.errors import UserError


def test_demo_in_short(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(
        demo.SETTINGS, "digits", demo.SETTINGS["digits"] | {"epochs": 1, "limit_per_class": 20}
    )
    accuracies = demo.run_demo(tmp_path / "demo")
    assert list(accuracies) == ["clean", "protected"]
    shown = capsys.readouterr().out
    assert all(f"{accuracy:.1%}" in shown for accuracy in accuracies.values())
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png") >= 30  # clean, difference and protected for each of ten digits
    first_key = (tmp_path / "demo" / "my.key").read_text()
    demo.run_demo(tmp_path / "demo")
    assert (tmp_path / "demo" / "my.key").read_text() != first_key


def test_demo_leaves_other_folders_alone(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(UserError, match="something else than an earlier demo"):
        demo.run_demo(tmp_path)
    assert (tmp_path / "photo.jpg").read_bytes() == b"precious"


def test_only_what_the_demo_made_is_removed(tmp_path):
    out, elsewhere = tmp_path / "demo", tmp_path / "elsewhere"
    demo.start_anew(out)
    own = [out / "notes.txt", out / "runs" / "mine" / "run.json", out / "more" / "my.key", elsewhere / "x"]
    made = [out / name / "x" for name in ("digits", "protected", "protected.partial", "runs/clean")]
    made += [out / "my.key", out / "report.html"]
    for path in own + made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    (out / "runs" / "protected").symlink_to(elsewhere)
    demo.start_anew(out)
    assert all(path.read_text() == "precious" for path in own)
    assert {path.name for path in out.iterdir()} == {demo.MARK, "notes.txt", "runs", "more"}
    assert [path.name for path in (out / "runs").iterdir()] == ["mine"]


def test_demo_wants_a_folder_that_it_can_write(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("file", "link"):
        with pytest.raises(UserError, match=f"{name} is a link or a file"):
            demo.run_demo(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="link is a link or a file"):
        demo.run_demo(tmp_path / "link")
    with pytest.raises(UserError, match=r"cannot write .*file/demo: Not a directory"):
        demo.run_demo(tmp_path / "file" / "demo")
    assert (tmp_path / "file").read_text() == "precious"

    def refuse(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match=r"cannot write .*folder: Read-only file system"):
        demo.run_demo(tmp_path / "folder")
