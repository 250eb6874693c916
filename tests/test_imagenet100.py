"""The scripts for ImageNet-100, from the choice of classes to the report, on a tree of a few pictures."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import write_tree
from test_protect_resume import contents
from warm_commands import warm_commands

SCRIPTS = Path(__file__).parents[1] / "scripts"
OPTIONS = "--count 2 --class-seed 3 --size 16 --network resnet8 --epochs 1 --batch-size 4 --workers 0"
SMALL = OPTIONS.split()
WNIDS = ["n01440764", "n01443537", "n01484850", "n01491361"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imagenet(tmp_path_factory.mktemp("imagenet"))


def imagenet(root: Path) -> Path:
    write_tree(root / "train", WNIDS, 4, seed=0, side=20)
    write_tree(root / "val", WNIDS, 2, seed=1, side=20)
    return root


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with warm_commands(tmp_path_factory.mktemp("commands")) as folder:
        yield f"{folder}{os.pathsep}{os.environ['PATH']}"


TRAINING = ("train", "evaluate", "report")


def noting(folder: Path) -> dict[str, str]:
    """Variables for a script that only notes how it would train: ``test_on_one_machine`` does."""
    return {"NOTED": " ".join(TRAINING), "NOTES": str(folder / "notes")}


def noted(folder: Path) -> list[str]:
    """The commands that were noted, by name."""
    return [line.split()[0] for line in (folder / "notes").read_text().splitlines()]


def run_script(script: str, *arguments: object, **variables: str) -> str:
    done = subprocess.run(
        ["bash", SCRIPTS / script, *map(str, arguments)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def one(tree: Path, path: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What the script for one machine makes, and what it says."""
    out = tmp_path_factory.mktemp("one") / "out"
    return out, run_script("imagenet100.sh", tree, out, *SMALL, PATH=path)


def test_on_one_machine(one: tuple[Path, str]) -> None:
    out, told = one
    chosen = (out / "classes.txt").read_text().split()
    assert len(chosen) == 2
    assert set(chosen) < set(WNIDS)
    assert "ok: 8 files checked, key matches" in told
    assert told.count("test accuracy") >= 2
    page = (out / "report.html").read_text()
    assert "ImageNet-100" in page
    assert "protected" in page


def test_in_an_array(tree: Path, one: tuple[Path, str], tmp_path: Path, path: str) -> None:
    for name in ("private.key", "classes.txt"):
        (tmp_path / name).write_bytes((one[0] / name).read_bytes())
    (tmp_path / "private.key").chmod(0o600)
    run_script("imagenet100.slurm", "plan", tree, tmp_path, *SMALL, PATH=path)
    for number in ("1", "2"):
        array = {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_ID": number}
        run_script("imagenet100.slurm", "render", tree, tmp_path, PATH=path, SLURM_CPUS_PER_TASK="0", **array)
    told = run_script("imagenet100.slurm", "finish", tree, tmp_path, *SMALL, PATH=path, **noting(tmp_path))
    assert contents(tmp_path / "protected") == contents(one[0] / "protected")
    assert "ok: 8 files checked, key matches" in told
    assert noted(tmp_path) == ["train", "evaluate"] * 2 + ["report"]


@pytest.mark.parametrize("script", ["imagenet100.sh", "imagenet100_ray.sh", "imagenet100.slurm"])
def test_wrong_arguments_print_the_usage(script: str, tmp_path: Path) -> None:
    for arguments in ([], ["a", "b", "--sizes", "3"]):
        command = ["bash", SCRIPTS / script, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 2
        assert f"scripts/{script}" in result.stderr
        assert not list(tmp_path.iterdir())
