"""Pictures in no class folders: one picture, a flat folder, a list of classes; and what lies beside them."""

from pathlib import Path

import numpy as np
import pytest
from small_runs import write_tree

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.formats.loose import ONE_CLASS, open_labelled, open_training_images
from unlearnable_kernels.data.manifest import find_manifest
from unlearnable_kernels.data.source import load_image, open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.extend import extend_dataset
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.verify import verify_dataset

KEY = Key(bytes(range(32)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures without folders: 0.png to 5.png."""
    write_tree(tmp_path, ["photos"], 6, seed=0)
    return tmp_path / "photos"


def names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_flat_folder_is_one_class_and_its_owner_is_told(photos: Path, tmp_path: Path) -> None:
    for litter in ("THUMBS.DB", "desktop.INI", ".DS_Store"):
        (photos / litter).touch()
    (photos / "__MACOSX").mkdir()
    notes: list[str] = []
    protect_dataset(photos, tmp_path / "out", secret=KEY, workers=0, notify=notes.append)
    assert notes[0] == ONE_CLASS
    copy, source = open_source(tmp_path / "out"), open_source(photos)
    assert copy.classes == source.classes == ["photos"]
    assert [s.name for s in copy.samples] == [s.name for s in source.samples]
    before, after = (load_image(each, each.samples[0], None) for each in (source, copy))
    assert not np.array_equal(before, after)
    assert verify_dataset(tmp_path / "out", KEY).ok
    (photos / "a.txt").touch()
    with pytest.raises(UserError, match=r"a\.txt: not an image"):
        open_source(photos)
    assert open_source(photos, on_error="skip").skipped == [("a.txt", "not an image")]


@pytest.mark.parametrize("name", [".photos", "Thumbs.db", "ph\udcff", "a\\b"])
def test_a_folder_whose_name_cannot_be_a_class_is_refused(photos: Path, tmp_path: Path, name: str) -> None:
    src = photos.rename(tmp_path / name)
    with pytest.raises(UserError, match=r": rename the folder$") as caught:
        protect_dataset(src, tmp_path / "out", secret=KEY, dataset_name="x", workers=0)
    assert str(caught.value).isprintable()
    with pytest.raises(UserError, match="cannot be a class"):
        open_source(src / files(src)[0])
    assert files(tmp_path) == [name]


def test_a_single_picture(photos: Path, tmp_path: Path) -> None:
    picture = photos / files(photos)[2]
    protect_dataset(photos, tmp_path / "all", secret=KEY, workers=0)
    protect_dataset(picture, photos / "out", secret=KEY, workers=0)  # beside it
    (photos / "out").rename(tmp_path / "out")
    for dst in (photos, picture):
        with pytest.raises(UserError, match=r"must lie outside the source .*, and not around it$"):
            protect_dataset(picture, dst, secret=KEY, workers=0)
    one = tmp_path / "out" / "photos" / picture.name
    assert names(tmp_path / "out") == ["manifest.json", f"photos/{picture.name}"]
    assert one.read_bytes() == (tmp_path / "all" / "photos" / picture.name).read_bytes()


def test_classes_from_a_list(photos: Path, tmp_path: Path) -> None:
    found = files(photos)
    listed = tmp_path / "labels.csv"
    lines = [f"{name},{('cat', 'ant')[i % 2]}" for i, name in enumerate(found[:5])]
    listed.write_text("\n".join(["\ufefffile,class", *lines, ""]))
    notes: list[str] = []
    protect_dataset(photos, tmp_path / "out", secret=KEY, labels=listed, workers=0, notify=notes.append)
    assert notes[0] == f"1 images are not in labels.csv, and left out, such as {found[5]}"
    expected = sorted(f"{('cat', 'ant')[i % 2]}/{name}" for i, name in enumerate(found[:5]))
    assert names(tmp_path / "out") == [*expected[:2], *expected[2:], "manifest.json"]
    copy, source = open_source(tmp_path / "out"), open_labelled(photos, listed, "raise")
    assert copy.classes == source.classes == ["ant", "cat"]
    assert [(s.name, s.label) for s in copy.samples] == [(s.name, s.label) for s in source.samples]
    manifest = find_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest["layout"] == "labels"
    with pytest.raises(UserError, match=r"layout would differ; its classes came from a list: give --labels$"):
        extend_dataset(photos, tmp_path / "out", secret=KEY, workers=0)


def test_a_list_goes_with_a_folder_and_nothing_else(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARNABLE_DATA", str(tmp_path))
    listed = tmp_path / "labels.csv"
    listed.write_text("".join(f"{name},{i % 2}\n" for i, name in enumerate(files(photos))))
    assert len(open_training_images(Path("photos"), listed, "raise").samples) == 6
    picture = photos / files(photos)[0]
    for src in (Path(f"subset:{photos},images=1"), Path("memory://bucket/set"), picture):
        with pytest.raises(UserError, match=r": with --labels, SRC is a folder of pictures$"):
            open_training_images(src, listed, "raise")


def test_a_list_beside_its_pictures_is_a_data_set(photos: Path) -> None:
    (photos / "labels.csv").write_text("".join(f"./{name},{i % 2}\n" for i, name in enumerate(files(photos))))
    source = open_source(photos / "labels.csv")
    assert (len(source.samples), source.classes, source.name) == (6, ["0", "1"], "photos")
    assert load_arrays(photos / "labels.csv").images.shape[0] == 6


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "lists no picture"),
        ("file,class\n", "lists no picture"),
        ("a.png\n", "line 1: must be file,class, not a.png"),
        ("a.png,b,c\n", "line 1: must be file,class, not a.png,b,c"),
        ("../a.png,b\n", r"line 1: ../a.png must be a path within"),
        ("/a.png,b\n", r"line 1: /a.png must be a path within"),
        ("a.png,b/c\n", "line 1: 'b/c' must be a class's name"),
        ("a.png,\n", "line 1: '' must be a class's name"),
        ("file,class\na.png,b\n./a.png,c\n", "line 3: a.png is listed twice"),
        ("a.png,b\n", "a.png: no such file"),
        ("a.txt,b\n", "a.txt: not an image"),
        ("a.png,b\nb.png,B\n", "differ only by case"),
        ("link.png,b\n", "a symbolic link out of"),
        ('"a.png\n', "line 1: must be file,class"),
        ("a.png,.b\n", "line 1: '.b' must be a class's name"),
        ("a.png,Thumbs.db\n", "line 1: 'Thumbs.db' must be a class's name"),
        (".x/a.png,b\n", "line 1: .x/a.png must be a path within"),
        ("folder/a.png,b\n", "a symbolic link to a folder"),
        (f"{'x' * 300}.png,b\n", "File name too long"),
    ],
)
def test_lists_that_are_refused(photos: Path, tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "elsewhere.png").touch()
    (photos / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (photos / "folder").symlink_to(tmp_path)
    (photos / "a.txt").touch()
    (photos / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=match) as caught:
        open_source(photos / "labels.csv")
    assert "\n" not in str(caught.value)


def test_a_listed_class_that_would_be_read_as_a_split_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "src", ["a", "b"], 2, seed=0)
    listed = tmp_path / "labels.csv"
    found = names(tmp_path / "src")
    listed.write_text("".join(f"{name},{('train', 'val')[name > 'b']}\n" for name in found))
    with pytest.raises(UserError, match=r"^src: the class 'train' has folders in it, .* read as a split; "):
        protect_dataset(tmp_path / "src", tmp_path / "out", secret=KEY, labels=listed, workers=0)
    assert files(tmp_path) == ["labels.csv", "src"]
    protect_dataset(tmp_path / "src", tmp_path / "out", secret=KEY, labels=listed, workers=0, format="npz")
    assert load_arrays(tmp_path / "out").classes == ["train", "val"]


def test_a_list_that_cannot_be_read(photos: Path) -> None:
    (photos / "labels.csv").write_bytes(b"\xff,\xfe\n")
    for name in ("labels.csv", "absent.csv"):
        with pytest.raises(UserError, match=rf"{name}: the list of classes cannot be read"):
            open_labelled(photos, photos / name, "raise")
