"""macOS as far as Linux can tell: without what only Linux has, and without the compiled kernels."""

import json
import shutil
from pathlib import Path

import bare_python
import pytest
from small_runs import write_tree

from unlearnable_kernels.protect.keys import create_key_file
from unlearnable_kernels.protect.pipeline import staging
from unlearnable_kernels.protect.run import protect_dataset

MACOS = """
import builtins, ctypes, io, os, platform, sys, sysconfig
import torch, cv2, PIL.Image, simplejpeg, typer

sysconfig.get_config_vars()  # which begins with the name of the platform
sys.modules["unlearnable_kernels._C"] = sys.modules["unlearnable_kernels._C_cuda"] = None
sys.platform, platform.system = "darwin", lambda: "Darwin"
for name in ("sched_getaffinity", "memfd_create", "copy_file_range", "posix_fadvise", "splice", "eventfd"):
    delattr(os, name)

def without_linux_files(function):
    def call(path, *arguments, **named):
        if str(path).startswith(("/proc", "/sys", "/dev/shm")):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *arguments, **named)
    return call

builtins.open = io.open = without_linux_files(io.open)
os.open, os.stat, os.scandir = map(without_linux_files, (os.open, os.stat, os.scandir))
Library = ctypes.CDLL

class Libc:
    def __init__(self, name, **options):
        assert name is None
        self.linux = Library(None, **options)
    def renameatx_np(self, here, one, there, other, flags):
        assert (here, there, flags) == (-2, -2, 2)
        return self.linux.renameat2(-100, one, -100, other, 2)

ctypes.CDLL = Libc
from unlearnable_kernels.cli import main

for line in sys.argv[1].splitlines():
    sys.argv = ["unlearnable", *line.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, line
"""
COMMANDS = """info --json
check photos --on-error skip
protect photos set --key-file my.key --workers 0
protect more set --key-file my.key --workers 0 --extend
verify set --key-file my.key
protect photos array --key-file my.key --workers 0 --format npz --method spectral
verify array --key-file my.key"""


def test_from_protecting_to_verifying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tree(Path("photos"), ["ant", "bee"], 4, seed=0)
    shutil.copytree("photos", "more")
    shutil.copy("more/ant/0000.png", "more/bee/new.png")
    key = create_key_file(Path("my.key"))
    done = bare_python.run(MACOS, COMMANDS, WITHOUT="triton")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.partition("\n}\n")[0] + "\n}")
    assert told["cpu kernels"].startswith("reference")
    assert told["system"].startswith("Darwin")
    assert "ok: 9 files checked, key matches" in done.stdout
    # On Linux, by the compiled kernels.
    protect_dataset(Path("more"), tmp_path / "linux", secret=key, workers=0, dataset_name="photos")
    for path in Path("linux").glob("*/*.png"):
        assert path.read_bytes() == Path("set", *path.parts[-2:]).read_bytes(), path


def test_a_system_that_cannot_exchange_folders_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_EXCHANGES", ())
    with pytest.raises(OSError, match="this system cannot exchange two folders in one step"):
        staging._exchange(tmp_path, tmp_path)
