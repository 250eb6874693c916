"""Restoring: how near originals come by the key, what is refused, and that DST is whole or not there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearnable_kernels.data.images import decode, encode
from unlearnable_kernels.data.quality import psnr
from unlearnable_kernels.errors import UserError, WriteError
from unlearnable_kernels.ops.classwise_conv import PADDINGS, classwise_conv
from unlearnable_kernels.protect import restore as module
from unlearnable_kernels.protect.keys import Key, Seed
from unlearnable_kernels.protect.methods.deconvolution import deconvolved
from unlearnable_kernels.protect.methods.filters import class_filters
from unlearnable_kernels.protect.restore import restore_dataset
from unlearnable_kernels.protect.run import protect_dataset

KEY = Key(bytes(range(32)))
SIDE = 24


def picture(number: int) -> np.ndarray:
    """Slopes and a white square, uint8 [SIDE, SIDE, 3]."""
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.stack([6 * x + number, 8 * y, 3 * (x + y) + 20], -1).astype(np.uint8)
    image[9:14, 8 + number : 13 + number] = 255
    return image


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        for number in range(3):
            path = tmp_path / "zoo" / "train" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(picture(number), "png"))
    return tmp_path / "zoo"


def protect(tree: Path, dst: Path, **options: Any) -> Path:
    protect_dataset(tree, dst, secret=options.pop("secret", KEY), workers=0, **options)
    return dst


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("centred", "near"), [(True, 34), (False, 26)])
def test_images_with_a_white_place_come_near(padding: str, centred: bool, near: float) -> None:
    """A filter that displaces cuts off a border, which cannot come back."""
    filters = class_filters(KEY, "zoo", ["cat", "dog"], 3, 0.3, centred=centred)
    images = torch.from_numpy(np.stack([picture(0), picture(1)])).permute(0, 3, 1, 2)
    labels = torch.tensor([0, 1])
    protected = classwise_conv(images, labels, filters, padding)
    found = deconvolved(protected, labels, filters, padding)
    for before, changed, after in zip(images.numpy(), protected.numpy(), found.numpy(), strict=True):
        assert psnr(before, after) > max(near, psnr(before, changed) + 5)


def test_black_stays_black() -> None:
    filters = class_filters(KEY, "zoo", 1, 3, 0.3)
    black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert not deconvolved(black, torch.tensor([0]), filters, "reflect").any()


@pytest.mark.filterwarnings("ignore:an integer seed")
@pytest.mark.parametrize(
    "options",
    [
        {"centred": True},
        {"filters": "vertical", "centred": True, "kernel_size": 3, "strength": 0.3},
        {"secret": 3},
        {"format": "npz", "centred": True},
    ],
)
def test_a_set_is_restored_by_its_key(tree: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    said: list[str] = []
    secret = Seed(options["secret"]) if "secret" in options else KEY
    protected = protect(tree, tmp_path / "set", **options | {"secret": secret})
    restored = restore_dataset(protected, tmp_path / "back", secret=secret, workers=0, notify=said.append)
    assert said[-1].startswith("restored 6 of 6 pictures: estimates, not the originals")
    if options.get("format") == "npz":
        with np.load(restored / "train.npz") as file:
            assert psnr(picture(1), file["images"][1]) > 38
        return
    names = sorted(path.relative_to(tree) for path in tree.rglob("*.png"))
    assert sorted(path.relative_to(restored) for path in restored.rglob("*") if path.is_file()) == names
    for name in names:
        before, changed, after = (
            decode((folder / name).read_bytes(), "") for folder in (tree, protected, restored)
        )
        assert psnr(before, after) > psnr(before, changed) + 6


def test_clean_pictures_are_copied_bit_by_bit_whatever_the_workers(tree: Path, tmp_path: Path) -> None:
    protected = protect(tree, tmp_path / "set", fraction=0.4, centred=True)
    entries = json.loads((protected / "manifest.json").read_text())["files"]
    restored = restore_dataset(protected, tmp_path / "back", secret=KEY)
    for name, entry in entries.items():
        before, after = (decode((folder / name).read_bytes(), "") for folder in (tree, restored))
        assert np.array_equal(before, after) == (not entry["protected"])


def refused(protected: Path, dst: Path, secret: Any = KEY) -> str:
    with pytest.raises(UserError) as caught:
        restore_dataset(protected, dst, secret=secret, workers=0)
    assert not dst.exists()
    assert not dst.with_name(f"{dst.name}.partial").exists()
    return str(caught.value)


def test_what_cannot_be_restored_is_refused(tree: Path, tmp_path: Path) -> None:
    dst = tmp_path / "back"
    assert "it has no manifest.json" in refused(tree, dst)
    noise = protect(tree, tmp_path / "noise", method="random-noise")
    assert "there is no way here to undo what random-noise did" in refused(noise, dst)
    protected = protect(tree, tmp_path / "set")
    assert "cannot be restored: another key made it" in refused(protected, dst, Key(bytes(32)))
    (protected / "train" / "cat" / "0.png").write_bytes(b"x")
    assert "train/cat/0.png is changed" in refused(protected, dst)
    text = (protected / "manifest.json").read_text()
    (protected / "manifest.json").write_text(text.replace('"strength": 0.3', '"strength": 0.4'))
    assert "cannot be restored: its manifest has changed" in refused(protected, dst)


def test_names_that_clash_as_png_are_refused(tree: Path, tmp_path: Path) -> None:
    cat, long = tree / "train" / "cat", "x" * 251
    jpeg = encode(picture(0), "jpeg")
    (cat / f"{long}.jpg").write_bytes(jpeg)
    (cat / "0.png").rename(cat / f"{long}.png")
    protected = protect(tree, tmp_path / "long", format="same")
    assert refused(protected, tmp_path / "back").endswith(
        "too long a name, of over 255 bytes with its suffix"
    )
    (cat / f"{long}.jpg").rename(cat / "a.jpg")
    (cat / "a.png").mkdir()
    (cat / "a.png" / "b.jpg").write_bytes(jpeg)
    protected = protect(tree, tmp_path / "set", format="same")
    told = refused(protected, tmp_path / "back")
    assert told.endswith("cannot be restored: train/cat/a.png: a picture would lie where a folder is needed")


def test_irp_is_refused(tree: Path, tmp_path: Path) -> None:
    options = {"filters": "irp", "kernel_size": 3, "strength": 0.3}
    protected = protect(tree, tmp_path / "set", **options)
    assert "fitted to the originals and not kept" in refused(protected, tmp_path / "back")


def test_nothing_is_overwritten(tree: Path, tmp_path: Path) -> None:
    protected = protect(tree, tmp_path / "set", centred=True)
    with pytest.raises(UserError, match="exists already"):
        restore_dataset(protected, tree, secret=KEY)
    other = tmp_path / "back.partial" / "plan.jsonl"
    other.parent.mkdir()
    other.write_text("{}")
    with pytest.raises(UserError, match="holds another unfinished run of `unlearnable protect`"):
        restore_dataset(protected, tmp_path / "back", secret=KEY)
    assert other.read_text() == "{}"


def restored(protected: Path, dst: Path, **options: Any) -> dict[str, bytes]:
    restore_dataset(protected, dst, secret=KEY, workers=0, **options)
    assert not dst.with_name(f"{dst.name}.partial").exists()
    return {str(path.relative_to(dst)): path.read_bytes() for path in dst.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("format", "interruption"), [("png", SystemExit), ("npz", KeyboardInterrupt), ("png", MemoryError)]
)
def test_what_was_interrupted_goes_on(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, interruption: type
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 2)
    protected = protect(tree, tmp_path / "set", centred=True, format=format)
    whole = restored(protected, tmp_path / "whole")
    said: list[str] = []

    def interrupt(_: str, done: int, total: int) -> None:
        if done == 4:
            raise interruption

    dst, partial = tmp_path / "back", tmp_path / "back.partial"
    with pytest.raises(interruption):
        restored(protected, dst, progress=interrupt, notify=said.append)
    assert not dst.exists()
    again = "interrupted; run the same command again to resume"
    assert said == ([] if interruption is MemoryError else [again])
    [*files] = [path for name in ("tree", "parts") for path in (partial / name).rglob("*.*")]
    files[0].write_bytes(files[0].read_bytes()[:-1])
    (partial / "tree" / "foreign.png").touch()
    said.clear()
    assert restored(protected, dst, notify=said.append) == whole
    assert said[0] == "resuming: 2 of 6 pictures are done"


def test_what_another_restoration_did_is_not_deleted(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1)
    protected = protect(tree, tmp_path / "set", centred=True)
    other = protect(tree, tmp_path / "other")

    def full(*_: object) -> None:
        raise WriteError("cannot write it: disk full")

    back, said = tmp_path / "back", list[str]()
    with pytest.raises(WriteError, match="disk full; run the same command again to resume"):
        restored(protected, back, progress=full)
    for attempt in (restored, lambda _, dst: protect(tree, dst)):
        with pytest.raises(UserError, match=r"back\.partial holds another unfinished restoration; cho"):
            attempt(other, back)
    restored(protected, back, notify=said.append)
    assert said[0] == "resuming: 1 of 6 pictures are done"


def test_what_a_resize_took_is_said(tree: Path, tmp_path: Path) -> None:
    said: list[str] = []
    protected = protect(tree, tmp_path / "set", resize=16)
    restore_dataset(protected, tmp_path / "back", secret=KEY, workers=0, notify=said.append)
    assert said[0].startswith("pictures were brought to 16 pixels")


def test_a_class_whose_folder_is_gone_moves_no_other(tree: Path, tmp_path: Path) -> None:
    empty = tree / "train" / "ant"
    empty.mkdir()
    (empty / "0.png").write_bytes(b"no picture")
    protected = protect(tree, tmp_path / "set", centred=True, on_error="skip")
    (protected / "train" / "ant").rmdir()  # git and archives do not keep it
    restore_dataset(protected, tmp_path / "back", secret=KEY, workers=0)
    for name in ("cat", "dog"):
        found = decode((tmp_path / "back" / "train" / name / "0.png").read_bytes(), name)
        assert psnr(picture(0), found) > 30  # 24 behind another class's filter


@pytest.mark.parametrize("last", ["unlearnable_kernels.protect.restore.Staging.remove", "shutil.rmtree"])
def test_what_was_killed_while_it_tidied_up_is_complete(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    protected, dst = protect(tree, tmp_path / "set", centred=True), tmp_path / "back"
    other = protect(tree, tmp_path / "other")

    def kill(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(last, kill)
        with pytest.raises(SystemExit):
            restored(protected, dst)
    with pytest.raises(UserError, match="back exists already; choose another name"):
        restored(other, dst)
    said: list[str] = []
    assert len(restored(protected, dst, notify=said.append)) == 6
    assert said == [f"{dst} is complete already"]
    (tmp_path / "back.partial").mkdir()  # killed just before its last step
    with pytest.raises(UserError, match="back exists already; choose another name"):
        restored(protected, dst)
    assert not (tmp_path / "back.partial").exists()
