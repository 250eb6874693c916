"""The contact sheet: what it shows before and after protection, what it overwrites, what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.images import decode
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key, create_key_file
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.report.contact_sheet import (
    CELL,
    GAP,
    TITLE,
    contact_sheet,
    write_comparison,
    write_preview,
)

KEY = Key(bytes(range(32)))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for label, name in enumerate(("ant", "bee", "cow")):
        for number in range(2):
            path = tmp_path / "zoo" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(10 * label + number).integers(
                0, 256, (CELL, CELL, 3), dtype=np.uint8
            )
            Image.fromarray(pixels).save(path)
    return tmp_path / "zoo"


def cells(path: Path) -> list[list[np.ndarray]]:
    with Image.open(path) as image:
        sheet = np.asarray(image.convert("RGB"))
    rows = (sheet.shape[0] - 2 * TITLE - GAP) // (CELL + TITLE)
    tops = [2 * TITLE + row * (CELL + TITLE) + TITLE - 4 for row in range(rows)]
    lefts = [GAP + column * (CELL + GAP) for column in range(3)]
    return [[sheet[top : top + CELL, left : left + CELL] for left in lefts] for top in tops]


def test_it_shows_what_protect_will_write(tree: Path, tmp_path: Path) -> None:
    options = {"kernel_size": 5, "strength": 0.2, "padding": "circular", "dataset_name": "x"}
    sheet = write_preview(tree, tmp_path / "sheet.png", KEY, **options)  # type: ignore[arg-type]
    protect_dataset(tree, tmp_path / "out", secret=KEY, workers=0, **options)  # type: ignore[arg-type]
    shown = cells(sheet)
    assert len(shown) == 3
    for name, (clean, difference, protected) in zip(("ant", "bee", "cow"), shown, strict=True):
        before = decode((tree / name / "0.png").read_bytes(), name)
        after = decode((tmp_path / "out" / name / "0.png").read_bytes(), name)
        np.testing.assert_array_equal(clean, before)
        np.testing.assert_array_equal(protected, after)
        # Differences of random pixels are so large that they are shown as they are.
        signed = after.astype(int) - before
        np.testing.assert_array_equal(difference, np.clip(128 + signed, 0, 255))


def test_several_intensities_stand_side_by_side(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, place: Any, line: str, *more: Any) -> None:
        drawn.append(line)
        draw(self, place, line, *more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    several = {each: METHODS.create(f"classwise-conv:intensity={each}") for each in ("mild", "strong")}
    sheet = write_preview(tree, tmp_path / "sheet.png", KEY, method=several, classes=1)
    titles = [line for line in drawn if "classwise-conv" in line]
    assert [title.partition(": ")[0] for title in titles] == ["mild", "strong"]
    for each in ("mild", "strong"):
        protect_dataset(tree, tmp_path / each, secret=KEY, workers=0, intensity=each)
    with Image.open(sheet) as image:
        found = np.asarray(image.convert("RGB"))
    width = GAP + 3 * (CELL + GAP)
    assert found.shape[1] == width
    for column, folder in enumerate((tree, tmp_path / "mild", tmp_path / "strong")):
        left = GAP + column * (CELL + GAP)
        bottom = found.shape[0] - GAP - 4
        shown = found[bottom - CELL : bottom, left : left + CELL]
        np.testing.assert_array_equal(shown, decode((folder / "ant" / "0.png").read_bytes(), ""))


def test_it_writes_nothing_else(tree: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    write_preview(tree, tmp_path / "sheet.png", KEY, classes=2)
    write_preview(tree, tmp_path / "sheet.png", KEY, classes=2)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "sheet.png"])
    assert len(cells(tmp_path / "sheet.png")) == 2


def test_only_a_picture_is_overwritten(tree: Path, tmp_path: Path) -> None:
    create_key_file(tmp_path / "my.key")
    before = (tmp_path / "my.key").read_bytes()
    (tmp_path / "link.png").symlink_to("my.key")
    for name in ("my.key", "link.png"):
        with pytest.raises(UserError, match=f"{name} exists and is not a PNG file"):
            write_preview(tree, tmp_path / name, KEY)
    with pytest.raises(UserError, match="is not a PNG file"):
        write_preview(tree, tmp_path, KEY)
    assert (tmp_path / "my.key").read_bytes() == before


def test_small_images_are_enlarged_and_large_ones_reduced() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)
    large = rng.integers(0, 256, (3 * CELL, CELL, 3), dtype=np.uint8)
    sheet = np.asarray(contact_sheet([("small", small, small), ("large", large, large)], "heading"))
    factor = CELL // 32
    top, left = 3 * TITLE - 4, GAP + (CELL - 16 * factor) // 2
    region = sheet[top : top + 32 * factor, left : left + 16 * factor]
    np.testing.assert_array_equal(region, small.repeat(factor, 0).repeat(factor, 1))
    assert sheet.shape == (2 * TITLE + 2 * (CELL + TITLE) + GAP, 3 * CELL + 4 * GAP, 3)


def test_a_long_heading_goes_over_several_lines() -> None:
    triple = ("cat", *[np.zeros((16, 16, 3), np.uint8)] * 2)
    short, long = (
        np.asarray(contact_sheet([triple], ", ".join(["zoo: spectral"] + ["cells 0.5"] * parts)))
        for parts in (1, 14)
    )
    assert len(long) == len(short) + TITLE
    np.testing.assert_array_equal(long[2 * TITLE :], short[TITLE:])
    assert long[TITLE : 2 * TITLE].min() < 100
    assert long[: 2 * TITLE, -GAP:].min() == 255
    room, font = 3 * CELL + 2 * GAP, ImageFont.load_default(13)
    just_too_long = next(
        text for text in (f"zoo, {'i' * count}" for count in range(999)) if font.getlength(text) > room
    )
    assert len(np.asarray(contact_sheet([triple], just_too_long))) == len(long)


def test_bad_arguments_are_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="outside the source"):
        write_preview(tree, tree / "ant" / "sheet.png", KEY)
    with pytest.raises(UserError, match="classes must be"):
        write_preview(tree, tmp_path / "sheet.png", KEY, classes=0)
    with pytest.raises(UserError, match="odd"):
        write_preview(tree, tmp_path / "sheet.png", KEY, kernel_size=2)
    with pytest.raises(UserError, match=r"absent/sheet\.png: No such file or directory$"):
        write_preview(tree, tmp_path / "absent" / "sheet.png", KEY)
    with pytest.raises(UserError, match=r"'\\udcff' is not UTF-8"):
        write_preview(tree, tmp_path / "sheet.png", KEY, dataset_name="\udcff")
    (tree / "bee" / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bee/0\.png"):
        write_preview(tree, tmp_path / "sheet.png", KEY)
    write_preview(tree, tmp_path / "sheet.png", KEY, on_error="skip")


@pytest.mark.parametrize("format", ["png", "npz"])
def test_a_protected_copy_is_shown_beside_its_source(tree: Path, tmp_path: Path, format: str) -> None:
    protect_dataset(tree, tmp_path / "out", secret=KEY, workers=0, fraction=0.5, format=format)
    entries = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    entries = entries["train.npz"]["samples"] if format == "npz" else entries
    written = load_arrays(tmp_path / "out")
    sheet = write_comparison(tree, tmp_path / "out", tmp_path / "sheet.png")
    for name, (clean, difference, protected) in zip(("ant", "bee", "cow"), cells(sheet), strict=True):
        (first,) = (path for path in entries if path.startswith(name) and entries[path]["protected"])
        before = decode((tree / first).read_bytes(), name)
        after = written.images[written.names.index(first)].numpy()
        np.testing.assert_array_equal(clean, before)
        np.testing.assert_array_equal(protected, after)
        np.testing.assert_array_equal(difference, np.clip(128 + after.astype(int) - before, 0, 255))


def test_a_list_of_classes_stands_for_their_folders(tree: Path, tmp_path: Path) -> None:
    listed = tmp_path / "labels.csv"
    listed.write_text("bee/0.png,cow\nant/1.png,ant\ncow/0.png,cow\n")
    protect_dataset(tree, tmp_path / "out", secret=KEY, workers=0, labels=listed)
    sheets = (
        write_preview(tree, tmp_path / "before.png", KEY, labels=listed),
        write_comparison(tree, tmp_path / "out", tmp_path / "after.png", labels=listed),
    )
    for shown in map(cells, sheets):
        assert len(shown) == 2
        for name, (clean, _, protected) in zip(("ant/ant/1.png", "cow/bee/0.png"), shown, strict=True):
            before = (tree / name.partition("/")[2]).read_bytes()
            np.testing.assert_array_equal(clean, decode(before, name))
            np.testing.assert_array_equal(protected, decode((tmp_path / "out" / name).read_bytes(), name))


@pytest.mark.parametrize("format", ["webdataset:images=jpeg", "parquet:images=webp"])
def test_shards_are_shown_as_their_images_are_stored(tree: Path, tmp_path: Path, format: str) -> None:
    protect_dataset(tree, tmp_path / "out", secret=KEY, workers=0, format=format)
    assert len(cells(write_comparison(tree, tmp_path / "out", tmp_path / "sheet.png"))) == 3


def test_no_original_is_replaced_however_the_source_is_given(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARNABLE_DATA", str(tmp_path))
    for split in ("train", "test"):
        shutil.copytree(tree, tmp_path / "split" / split)
    listed = tmp_path / "zoo.csv"
    listed.write_text("zoo/ant/0.png,x\nzoo/bee/0.png,y\n")
    picture = tree / "ant" / "0.png"
    sources = {
        picture: picture,
        Path(f"subset:{tree},classes=2"): tree / "cow" / "1.png",
        listed: picture,
        Path("zoo"): picture,
        tmp_path / "split" / "train": tmp_path / "split" / "test" / "ant" / "0.png",
    }
    for src, out in sources.items():
        before = out.read_bytes()
        with pytest.raises(UserError, match="must lie outside the source"):
            write_preview(src, out, KEY)
        assert out.read_bytes() == before
    sheet = picture.with_name("sheet.png")
    assert write_preview(picture, sheet, KEY) == sheet


def test_an_array_file_serves_for_its_folder(tree: Path, tmp_path: Path) -> None:
    protect_dataset(tree, tmp_path / "out", secret=KEY, format="npz", resize=8, workers=0)
    (array,) = (tmp_path / "out").glob("*.npz")
    for copy in (tmp_path / "out", array):
        write_comparison(tree, copy, tmp_path / f"{copy.name}.png")
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / f"{array.name}.png").read_bytes()


def test_a_copy_of_something_else_is_refused(tree: Path, tmp_path: Path) -> None:
    protect_dataset(tree, tmp_path / "out", secret=KEY, workers=0)
    manifest = tmp_path / "out" / "manifest.json"
    text = manifest.read_text()
    with pytest.raises(UserError, match="must lie outside the protected dataset"):
        write_comparison(tree, tmp_path / "out", tmp_path / "out" / "sheet.png")
    manifest.write_text(text.replace('"padding": "reflect", ', ""))
    with pytest.raises(UserError, match="manifest is damaged: 'padding'"):
        write_comparison(tree, tmp_path / "out", tmp_path / "sheet.png")
    for strength in ('""', "1" + 400 * "0"):
        manifest.write_text(text.replace('"strength": 0.06', f'"strength": {strength}'))
        with pytest.raises(UserError, match="manifest is damaged: "):
            write_comparison(tree, tmp_path / "out", tmp_path / "sheet.png")
    fewer = json.loads(text) | {"classes": ["ant"]}
    manifest.write_text(json.dumps(fewer))
    with pytest.raises(UserError, match=r"out/manifest\.json: damaged: it lists the file 'bee/0\.png'"):
        write_comparison(tree, tmp_path / "out", tmp_path / "sheet.png")
    manifest.write_text(text.replace('"protected": true', '"protected": false'))
    with pytest.raises(UserError, match="none of the images of the first 10 classes is protected"):
        write_comparison(tree, tmp_path / "out", tmp_path / "sheet.png")
    manifest.write_text(text.replace('"classwise-conv"', '"noise"'))
    with pytest.raises(UserError, match="out: method 'noise' is not one of bayes-error, beo-aaai2026"):
        write_comparison(tree, tmp_path / "out", tmp_path / "sheet.png")
    manifest.write_text(text.replace('"same"', '"toy-list"'))
    with pytest.raises(UserError, match=r"out: output format 'toy-list' is not one of .*; a plug-in may be"):
        write_comparison(tree, tmp_path / "out", tmp_path / "sheet.png")
    manifest.write_text(text)
    (tmp_path / "out" / "bee" / "0.png").unlink()
    with pytest.raises(UserError, match=r"bee/0\.png is missing"):
        write_comparison(tree, tmp_path / "out", tmp_path / "sheet.png")
    (tree / "bee" / "0.png").unlink()
    with pytest.raises(UserError, match="was not made from the files that are in"):
        write_comparison(tree, tmp_path / "out", tmp_path / "sheet.png")
