"""The Bayes-error method from dataset to dataset; tests/test_ascent.py has what happens within."""

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import tiny

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.images import decode, resize
from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key, Seed
from unlearnable_kernels.protect.methods.ascent import Ascent
from unlearnable_kernels.protect.methods.bayes_error import BayesError, BeoAaai2026
from unlearnable_kernels.protect.methods.selection import exact_subset
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.verify import verify_dataset

KEY = Key(bytes(range(32)))
CLASSES = ("ant", "bee", "cow")
NETWORK = tiny.__name__


@pytest.fixture(autouse=True)
def short_loops(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread: on a busy machine threads wait for each other far longer than so small networks take."""
    ours = dataclasses.replace(BayesError().loop, first_epochs=1, epochs=1, inner_steps=2, embeddings=1)
    authors = dataclasses.replace(BeoAaai2026().loop, first_epochs=1)
    monkeypatch.setattr(BayesError, "loop", ours)
    monkeypatch.setattr(BeoAaai2026, "loop", authors)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight 12x12 images, each a class's picture with much noise."""
    root = tmp_path_factory.mktemp("data") / "zoo"
    rng = np.random.default_rng(0)
    for name in CLASSES:
        base = rng.integers(20, 236, (12, 12, 3))
        for number in range(8):
            path = root / "train" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(base + rng.normal(0, 40, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    return root


def protect(src: Path, dst: Path, **options: Any) -> dict[str, bytes]:
    common = {"secret": KEY, "workers": 0, "method": "bayes-error", "network": NETWORK, "steps": 2}
    protect_dataset(src, dst, **{**common, **options})
    assert not dst.with_name(dst.name + ".partial").exists()
    return contents(dst)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def differences(src: Path, dst: Path) -> np.ndarray:
    """int64 [N, H, W, 3], of the files as they are read back."""
    before, after = load_arrays(src), load_arrays(dst)
    assert [Path(name).stem for name in before.names] == [Path(name).stem for name in after.names]
    assert torch.equal(before.labels, after.labels)
    return after.images.numpy().astype(np.int64) - before.images.numpy()


@pytest.mark.parametrize("format", ["png", "webp", "npz"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 0.7)])
def test_the_budget_holds_after_save_and_load(
    tree: Path, tmp_path: Path, norm: str, eps: float, format: str
) -> None:
    protect(tree, tmp_path / "out", norm=norm, eps=eps, format=format, steps=1)
    levels = differences(tree, tmp_path / "out")
    if norm == "linf":
        assert np.abs(levels).max() == 8
    else:
        lengths = (levels**2).sum(axis=(1, 2, 3)) ** 0.5
        assert 0.9 * 255 * eps < lengths.max() <= 255 * eps
    assert verify_dataset(tmp_path / "out", KEY).ok


def test_the_manifest_says_what_was_done(tree: Path, tmp_path: Path) -> None:
    said: list[str] = []
    protect(tree, tmp_path / "out", fraction=0.5, notify=said.append)
    manifest = manifest_of(tmp_path / "out")
    assert manifest["method"] == "bayes-error"
    parameters = manifest["parameters"]
    assert parameters["loop"]["inner_steps"] == 2
    assert {name: parameters[name] for name in ("eps", "norm", "bandwidth", "steps", "network")} == {
        "eps": 8 / 255,
        "norm": "linf",
        "bandwidth": 0.3,
        "steps": 2,
        "network": NETWORK,
    }
    estimate = manifest["estimate"]
    assert [line["step"] for line in estimate["all"]] == [0, 1, 2]
    assert (estimate["before"], estimate["after"]) == (estimate["all"][0], estimate["all"][-1])
    assert all(0 <= line["estimate"] <= 2 / 3 and 0 <= line["protected"] <= 2 / 3 for line in estimate["all"])
    used = manifest["budget_used"]
    changes = np.abs(differences(tree, tmp_path / "out"))
    changes = changes[changes.any(axis=(1, 2, 3))]
    assert used == {"mean": pytest.approx(changes.mean() / 8, abs=6e-5), "largest": 1.0}
    budget = f"protected 12 of 24 images, using {used['mean']:.0%} of the budget (at most 100%); PSNR "
    assert said[-1].startswith(budget)
    assert said[1].startswith("after step 1 of 2: estimated Bayes error 0.")


@pytest.mark.parametrize("ascend_all", [False, True])
def test_all_images_may_be_moved_and_those_to_protect_taken_afterwards(
    tree: Path, tmp_path: Path, ascend_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = dataclasses.replace(BayesError().loop, ascend_all=ascend_all)
    monkeypatch.setattr(BayesError, "loop", loop)
    moved: list[int] = []
    ascend = Ascent._ascend

    def counting(self: Ascent) -> None:
        moved.append(len(self.rows))
        ascend(self)

    monkeypatch.setattr(Ascent, "_ascend", counting)
    broken = shutil.copytree(tree, tmp_path / "zoo") / "train" / "ant" / "0.png"
    broken.write_bytes(b"no image")
    protect(tmp_path / "zoo", tmp_path / "out", fraction=0.5, steps=1, on_error="skip")
    files = manifest_of(tmp_path / "out")["files"]
    for name, entry in files.items():
        before, after = (decode((root / name).read_bytes(), name) for root in (tree, tmp_path / "out"))
        change = np.abs(after.astype(int) - before).max()
        assert 1 <= change <= 8 if entry["protected"] else change == 0
    assert moved == [23 if ascend_all else sum(entry["protected"] for entry in files.values())]


@pytest.mark.filterwarnings("ignore:an integer seed")
def test_the_fraction_is_exact_and_the_rest_untouched(tree: Path, tmp_path: Path) -> None:
    source = open_source(tree)
    names, labels = [s.name for s in source.samples], [s.label for s in source.samples]
    for number, secret in enumerate((KEY, Key(bytes(32)), Seed(3))):
        dst = tmp_path / f"out{number}"
        protect(tree, dst, fraction=0.4, steps=1, secret=secret)
        chosen = exact_subset(secret, "zoo", names, labels, 0.4)
        assert chosen.sum() == 9
        flags = [entry["protected"] for entry in manifest_of(dst)["files"].values()]
        assert flags == chosen.tolist()
        changed = differences(tree, dst).any(axis=(1, 2, 3))
        np.testing.assert_array_equal(changed, chosen)


def test_the_same_command_gives_the_same_bytes_and_another_key_others(tree: Path, tmp_path: Path) -> None:
    first = protect(tree, tmp_path / "first", steps=1)
    assert protect(tree, tmp_path / "again", steps=1, workers=2) == first
    other = protect(tree, tmp_path / "other", steps=1, secret=Key(bytes(32)))
    assert other["train/ant/0.png"] != first["train/ant/0.png"]


class Killed(BaseException):
    """Nothing may catch it, as nothing catches a kill."""


@pytest.mark.parametrize("method", ["bayes-error", "beo-aaai2026"])
def test_a_kill_at_any_moment_leaves_no_trace(tree: Path, tmp_path: Path, method: str) -> None:
    events: list[str] = []
    limit = -1

    def progress(what: str, done: int, total: int) -> None:
        assert done <= total
        events.append(what)
        if len(events) == limit:
            raise Killed

    options: dict[str, Any] = {"method": method, "fraction": 0.5, "progress": progress}
    whole = protect(tree, tmp_path / "whole", **options)
    rendering = events.index("protecting")
    rng = np.random.default_rng(0)
    resumed: list[str] = []
    # Reading takes 24 events.
    for moment in [30, rendering, len(events), *rng.integers(25, rendering, 3).tolist()]:
        dst = tmp_path / f"dst{moment}-{len(resumed)}"
        events.clear()
        limit = moment
        with pytest.raises(Killed):
            protect(tree, dst, **options)
        assert not dst.exists()
        limit = -1
        assert protect(tree, dst, **options, notify=resumed.append) == whole
    assert any(line.startswith("resuming after step 1 of 2") for line in resumed)


def test_another_parameter_does_not_go_on_with_an_unfinished_run(tree: Path, tmp_path: Path) -> None:
    def progress(what: str, done: int, total: int) -> None:
        if what == "ascending":
            raise Killed

    with pytest.raises(Killed):
        protect(tree, tmp_path / "out", progress=progress)
    with pytest.raises(UserError, match=r"differs in eps \(0.0313\d+, now 0.0156\d+\)"):
        protect(tree, tmp_path / "out", eps=4 / 255)
    with pytest.raises(UserError, match="differs in method"):
        protect(tree, tmp_path / "out", method="beo-aaai2026")
    protect(tree, tmp_path / "out")
    with pytest.raises(UserError, match=r"differs in bandwidth \(0.3, now median\)"):
        protect(tree, tmp_path / "out", bandwidth="median")


def test_a_damaged_state_is_named(tree: Path, tmp_path: Path) -> None:
    def progress(what: str, done: int, total: int) -> None:
        if what == "ascending" and done > 60:
            raise Killed

    with pytest.raises(Killed):
        protect(tree, tmp_path / "out", progress=progress)
    state = tmp_path / "out.partial" / "work" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"state\.safetensors is damaged .*; delete it to start over"):
        protect(tree, tmp_path / "out")
    state.unlink()
    assert protect(tree, tmp_path / "out") == protect(tree, tmp_path / "whole")


@pytest.mark.parametrize("name", ["state.safetensors", "images.npy"])
def test_a_full_disk_is_one_line_and_no_loss(
    tree: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(UserError, match=r"^cannot write .*: disk full; run the same command again"):
            protect(tree, tmp_path / "out", steps=1)
    assert protect(tree, tmp_path / "out", steps=1) == protect(tree, tmp_path / "whole", steps=1)


@pytest.mark.parametrize("forged", ["images", "outcome", "another run's"])
def test_images_that_another_put_there_are_not_published(tree: Path, tmp_path: Path, forged: str) -> None:
    def progress(what: str, done: int, total: int) -> None:
        if what == "protecting":
            raise Killed

    def stop(name: str, **options: Any) -> Path:
        with pytest.raises(Killed):
            protect(tree, tmp_path / name, progress=progress, **options)
        return tmp_path / f"{name}.partial" / "work"

    work = stop("out", steps=1)
    if forged == "images":
        np.save(work / "images.npy", np.zeros_like(np.load(work / "images.npy")))
    elif forged == "outcome":
        (work / "outcome.json").write_text('{"estimate": [], "missing": [], "budget_used": null}')
    else:
        other = stop("other", steps=1, eps=2 / 255)
        for name in ("images.npy", "outcome.json"):
            shutil.copy(other / name, work / name)
    with pytest.raises(UserError, match=r"images\.npy is damaged, or not of this run; delete .*out\.partial"):
        protect(tree, tmp_path / "out", steps=1)


def test_what_the_method_cannot_take_is_named(tree: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"format": "jpeg"}, "webdataset, webp with bayes-error, not 'jpeg'"),
        ({"strength": 0.3}, "'strength' is not a setting of method bayes-error: choose from eps"),
        ({"colour": 1}, "'colour' is not a setting of method bayes-error"),
        ({"fraction": 0.0}, "fraction must be above 0"),
        ({"scale": "unit"}, "scale must be one of largest, length, none, not 'unit'"),
        ({"bandwidth": float("nan")}, "bandwidth must be a finite number above 0, or median, not nan"),
        ({"network": "alexnet"}, "unknown network 'alexnet'"),
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"method": "beo-aaai2026", "norm": "l2"}, "norm must be linf with rule adamw, not 'l2'"),
    ):
        with pytest.raises(UserError, match=message):
            protect(tree, tmp_path / "out", **options)
    shutil.copytree(tree / "train" / "ant", tmp_path / "train" / "ant")
    with pytest.raises(UserError, match="has one class only; bayes-error needs at least 2"):
        protect(tmp_path / "train", tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_images_of_one_size_are_needed_and_bad_ones_passed_over(tree: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    for sample in (source := open_source(tree)).samples:
        (mixed / sample.name).parent.mkdir(parents=True, exist_ok=True)
        (mixed / sample.name).write_bytes(bytes(source.read(sample)))
    Image.new("RGB", (20, 14), "red").save(mixed / "bee" / "3.png")
    with pytest.raises(UserError, match=r"bee/3\.png: 20x14 pixels, but the first image has 12x12.*--resize"):
        protect(mixed, tmp_path / "out", steps=1)
    (mixed / "bee" / "4.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bee/4\.png"):
        protect(mixed, tmp_path / "out", steps=1, resize=8)
    files = protect(mixed, tmp_path / "out", steps=1, resize=8, on_error="skip")
    assert "bee/4.png" not in files
    assert [name for name, _ in manifest_of(tmp_path / "out")["skipped"]] == ["bee/4.png"]
    written = load_arrays(tmp_path / "out")
    assert written.images.shape == (23, 8, 8, 3)
    # Each file is still its own image, changed by no more than the budget.
    for name, image in zip(written.names, written.images, strict=True):
        clean = resize(decode((mixed / name).read_bytes(), name), 8)
        assert np.abs(image.numpy().astype(int) - clean).max() <= 8, name


def test_a_median_bandwidth_is_found_and_told(tree: Path, tmp_path: Path) -> None:
    protect(tree, tmp_path / "out", bandwidth="median", steps=1)
    manifest = manifest_of(tmp_path / "out")
    assert manifest["parameters"]["bandwidth"] == "median"
    assert all(0 < line["bandwidth"] < 12 for line in manifest["estimate"]["all"])


def test_a_budget_that_is_hardly_used_is_warned_of(tree: Path, tmp_path: Path) -> None:
    said: list[str] = []
    protect(tree, tmp_path / "out", method="beo-aaai2026", notify=said.append)
    assert manifest_of(tmp_path / "out")["budget_used"]["largest"] <= 1 / 8
    assert said[-1] == "warning: less than half of the budget was used on average: give more steps"


def test_protecting_nothing_leaves_all_as_it_is(tree: Path, tmp_path: Path) -> None:
    said: list[str] = []
    protect(tree, tmp_path / "out", fraction=0.01, notify=said.append)
    assert "no image is protected: --fraction 0.01 selects none of 24 images" in said[0]
    assert not differences(tree, tmp_path / "out").any()
    assert manifest_of(tmp_path / "out")["estimate"] is None
