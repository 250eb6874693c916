"""What is recorded of the machine and the versions that made a result."""

import json
import os
import platform
import subprocess
from pathlib import Path

import fresh_process
import PIL
import pytest
import torch
import torchvision

from unlearnable_kernels import environment
from unlearnable_kernels.environment import commit, machine, usable_cores, versions


def test_machine_and_versions_are_plain_json() -> None:
    told = json.loads(json.dumps([machine(), versions()]))
    assert told[0]["cores"] >= 1
    assert told[0]["memory_gib"] > 0
    assert told[0]["cpu"]
    assert (told[0]["gpu"] is None) == (not torch.cuda.is_available())
    codecs = {"pillow", "opencv-python-headless", "simplejpeg", "isal"}
    assert set(told[1]) == {"python", "torch", "torchvision", "numpy", "unlearnable_kernels"} | codecs
    assert told[1]["torch"] == torch.__version__
    assert told[1]["torchvision"] == torchvision.__version__
    assert told[1]["pillow"] == PIL.__version__


def test_cores_are_those_that_the_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)


def test_a_missing_codec_is_recorded_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_CODECS", ("pillow", "no-such-codec"))
    assert versions()["no-such-codec"] == "not installed"
    assert versions()["pillow"] == PIL.__version__
    assert versions()["python"] == platform.python_version()


def test_torchvision_is_not_imported_for_its_version() -> None:
    program = (
        "import sys; from unlearnable_kernels import environment; environment.versions(); "
        "print([name for name in ('torchvision', 'PIL') if name in sys.modules])"
    )
    assert fresh_process.run(program).stdout == "[]\n"


def test_without_its_version_file_torchvisions_distribution_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    assert versions()["torchvision"] == "not installed"
    monkeypatch.setattr(environment, "find_spec", lambda name: json.__spec__)
    assert versions()["torchvision"] == torchvision.__version__.partition("+")[0]


def test_the_commit_is_that_of_this_repository_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*command: str) -> str:
        line = ["git", "-c", "user.name=x", "-c", "user.email=x", *command]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    (tmp_path / "environment.py").write_text("one")
    git("commit", "-q", "--allow-empty", "-m", "of somebody else, who has it installed in a folder of theirs")
    assert commit() is None
    git("add", ".")
    git("commit", "-q", "-m", "its own")
    assert commit() == git("rev-parse", "HEAD")
    (tmp_path / "environment.py").write_text("two")
    assert commit() == f"{git('rev-parse', 'HEAD')}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() is None
