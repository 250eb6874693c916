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
from unlearnable_kernels.protect.keys import Key, Seed
from unlearnable_kernels.protect.methods.filters import INTENSITIES, SMALL
from unlearnable_kernels.protect.pipeline import chunk as render
from unlearnable_kernels.protect.pipeline import plan as plan_module
from unlearnable_kernels.protect.pipeline import staging
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.stages import finish_dataset, render_dataset
from unlearnable_kernels.protect.verify import verify_dataset

KEY = Key(bytes(range(32)))
# As a user would write it: nothing shields it from being run again in the workers.
PROGRAM = """
import sys, time
from pathlib import Path
from unlearnable_kernels.protect.pipeline import plan
from unlearnable_kernels.protect import run as run_module
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.filters import INTENSITIES, SMALL
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


NAMES = {"npz": "raw", "webdataset": "images"}


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
    plain, creating = os.open, guarded(os.open)

    def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
        return (creating if flags & os.O_CREAT else plain)(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", opened)
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
        step += 1 if format == "png" else 3  # what differs are the parts
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
    assert notes[1] == "resuming: 6 of 12 images are done"
    assert notes[2].startswith("protected 12 of 12 images")


DAMAGED = ["\0" * 64, '[5, ["ab", nul', "[" * 100_000, '{"a": 1}']


def records_of(dst: Path) -> list[Path]:
    return sorted((dst.with_name(dst.name + ".partial") / "records").iterdir())


def test_a_record_is_believed_only_as_far_as_the_files_go(tmp_path: Path) -> None:
    tree, dst = make_tree(tmp_path / "src", 12), tmp_path / "dst"
    whole = protect(tree, tmp_path / "whole")
    interrupted(tree, dst, 8)
    written = sorted((tmp_path / "dst.partial" / "tree").rglob("*.png"))
    written[0].write_bytes(b"")
    written[3].unlink()
    assert protect(tree, dst) == whole
    interrupted(tree, tmp_path / "dst2", 8)
    for record, text in zip(records_of(tmp_path / "dst2"), DAMAGED, strict=True):
        record.write_text(text)
    assert protect(tree, tmp_path / "dst2") == whole


def test_a_record_without_the_keys_signature_is_not_believed(tmp_path: Path) -> None:
    """Else whoever can write there publishes a set without its pictures, or with others."""
    tree, dst = make_tree(tmp_path / "src", 12), tmp_path / "dst"
    whole = protect(tree, tmp_path / "whole")
    interrupted(tree, dst, 8)
    for picture in (tmp_path / "dst.partial" / "tree").rglob("*.png"):
        picture.unlink()
    one, two, three, four = records_of(dst)
    found = [json.loads(path.read_bytes()) for path in (one, two, three)]
    skipped = {"0": "cannot be read", "1": "cannot be read"}
    one.write_text(json.dumps([found[0][0], [None, None], *found[0][2:]]))
    two.write_text(json.dumps([found[1][0], [None, None], skipped, found[1][3]]))
    three.write_text(json.dumps([found[2][0], [None, None], skipped, ""]))
    four.write_text("[3, [null, null], Infinity]")
    assert protect(tree, dst, on_error="skip") == whole


def test_a_record_of_another_run_is_not_believed(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "src", 12)
    whole = protect(tree, tmp_path / "whole", strength=0.2)
    for name, strength in (("dst", 0.3), ("dst2", 0.2)):
        interrupted(tree, tmp_path / name, 8, strength=strength)
    theirs = {json.loads(path.read_bytes())[0]: path for path in records_of(tmp_path / "dst")}
    for ours in records_of(tmp_path / "dst2"):
        theirs[json.loads(ours.read_bytes())[0]].replace(ours)
    (tmp_path / "dst2.partial" / "tree").rename(tmp_path / "old")
    (tmp_path / "dst.partial" / "tree").rename(tmp_path / "dst2.partial" / "tree")
    assert protect(tree, tmp_path / "dst2", strength=0.2) == whole


def test_what_another_finished_meanwhile_is_refused_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, other, dst = make_tree(tmp_path / "src", 2), make_tree(tmp_path / "other", 3), tmp_path / "dst"
    protect(other, tmp_path / "theirs")
    looks, is_complete = iter([False, True]), run_module._is_complete

    def looking(ready: run_module.Ready) -> bool:
        if next(looks):
            (tmp_path / "theirs").rename(dst)
        return is_complete(ready)

    monkeypatch.setattr(run_module, "_is_complete", looking)
    with pytest.raises(UserError, match="dst holds"):
        protect(tree, dst)
    assert not (tmp_path / "dst.partial").exists()


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_stands_in_the_staging_folders_place_is_said(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    tree = make_tree(tmp_path / "src", 2)
    make(tmp_path / "dst.partial")
    with pytest.raises(
        UserError, match=r"dst\.partial is (not a folder|a symbolic link.*); delete it, or choose"
    ):
        protect(tree, tmp_path / "dst")


@pytest.mark.parametrize("planted", ["tree", "work", "tree/train", "plan.jsonl", "records", "."])
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
    "text",
    ["[" * 100_000, "[]", "3", '{"digest": Infinity}', '{"digest": "", "header": 3}', "\0", "cut", "forged"],
)
def test_a_damaged_plan_is_one_line(tree: Path, tmp_path: Path, text: str) -> None:
    interrupted(tree, tmp_path / "dst", 2)
    path = tmp_path / "dst.partial" / "plan.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    damaged = {"cut": "".join(lines[:-1]), "forged": "".join(lines).replace("c0/000", "c0/999")}
    path.write_text(damaged.get(text, text))
    with pytest.raises(UserError, match=r"plan\.jsonl is damaged; delete .* to start over$"):
        protect(tree, tmp_path / "dst")


def test_an_unfinished_run_of_another_plan_is_refused(tmp_path: Path) -> None:
    tree, dst = make_tree(tmp_path / "src", 8), tmp_path / "dst"
    interrupted(tree, dst, 4)
    before = contents(tmp_path / "dst.partial")
    with pytest.raises(UserError, match=r"differs in strength \(0.3, now 0.2\).*delete the folder"):
        protect(tree, dst, strength=0.2)
    with pytest.raises(UserError, match="differs in the key"):
        protect(tree, dst, secret=Key(bytes(32)))
    assert contents(tmp_path / "dst.partial") == before
    assert protect(tree, dst) == protect(tree, tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:an integer seed")
def test_how_an_unfinished_run_is_finished_can_be_run_as_it_stands(tmp_path: Path) -> None:
    tree, dst = make_tree(tmp_path / "src", 8), tmp_path / "d t"
    interrupted(tree, dst, 4)
    with pytest.raises(UserError) as error:
        protect(tree, dst, strength=0.2)
    assert f"`unlearnable finish '{dst}' --key-file KEY`, which go by its plan, to finish" in str(error.value)
    with pytest.raises(UserError, match="plan and take its own key, to finish it"):
        protect(tree, dst, secret=Key(bytes(32)))
    shutil.rmtree(tmp_path / "d t.partial")
    interrupted(tree, dst, 4, secret=Seed(1))
    with pytest.raises(UserError, match=r"`unlearnable render '.*/d t' --seed-compat SEED`"):
        protect(tree, dst)


def test_what_another_version_meant_is_finished_by_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mild was another strength once, and not centred."""
    tree, dst, mild = make_tree(tmp_path / "src", 4), tmp_path / "dst", {"intensity": "mild"}
    with monkeypatch.context() as patch:
        patch.setitem(INTENSITIES[SMALL], "mild", (3, 0.1))
        whole = protect(tree, tmp_path / "whole", centred=False, **mild)
        interrupted(tree, dst, 2, centred=False, **mild)
    with pytest.raises(UserError, match=r"differs in strength \(0.1, now 0.3\), centred") as error:
        protect(tree, dst, **mild)
    what = f"{dst} --key-file KEY"
    assert f"or `unlearnable render {what}` and `unlearnable finish {what}`, which go by" in str(error.value)
    render_dataset(dst, secret=KEY, executor=Executor(workers=0))
    finish_dataset(dst, secret=KEY)
    assert contents(dst) == whole


