"""Planned by one, rendered by many that share nothing but folders, finished by one: protect's bytes."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import typer
from test_protect_resume import KEY, contents, interrupted, make_tree

from unlearnable_kernels import cli
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.pipeline import plan as plan_module
from unlearnable_kernels.protect.pipeline import probe, staging
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.pipeline.plan import Options
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.stages import finish_dataset, plan_dataset, rank_from, render_dataset
from unlearnable_kernels.protect.verify import verify_dataset

HERE = Executor(workers=0)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "CHUNK_IMAGES", 2)
    monkeypatch.setattr(staging, "LOCK_WAIT", 0.1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "src", 12)


def protect(src: Path, dst: Path, **options: Any) -> dict[str, bytes]:
    protect_dataset(src, dst, **{"secret": KEY, "workers": 0, **options})
    return contents(dst)


def plan(src: Path, dst: Path, method: str = "classwise-conv", format: str | None = None, **more: Any) -> int:
    options = Options(METHODS.create(method), format=format)
    return plan_dataset(src, dst, options, **{"secret": KEY, **more})


def render(dst: Path, rank: int = 0, world: int = 1, **more: Any) -> int:
    return render_dataset(dst, rank=rank, world=world, **{"secret": KEY, "executor": HERE, **more})


@pytest.mark.parametrize(
    ("method", "format"),
    [
        ("classwise-conv", "png"),
        ("classwise-conv:filters=irp,kernel_size=3", "npz"),
        ("random-noise", "webp"),
    ],
)
def test_any_number_of_ranks_makes_the_bytes_of_protect(
    tree: Path, tmp_path: Path, method: str, format: str
) -> None:
    whole = protect(tree, tmp_path / "whole", method=METHODS.create(method), format=format)
    for world in (1, 4):
        dst = tmp_path / f"by{world}"
        assert plan(tree, dst, method, format) == 6
        assert sum(render(dst, rank, world) for rank in reversed(range(world))) == 6
        finish_dataset(dst, secret=KEY)
        assert contents(dst) == whole
        assert not staging.staging_folder(dst).exists()


@pytest.mark.parametrize("kind", ["labels", "npz", "webdataset"])
def test_sources_that_each_rank_opens_itself(tree: Path, tmp_path: Path, kind: str) -> None:
    src, more = tmp_path / "npz", {}
    if kind != "labels":
        protect(tree, src, format=kind)
    else:
        src = tree / "train" / "c0"
        more = {"labels": tmp_path / "labels.csv"}
        more["labels"].write_text("".join(f"{each.name},a\n" for each in sorted(src.iterdir())))
    whole = protect(src, tmp_path / "whole", **more)
    plan(src, tmp_path / "dst", **more)
    render(tmp_path / "dst", 1, 2)
    render(tmp_path / "dst", 0, 2)
    finish_dataset(tmp_path / "dst", secret=KEY)
    assert contents(tmp_path / "dst") == whole
    plan(src, tmp_path / "dst2", **more)
    if kind == "webdataset":
        [shard] = src.glob("*.tar")
        os.utime(shard, (0, 0))  # a copy of it, say
        render(tmp_path / "dst2")
    if kind != "labels":
        (tree / "train" / "c0" / "000.png").unlink()
        shutil.rmtree(src)
        protect(tree, src, format=kind)
    else:
        more["labels"].write_text("002.png,a\n")
    with pytest.raises(UserError, match=r"has changed since the plan in .* was made: plan again$"):
        render(tmp_path / "dst2")


def test_the_plan_holds_no_key_and_no_pixels(tree: Path, tmp_path: Path) -> None:
    plan(tree, tmp_path / "dst")
    text = (tmp_path / "dst.partial" / "plan.jsonl").read_bytes()
    assert KEY.material.hex().encode() not in text
    assert KEY.fingerprint.encode() in text
    head = json.loads(text.splitlines()[0])
    assert head["asked"]["method"] == "classwise-conv"
    assert sorted(path.name for path in (tmp_path / "dst.partial").iterdir()) == [
        "lock",
        "plan.jsonl",
        "tree",
        "work",
    ]


@pytest.mark.parametrize("format", ["png", "npz", "webdataset"])
def test_what_a_file_manager_left_is_not_published(tree: Path, tmp_path: Path, format: str) -> None:
    whole, dst = protect(tree, tmp_path / "whole", format=format), tmp_path / "dst"
    plan(tree, dst, format=format)
    render(dst)
    half_made = tmp_path / "dst.partial" / "tree"
    half_made.mkdir(exist_ok=True)
    (half_made / ".DS_Store").write_bytes(b"of another")
    finish_dataset(dst, secret=KEY)
    assert contents(dst) == whole


def test_a_finish_that_was_killed_in_tidying_up_is_run_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dst = tmp_path / "dst"
    plan(tree, dst)
    render(dst)
    with monkeypatch.context() as before_the_end:
        before_the_end.setattr(staging.Staging, "remove", lambda staging: os.close(10**6))
        with pytest.raises(OSError, match="Bad file descriptor"):
            finish_dataset(dst, secret=KEY)
    whole = contents(dst)
    finish_dataset(dst, secret=KEY)
    assert contents(dst) == whole
    assert not (tmp_path / "dst.partial").exists()


def test_finish_names_what_is_missing(tree: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    plan(tree, dst)
    render(dst, 1, 2)
    missing = (
        r"^3 of 6 chunks are missing: chunk 0, 2 pictures from c0/000\.png to c0/002\.png; chunk 2, .*; "
        r"chunk 4, .*; render them with `unlearnable render .*dst`$"
    )
    with pytest.raises(UserError, match=missing):
        finish_dataset(dst, secret=KEY)
    assert not dst.exists()
    assert (render(dst, 0, 2), render(dst, 0, 2)) == (3, 3)
    next((tmp_path / "dst.partial" / "tree").rglob("003.png")).write_bytes(b"")
    with pytest.raises(UserError, match="1 of 6 chunks are missing: chunk 3, 2 pictures from c1/001"):
        finish_dataset(dst, secret=KEY)
    render(dst)
    changed = next((tmp_path / "dst.partial" / "tree").rglob("003.png"))
    changed.write_bytes(bytes(changed.stat().st_size))
    with pytest.raises(UserError, match=r"1 of 6 chunks are .*; render them with .*dst --rehash`$"):
        finish_dataset(dst, secret=KEY, rehash=True)
    render(dst, rehash=True)
    finish_dataset(dst, secret=KEY)
    assert verify_dataset(dst, KEY).ok
    with pytest.raises(UserError, match=r"dst\.partial is not there: .* unless dst is finished$"):
        finish_dataset(dst, secret=KEY)
    with pytest.raises(UserError, match="dst is there already"):
        plan(tree, dst)


def test_ranks_work_side_by_side_and_nobody_plans_or_finishes_meanwhile(tree: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    plan(tree, dst)
    both = threading.Barrier(2)
    refused: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        if done == 2:
            both.wait(30)
            for command in (lambda: plan(tree, dst), lambda: finish_dataset(dst, secret=KEY)):
                with pytest.raises(UserError, match="another process is working on") as caught:
                    command()
                refused.append(str(caught.value))
            both.wait(30)

    ranks = [
        threading.Thread(target=render, args=(dst, rank, 2), kwargs={"progress": progress}) for rank in (0, 1)
    ]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join()
    assert len(refused) == 4
    finish_dataset(dst, secret=KEY)
    assert contents(dst) == protect(tree, tmp_path / "whole")


def test_a_rank_renders_only_what_it_would_write_alike(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(tree, tmp_path / "dst")
    with pytest.raises(UserError, match="was made with another key"):
        render(tmp_path / "dst", secret=Key(bytes(32)))
    here = {**probe.fingerprint(), "pillow": "1"}
    monkeypatch.setattr(probe, "fingerprint", lambda: here)
    with pytest.raises(UserError, match=r"^this machine might write other bytes .*: pillow is 1, not "):
        render(tmp_path / "dst")
    assert not (tmp_path / "dst.partial" / "records").exists()


def test_what_shards_are_put_together_with_is_compared(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for format in ("png", "parquet"):
        plan(tree, tmp_path / format, format=format)
        render(tmp_path / format)
    monkeypatch.setattr(probe, "installed", lambda name: "1.0")
    with pytest.raises(UserError, match=r"pyarrow is 1\.0, not \d+\..*; make them the same"):
        finish_dataset(tmp_path / "parquet", secret=KEY)
    finish_dataset(tmp_path / "png", secret=KEY)


def test_pictures_are_kept_where_only_what_puts_them_together_is_another(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(tree, tmp_path / "dst", format="parquet")
    render(tmp_path / "dst")
    for module in (plan_module, probe):
        monkeypatch.setattr(module, "installed", lambda name: "1.0")
    told: list[str] = []
    protect(tree, tmp_path / "dst", format="parquet", notify=told.append)
    assert "resuming: 12 of 12 images are done" in told
    assert not any("changed" in message for message in told)


def test_putting_together_tells_how_far_it_is(tree: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    plan(tree, tmp_path / "dst", format="webdataset")
    render(tmp_path / "dst")
    finish_dataset(tmp_path / "dst", secret=KEY, progress=lambda *each: told.append(each))
    for what in ("putting together", "listing"):
        done = [done for name, done, total in told if (name, total) == (what, 12)]
        assert {0, 2, 10, 12} < set(done)
        assert done[-1] == 12


def test_protect_goes_on_with_what_ranks_left_and_ranks_with_what_protect_left(
    tree: Path, tmp_path: Path
) -> None:
    whole = protect(tree, tmp_path / "whole")
    plan(tree, tmp_path / "a")
    render(tmp_path / "a", 1, 3)
    notes: list[str] = []
    assert protect(tree, tmp_path / "a", notify=notes.append) == whole
    assert "resuming: 4 of 12 images are done" in notes
    interrupted(tree, tmp_path / "b", 6)
    render(tmp_path / "b")
    finish_dataset(tmp_path / "b", secret=KEY)
    assert contents(tmp_path / "b") == whole


def test_after_a_change_of_the_source_plan_again(tree: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    bad = tree / "train" / "c1" / "005.png"
    plan(tree, dst)
    bad.write_bytes(b"no picture any more")
    with pytest.raises(UserError, match=r"005\.png: had .* bytes when .* has changed since"):
        render(dst)
    bad.unlink()
    notes: list[str] = []
    plan(tree, dst, notify=notes.append)
    assert "changed since this was begun: c1/005.png is gone; what is done of 10 pictures is kept" in notes
    render(dst)
    finish_dataset(dst, secret=KEY)
    assert contents(dst) == protect(tree, tmp_path / "whole")


def test_links_where_ranks_write_are_not_followed(tree: Path, tmp_path: Path) -> None:
    plan(tree, tmp_path / "dst")
    (tmp_path / "dst.partial" / "records").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a symbolic link"):
        render(tmp_path / "dst")


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ("", (0, 1)),
        ("RANK=2 WORLD_SIZE=5", (2, 5)),
        ("SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_MIN=1", (2, 4)),
        ("SLURM_ARRAY_TASK_ID=6 SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_STEP=2", (3, 4)),
        ("RANK=0 WORLD_SIZE=2 SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_COUNT=4", (0, 2)),
        ("RANK=x WORLD_SIZE=2", "the launcher's variable RANK must be a number, not 'x'"),
        ("SLURM_ARRAY_TASK_ID=3", "the launcher's variable SLURM_ARRAY_TASK_COUNT must be a number, not ''"),
        ("SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_COUNT=2 SLURM_ARRAY_TASK_MIN=3", "has no place among them"),
    ],
)
def test_the_rank_is_the_launchers(variables: str, rank: tuple[int, int] | str) -> None:
    environment = dict(each.split("=") for each in variables.split())
    if isinstance(rank, str):
        with pytest.raises(UserError, match=rank):
            rank_from(environment)
    else:
        assert rank_from(environment) == rank


def run(*arguments: str) -> None:
    typer.main.get_command(cli.app)(list(arguments), standalone_mode=False)


def test_the_commands(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("keygen", "my.key")
    key = ("--key-file", "my.key")
    run("plan", "src", "dst", *key)
    run("render", "dst", *key, "--rank", "0", "--world", "2", "--workers", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    run("render", "dst", *key, "--workers", "0")
    run("finish", "dst", *key)
    told = capsys.readouterr().out
    assert "planned 6 chunks in dst.partial" in told
    assert "rank 1 of 2: 3 chunks are rendered" in told
    run("protect", "src", "whole", *key, "--workers", "0")
    assert contents(tmp_path / "dst") == contents(tmp_path / "whole")
    capsys.readouterr()
    run("protect", "src", "whole", *key, "--workers", "0")
    told = capsys.readouterr()
    assert "whole is complete already" in told.err
    assert "wrote" not in told.out
    with pytest.raises(UserError, match="--rank and --world go together"):
        run("render", "dst", *key, "--rank", "1")
    with pytest.raises(UserError, match="rank must be from 0 to world - 1, which is 1, not 2"):
        run("render", "dst", *key, "--rank", "2", "--world", "2")
    with pytest.raises(UserError, match="world must be 1 or more, not 0"):
        run("render", "dst", *key, "--rank", "0", "--world", "0")
