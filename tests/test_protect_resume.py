"""Killed, interrupted, out of disk, run twice: the bytes of an uninterrupted run, or one clear line."""

import contextlib
import errno
import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect import run as run_module
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.pipeline import chunk as render
from unlearnable_kernels.protect.pipeline import plan as plan_module
from unlearnable_kernels.protect.pipeline import staging
from unlearnable_kernels.protect.pipeline.executors.local import execute
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.verify import verify_dataset

KEY = Key(bytes(range(32)))
# As a user would write it: nothing shields it from being run again in the workers.
PROGRAM = """
import sys, time
from pathlib import Path
from unlearnable_kernels.protect.pipeline import plan
from unlearnable_kernels.protect import run as run_module
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset

plan.CHUNK_IMAGES = 2
src, dst, pause, format = sys.argv[1:]

def progress(what, done, total):
    print(done, flush=True)
    time.sleep(float(pause))

protect_dataset(src, dst, secret=Key(bytes(range(32))), format=format, workers=2, progress=progress)
"""


def command(folder: Path, tree: Path, pause: float, format: str, before: str = "") -> list[str]:
    script = folder / "program.py"
    script.write_text(before + PROGRAM)
    return [sys.executable, str(script), str(tree), str(folder / "dst"), str(pause), format]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "CHUNK_IMAGES", 2)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "src", 4)


def make_tree(root: Path, count: int) -> Path:
    for number in range(count):
        folder = root / "train" / f"c{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    (root / "val" / "c0" / "x").mkdir(parents=True)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def protect(src: Path, dst: Path, **options: Any) -> dict[str, bytes]:
    protect_dataset(src, dst, **{"secret": KEY, "workers": 0, **options})
    assert not dst.with_name(dst.name + ".partial").exists()
    return contents(dst)


class Killed(BaseException):
    """Nothing may catch it, as nothing catches a kill."""