def rendered_pictures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is rendered from now on."""
    names: list[str] = []
    original = render.Rendering.render

    def noting(self: render.Rendering, chunk: render.Chunk) -> render.Result:
        names.extend(sample.name for sample in chunk.samples)
        return original(self, chunk)

    monkeypatch.setattr(render.Rendering, "render", noting)
    return names


def change(tree: Path, how: str) -> None:
    """Change a tree that ``make_tree`` made: 000, 002 and so on in c0, the others in c1."""
    picture = tree / "train" / "c0" / "002.png"
    if how == "gone":
        picture.unlink()
    elif how == "mended":
        Image.new("RGB", (9, 7)).save(picture)
    elif how == "new":
        shutil.copy(picture, picture.with_name("001.png"))
    else:
        (tree / "train" / "b0").mkdir()
        shutil.copy(picture, tree / "train" / "b0" / "x.png")


@pytest.mark.parametrize(
    ("how", "told", "again"),
    [
        ("gone", "c0/002.png is gone; what is done of 6 pictures is kept", ["c0/000.png"]),
        ("mended", "c0/002.png is changed; what", ["c0/000.png", "c0/002.png"]),
        ("new", "c0/001.png is new; what", ["c0/000.png", "c0/001.png", "c0/002.png"]),
        ("class", "b0/x.png is new; what is done of 8 pictures is kept", ["b0/x.png"]),
    ],
)
def test_a_changed_source_costs_what_has_changed(
    tmp_path: Path, how: str, told: str, again: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, dst = make_tree(tmp_path / "src", 8), tmp_path / "dst"
    interrupted(tree, dst, 8)
    change(tree, how)
    rendered, notes = rendered_pictures(monkeypatch), list[str]()
    after = protect(tree, dst, notify=notes.append)
    assert rendered == again
    assert any(note.startswith(f"changed since this was begun: {told}") for note in notes)
    assert after == protect(tree, tmp_path / "whole")
    assert verify_dataset(dst, KEY).ok


def test_a_copied_source_resumes_whatever_its_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, dst = make_tree(tmp_path / "src", 8), tmp_path / "dst"
    interrupted(tree, dst, 4)
    copied = shutil.copytree(tree, tmp_path / "other" / "src", copy_function=shutil.copyfile)
    for number, picture in enumerate(copied.rglob("*.png")):
        os.utime(picture, ns=(number, number))
    rendered, notes = rendered_pictures(monkeypatch), list[str]()
    after = protect(copied, dst, notify=notes.append)
    assert rendered == [f"c1/{number:03}.png" for number in (1, 3, 5, 7)]
    assert notes[1].startswith("pictures have other times of change than when this was begun")
    assert notes[2] == "resuming: 4 of 8 images are done"
    assert after == protect(tree, tmp_path / "whole")


def test_what_was_replaced_by_its_size_is_rendered_again_with_rehash(tmp_path: Path) -> None:
    tree, dst = make_tree(tmp_path / "src", 8), tmp_path / "dst"
    picture = tree / "train" / "c0" / "000.bmp"
    Image.new("RGB", (9, 7), "white").save(picture)
    interrupted(tree, dst, 8)
    Image.new("RGB", (9, 7), "black").save(picture)
    os.utime(picture, ns=(1, 1))
    assert protect(tree, dst, rehash=True) == protect(tree, tmp_path / "whole")


def test_what_was_skipped_and_is_mended_comes_in(tmp_path: Path) -> None:
    tree, dst = make_tree(tmp_path / "src", 8), tmp_path / "dst"
    bad = tree / "train" / "c0" / "002.png"
    good = bad.read_bytes()
    bad.write_bytes(bytes(len(good)))
    interrupted(tree, dst, 8, on_error="skip")
    bad.write_bytes(good)
    assert protect(tree, dst, on_error="skip") == protect(tree, tmp_path / "whole")


@pytest.mark.parametrize("format", ["png", "npz", "webdataset"])
def test_resuming_looks_at_sizes_and_with_rehash_at_bytes(tmp_path: Path, format: str) -> None:
    tree, dst = make_tree(tmp_path / "src", 8), tmp_path / "dst"
    whole = protect(tree, tmp_path / "whole", format=format)
    for rehash in (False, True):
        interrupted(tree, dst, 4, format=format)
        part = "tree/train/c0/000.png" if format == "png" else "parts/00000000." + NAMES[format]
        path = tmp_path / "dst.partial" / part
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        if rehash:
            assert protect(tree, dst, format=format, rehash=True) == whole
        elif format == "png":
            protect(tree, dst, format=format)
            assert verify_dataset(dst, KEY).changed == ["train/c0/000.png"]
            shutil.rmtree(dst)
        else:
            with pytest.raises(UserError, match=r"has changed since it was written; .* with --rehash"):
                protect(tree, dst, format=format)
            assert protect(tree, dst, format=format, rehash=True) == whole
            shutil.rmtree(dst)


def test_a_bad_picture_is_no_dead_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, dst = make_tree(tmp_path / "src", 8), tmp_path / "dst"
    bad = tree / "train" / "c1" / "003.png"
    good = bad.read_bytes()
    bad.write_bytes(b"no picture")
    for _ in range(2):  # the same command says the same
        with pytest.raises(UserError, match=r"c1/003\.png"):
            protect(tree, dst)
    bad.write_bytes(good)
    rendered = rendered_pictures(monkeypatch)
    whole = protect(tree, dst)
    assert rendered == [f"c1/{number:03}.png" for number in (1, 3, 5, 7)]
    assert whole == protect(tree, tmp_path / "whole")


def test_a_method_that_looks_at_all_pictures_begins_anew_when_one_changes(tmp_path: Path) -> None:
    tree, dst = make_tree(tmp_path / "src", 6), tmp_path / "dst"
    how: dict[str, Any] = {"filters": "irp", "kernel_size": 3}
    interrupted(tree, dst, 4, **how)
    (tmp_path / "dst.partial" / "work" / "images").write_bytes(b"of all pictures")
    (tree / "train" / "c1" / "001.png").unlink()
    notes: list[str] = []
    interrupted(tree, dst, 4, notify=notes.append, **how)
    assert "what is done of 0 pictures is kept" in notes[1]
    assert not any((tmp_path / "dst.partial" / "work").iterdir())
    assert protect(tree, dst, **how) == protect(tree, tmp_path / "whole", **how)


def test_what_stopped_before_it_wrote_anything_leaves_nothing(tmp_path: Path) -> None:
    tree, dst = make_tree(tmp_path / "src", 4), tmp_path / "new" / "deep" / "dst"
    (tree / "train" / "c0" / "002.png").write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(UserError, match=r"c0/002\.png"):
            protect(tree, dst)
        assert not (tmp_path / "new").exists()


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


def test_only_a_tree_that_can_grow_is_said_to(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(name: str, **options: Any) -> str:
        protect(tree, tmp_path / name, **options)
        with pytest.raises(UserError) as error:
            protect(tree, tmp_path / name, **options, fraction=0.5)
        return str(error.value)

    assert "; add new pictures with --extend, or choose another name, and give" in refusal("tree")
    assert "; choose another name, and give" in refusal("npz", format="npz")
    monkeypatch.setattr(run_module, "scheme_at", lambda dst: 1)
    assert "; choose another name, and give" in refusal("by_place")


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


def test_what_another_version_left_is_named_with_a_remedy(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "dst.partial" / "arrays").mkdir(parents=True)
    with pytest.raises(UserError, match=r"dst\.partial is needed for dst, but holds 'arrays'; delete it if"):
        protect(tree, tmp_path / "dst")
