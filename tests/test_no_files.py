"""A pipe, a device or a folder where a file is read: one line at once, neither waiting nor a traceback."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_protect_resume import KEY, make_tree

from unlearnable_kernels.cli.config_file import read_config
from unlearnable_kernels.data import manifest_entries
from unlearnable_kernels.data.formats.cifar import CIFAR10
from unlearnable_kernels.data.named import parse
from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import read_json, read_regular, sha256_of
from unlearnable_kernels.protect.extend import extend_dataset
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.pipeline.plan import Options
from unlearnable_kernels.protect.restore import restore_dataset
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.stages import finish_dataset, plan_dataset, render_dataset
from unlearnable_kernels.protect.verify import verify_dataset
from unlearnable_kernels.report.contact_sheet import write_comparison

HERE: dict[str, Any] = {"secret": KEY, "workers": 0}
PLACES: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source; a protected tree, one with its manifest in parts, shards; a plan that is partly rendered."""
    root = tmp_path_factory.mktemp("places")
    make_tree(root / "src", 4)
    protect_dataset(root / "src", root / "set", **HERE)
    for format in ("webdataset", "parquet"):
        protect_dataset(root / "src", root / format, format=format, **HERE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_entries, "PART_ENTRIES", 2)
        protect_dataset(root / "src", root / "parts", **HERE)
    plan_dataset(root / "src", root / "planned", Options(METHODS.create("classwise-conv")), secret=KEY)
    (root / "labels.csv").write_text("train/c0/000.png,a\n")
    (root / "options.toml").write_text("[protect]\n")
    (root / "classes.txt").write_text("c0\n")
    return root


def render(root: Path) -> object:
    return render_dataset(root / "planned", secret=KEY, executor=Executor(workers=0))


READS: list[tuple[str, Callable[[Path], object]]] = [
    ("set/manifest.json", lambda root: verify_dataset(root / "set", KEY)),
    ("set/manifest.json", lambda root: restore_dataset(root / "set", root / "new", **HERE)),
    ("set/manifest.json", lambda root: extend_dataset(root / "src", root / "set", **HERE)),
    ("set/manifest.json", lambda root: write_comparison(root / "src", root / "set", root / "new.png")),
    ("set/manifest.json", lambda root: protect_dataset(root / "src", root / "set", **HERE)),
    (
        "set/manifest.json",
        lambda root: protect_dataset(root / "src", root / "new", earlier=[root / "set"], **HERE),
    ),
    ("parts/manifest-00001.pq", lambda root: verify_dataset(root / "parts", KEY)),
    ("webdataset/train-index.json", lambda root: open_source(root / "webdataset")),
    ("parquet/train-00000-of-00001.parquet", lambda root: open_source(root / "parquet")),
    ("src/train/c0/000.png", render),
    ("planned.partial/plan.jsonl", render),
    ("planned.partial/lock", render),
    ("planned.partial/plan.jsonl", lambda root: finish_dataset(root / "planned", secret=KEY)),
    (
        "labels.csv",
        lambda root: protect_dataset(root / "src", root / "new", labels=root / "labels.csv", **HERE),
    ),
    ("options.toml", lambda root: read_config(root / "options.toml", "protect", {}, {"protect"})),
    ("classes.txt", lambda root: parse(f"subset:{root}/src,classes={root}/classes.txt").choose(["c0", "c1"])),
    ("labels.csv", lambda root: read_json(root / "labels.csv")),
]


@pytest.fixture(params=PLACES)
def put(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[[str], None]]:
    """Puts no file in the place of a file, until the test is over."""
    moved = list[Path]()

    def replace(name: str) -> None:
        moved.append(folder / name)
        moved[0].rename(folder / "aside")
        PLACES[request.param](moved[0])

    yield replace
    for path in moved:
        path.rmdir() if path.is_dir() else path.unlink()
        (folder / "aside").rename(path)


@pytest.mark.parametrize(("name", "read"), READS)
def test_what_is_no_file_is_one_line(
    folder: Path, put: Callable[[str], None], name: str, read: Callable[[Path], object]
) -> None:
    put(name)
    with pytest.raises(UserError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert "same command" not in str(caught.value)
    assert not (folder / "new").exists()


def test_a_pipe_in_an_archive(tmp_path: Path) -> None:
    (tmp_path / CIFAR10.meta).touch()
    for name in CIFAR10.train:
        os.mkfifo(tmp_path / name)
    (tmp_path / CIFAR10.test[0]).touch()
    with pytest.raises(UserError, match="data_batch_1: not a regular file"):
        open_source(tmp_path)


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_regular, sha256_of):
        with pytest.raises(OSError, match=r"not a regular file: '.*pipe'"):
            read(tmp_path / "pipe")
        with pytest.raises(IsADirectoryError):
            read(tmp_path)


def test_what_no_run_leaves_in_its_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "dst.partial" / "parts").mkdir(parents=True)
    os.mkfifo(tmp_path / "dst.partial" / "parts" / "00000000.images")
    with pytest.raises(
        UserError, match=r"00000000\.images is not a file, which no run leaves there; delete "
    ):
        protect_dataset(folder / "src", tmp_path / "dst", format="webdataset", **HERE)