def kill_before(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Make the ``step``-th call that changes the disk raise; the result tells whether it came to that."""
    calls = 0

    def guarded(function: Callable[..., Any], half: bool = False) -> Callable[..., Any]:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                if half:
                    function(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise Killed
            return function(*args, **kwargs)

        return replacement

    # A write is cut off in the middle.
    monkeypatch.setattr(os, "write", guarded(os.write, half=True))
    monkeypatch.setattr(os, "open", guarded(os.open))
    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "write_bytes"):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))
    return lambda: calls >= step


@pytest.mark.parametrize("format", ["png", "npz"])
def test_a_kill_at_any_step_leaves_no_trace(
    tree: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = protect(tree, tmp_path / "whole", format=format)
    step, killed = 0, True
    while killed:
        step += 1
        dst = tmp_path / f"dst{step}"
        with monkeypatch.context() as patch:
            was_killed = kill_before(step, patch)
            with contextlib.suppress(Killed):
                protect_dataset(tree, dst, secret=KEY, workers=0, format=format)
            killed = was_killed()
        if dst.exists():
            assert contents(dst) == whole, step
        assert protect(tree, dst, format=format) == whole, step
    assert step > 25


@pytest.mark.parametrize(("format", "kills"), [("png", 2)])
def test_sigkill_and_run_again(tmp_path: Path, format: str, kills: int) -> None:
    tree, dst = make_tree(tmp_path / "src", 40), tmp_path / "dst"
    whole = protect(tree, tmp_path / "whole", format=format)
    arguments = command(tmp_path, tree, 0.01, format)
    done = 0
    for attempt in range(kills):
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        assert int(process.stdout.readline()) >= done
        for _ in range(random.randint(1, 6)):
            done = int(process.stdout.readline())
        time.sleep(random.random() / 50)
        if attempt == 0:
            process.kill()
            wait_for_orphans(dst)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not dst.exists()
    assert protect(tree, dst, format=format) == whole


def wait_for_orphans(dst: Path) -> None:
    """Workers hold the lock as long as they live, which is not long without their parent."""
    deadline = time.monotonic() + 20
    with (dst.with_name(dst.name + ".partial") / "lock").open() as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                assert time.monotonic() < deadline, "a worker outlives its parent"
                time.sleep(0.01)


def interrupted(tree: Path, dst: Path, after: int, **options: Any) -> None:
    """A run that ends after so many images."""

    def progress(what: str, done: int, total: int) -> None:
        if done >= after:
            raise Killed

    with pytest.raises(Killed):
        protect_dataset(tree, dst, **{"secret": KEY, "workers": 0, "progress": progress, **options})


def test_finished_chunks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, dst = make_tree(tmp_path / "src", 12), tmp_path / "dst"
    whole = protect(tree, tmp_path / "whole")
    interrupted(tree, dst, 6)
    rendered: list[int] = []
    original = render.Rendering.render

    def counting(self: render.Rendering, chunk: render.Chunk) -> render.Result:
        rendered.append(chunk.index)
        return original(self, chunk)

    monkeypatch.setattr(render.Rendering, "render", counting)
    notes: list[str] = []
    assert protect(tree, dst, notify=notes.append) == whole
    assert rendered == [3, 4, 5]
    assert notes[1:] == ["resuming: 6 of 12 images are done", "protected 12 of 12 images"]


def test_a_journal_is_believed_only_as_far_as_the_files_go(tmp_path: Path) -> None:
    tree, dst = make_tree(tmp_path / "src", 12), tmp_path / "dst"
    whole = protect(tree, tmp_path / "whole")
    interrupted(tree, dst, 8)
    partial = tmp_path / "dst.partial"
    written = sorted((partial / "tree").rglob("*.png"))
    written[0].write_bytes(b"")
    written[3].unlink()
    journal = partial / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'[5, ["ab", nul')
    assert protect(tree, dst) == whole
    interrupted(tree, tmp_path / "dst2", 8)
    (tmp_path / "dst2.partial" / "journal.jsonl").write_bytes(b"\0" * 64 + b'\n[99, [], {}]\n{"a": 1}\n[1]\n')
    assert protect(tree, tmp_path / "dst2") == whole


def test_a_journal_without_the_keys_signature_is_not_believed(tmp_path: Path) -> None:
    """Else whoever can write there publishes a set without its pictures, or with others."""
    tree, dst = make_tree(tmp_path / "src", 12), tmp_path / "dst"
    whole = protect(tree, tmp_path / "whole")
    interrupted(tree, dst, 8)
    journal = tmp_path / "dst.partial" / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
    for picture in (tmp_path / "dst.partial" / "tree").rglob("*.png"):
        picture.unlink()
    lines[0][1] = [None, None]
    lines[1][1:3] = [None, None], {"0": "cannot be read", "1": "cannot be read"}
    lines[2] = [2, [None, None], {}, ""]
    text = "\n".join(map(json.dumps, lines)) + "\n[3, [null, null], Infinity]\n" + "[" * 100_000 + "\n"
    journal.write_text(text)
    assert protect(tree, dst, on_error="skip") == whole


def test_a_line_of_another_run_is_not_believed(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "src", 12)
    whole = protect(tree, tmp_path / "whole", strength=0.2)
    for name, strength in (("dst", 0.3), ("dst2", 0.2)):
        interrupted(tree, tmp_path / name, 8, strength=strength)
    for part in ("journal.jsonl", "tree"):
        place = tmp_path / "dst2.partial" / part
        place.rename(tmp_path / f"old-{part}")
        (tmp_path / "dst.partial" / part).rename(place)
    assert protect(tree, tmp_path / "dst2", strength=0.2) == whole


@pytest.mark.parametrize("planted", ["tree", "work", "tree/train", "journal.jsonl", "."])
def test_links_in_the_staging_folder_are_not_followed(tmp_path: Path, planted: str) -> None:
    tree, dst, other = make_tree(tmp_path / "src", 4), tmp_path / "dst", tmp_path / "other"
    other.mkdir()
    link = tmp_path / "dst.partial" / planted
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(other)
    with pytest.raises(UserError, match="is a symbolic link"):
        protect(tree, dst)
    assert not list(other.iterdir())
    assert not dst.exists()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "3", '{"digest": Infinity}', '{"digest": "", "header": 3}', "\0"]
)
def test_a_damaged_plan_is_one_line(tree: Path, tmp_path: Path, text: str) -> None:
    interrupted(tree, tmp_path / "dst", 2)
    (tmp_path / "dst.partial" / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan\.json is damaged; delete .* to start over$"):
        protect(tree, tmp_path / "dst")


def test_an_unfinished_run_of_another_plan_is_refused(tmp_path: Path) -> None:
    tree, dst = make_tree(tmp_path / "src", 8), tmp_path / "dst"
    interrupted(tree, dst, 4)
    before = contents(tmp_path / "dst.partial")
    with pytest.raises(UserError, match=r"differs in strength \(0.3, now 0.2\).*delete the folder"):
        protect(tree, dst, strength=0.2)
    with pytest.raises(UserError, match="differs in the key"):
        protect(tree, dst, secret=Key(bytes(32)))
    image = next((tree / "train" / "c0").iterdir())
    stamp = image.stat().st_mtime_ns
    os.utime(image, ns=(stamp, stamp + 1))
    with pytest.raises(UserError, match="differs in the source's files"):
        protect(tree, dst)
    os.utime(image, ns=(stamp, stamp))
    assert contents(tmp_path / "dst.partial") == before
    assert protect(tree, dst) == protect(tree, tmp_path / "whole")


def test_a_class_keeps_its_filter_when_others_come(tmp_path: Path) -> None:
    before = protect(make_tree(tmp_path / "src", 8), tmp_path / "v1")
    added = tmp_path / "src" / "train" / "b0"
    shutil.copytree(tmp_path / "src" / "train" / "c1", added)
    after = protect(tmp_path / "src", tmp_path / "v2")
    assert all(after[name] == data for name, data in before.items() if name != "manifest.json")
    assert len(after) == len(before) + 4


def test_a_set_whose_filters_go_by_place_is_finished_as_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "src", 8)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "scheme_at", lambda dst: 1)
        old = protect(tree, tmp_path / "old")
        interrupted(tree, tmp_path / "dst", 4)
    assert b"scheme" not in old["manifest.json"]
    assert protect(tree, tmp_path / "dst") == old
    assert protect(tree, tmp_path / "old") == old
    assert verify_dataset(tmp_path / "old", KEY).ok
    new = protect(tree, tmp_path / "new")
    assert json.loads(new["manifest.json"])["scheme"] == 2
    assert all(new[name] != data for name, data in old.items())


def test_a_complete_result_stays_as_it_is(tree: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    before = protect(tree, dst)
    stamps = {path: path.stat().st_mtime_ns for path in dst.rglob("*")}
    notes: list[str] = []
    assert protect(tree, dst, notify=notes.append) == before
    assert notes[1:] == [f"{dst} is complete already"]
    assert {path: path.stat().st_mtime_ns for path in dst.rglob("*")} == stamps
    with pytest.raises(UserError, match=r"differs in fraction \(1.0, now 0.5\)"):
        protect(tree, dst, fraction=0.5)
    with pytest.raises(UserError, match="differs in the key"):
        protect(tree, dst, secret=Key(bytes(32)))
    assert contents(dst) == before


def test_what_was_damaged_since_is_not_called_complete(tree: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    protect(tree, dst)
    images = sorted(dst.rglob("*.png"))
    whole = images[0].read_bytes()
    images[0].write_bytes(b"")
    name = images[0].relative_to(dst).as_posix()
    with pytest.raises(UserError, match=f"{name} has changed; delete the folder"):
        protect(tree, dst)
    images[0].unlink()
    with pytest.raises(UserError, match=f"{name} is missing; delete the folder"):
        protect(tree, dst)
    images[0].write_bytes(whole)
    manifest = dst / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"protected": true', '"protected": false', 1))
    with pytest.raises(UserError, match=r"manifest\.json has changed; delete the folder"):
        protect(tree, dst)


@pytest.mark.filterwarnings("ignore:an integer seed")
def test_a_complete_result_of_another_seed_is_not_taken_for_this_one(tree: Path, tmp_path: Path) -> None:
    from unlearnable_kernels.protect.keys import Seed

    protect(tree, tmp_path / "dst", secret=Seed(1))
    protect(tree, tmp_path / "dst", secret=Seed(1))
    with pytest.raises(UserError, match="differs in the key"):
        protect(tree, tmp_path / "dst", secret=Seed(2))


def test_one_run_at_a_time(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LOCK_WAIT", 0.1)
    with (
        staging.Staging(tmp_path / "dst", KEY),
        pytest.raises(UserError, match="another process is working"),
    ):
        protect(tree, tmp_path / "dst")
    monkeypatch.setattr(staging, "LOCK_WAIT", 30)
    # Who waits for a run that then ends well finds its result.
    notes: list[str] = []
    with staging.Staging(tmp_path / "dst", KEY) as holder:
        waiting = threading.Thread(
            target=protect_dataset,
            args=(tree, tmp_path / "dst"),
            kwargs={"secret": KEY, "workers": 0, "notify": notes.append},
        )
        waiting.start()
        protect(tree, tmp_path / "other")
        (tmp_path / "other").rename(tmp_path / "dst")
        holder.remove()
    waiting.join()
    assert notes[1:] == [f"{tmp_path / 'dst'} is complete already"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_no_loss(
    tree: Path, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    written = 0

    def failing(descriptor: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 700:
            raise OSError(code, os.strerror(code))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing)
        with pytest.raises(
            UserError, match=r"^cannot write .*: disk full; run the same command again"
        ) as caught:
            protect(tree, tmp_path / "dst")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "dst").exists()
    assert protect(tree, tmp_path / "dst") == protect(tree, tmp_path / "whole")


def test_workers_report_a_full_disk(tmp_path: Path) -> None:
    """With a limit on the size of files, which the kernel enforces in every process."""
    tree = make_tree(tmp_path / "src", 8)
    lowered = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150, -1))"
    arguments = command(tmp_path, tree, 0, "png", before=lowered)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == limit
    assert re.search(r"WriteError: cannot write .*: disk full; run the same", result.stderr)
    assert not (tmp_path / "dst").exists()


def test_a_folder_that_cannot_be_written_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot write /proc/nowhere.partial: \w"):
        protect(tree, Path("/proc/nowhere"))


def test_ctrl_c_says_how_to_go_on(tree: Path, tmp_path: Path) -> None:
    def progress(what: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    for workers in (0, 2):
        notes: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            protect_dataset(
                tree,
                tmp_path / "dst",
                secret=KEY,
                workers=workers,
                progress=progress,
                notify=notes.append,
            )
        assert notes[-1] == "interrupted; run the same command again to resume"
    assert not (tmp_path / "dst").exists()
    assert protect(tree, tmp_path / "dst") == protect(tree, tmp_path / "whole")


def render_with(rendering: object, lock: Path) -> list[Any]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        return list(execute(rendering, [0], 1, descriptor))  # type: ignore[arg-type,list-item]
    finally:
        os.close(descriptor)


class _Suicide:
    def render(self, chunk: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class _OpenFiles:
    def render(self, chunk: object) -> list[str]:
        return [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]


def test_workers_hold_the_lock_and_their_death_is_reported(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert str(lock) in render_with(_OpenFiles(), lock)[0]
    with pytest.raises(UserError, match="a worker process died"):
        render_with(_Suicide(), lock)


def test_what_another_version_left_is_named_with_a_remedy(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "dst.partial" / "arrays").mkdir(parents=True)
    with pytest.raises(UserError, match=r"dst\.partial is needed for dst, but holds 'arrays'; delete it if"):
        protect(tree, tmp_path / "dst")
