"""Growing a protected set: what is published stays as it is, whatever comes, goes or is interrupted."""

import contextlib
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_protect_resume import KEY, Killed, contents, kill_before, make_tree

from unlearnable_kernels.data.manifest import read_manifest
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect import run as run_module
from unlearnable_kernels.protect.extend import extend_dataset
from unlearnable_kernels.protect.keys import Key, sign
from unlearnable_kernels.protect.pipeline import plan as plan_module
from unlearnable_kernels.protect.pipeline import staging
from unlearnable_kernels.protect.restore import restore_dataset
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.verify import verify_dataset


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "CHUNK_IMAGES", 2)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Classes c0 and c1 of four pictures each."""
    return make_tree(tmp_path / "src", 8)


def protect(src: Path, dst: Path, **options: Any) -> dict[str, bytes]:
    protect_dataset(src, dst, **{"secret": KEY, "workers": 0, **options})
    return pictures(dst)


def extend(src: Path, dst: Path, **options: Any) -> list[str]:
    notes: list[str] = []
    extend_dataset(src, dst, **{"secret": KEY, "workers": 0, "notify": notes.append, **options})
    assert not staging.staging_folder(dst).exists()
    assert verify_dataset(dst, KEY).ok
    return notes


def pictures(dst: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(dst).items() if name != "manifest.json"}


def add_class(src: Path, name: str) -> None:
    shutil.copytree(src / "train" / "c1", src / "train" / name)


def test_new_pictures_and_classes_leave_the_old_ones_as_they_are(src: Path, tmp_path: Path) -> None:
    before = protect(src, tmp_path / "dst")
    add_class(src, "b")
    shutil.copy(src / "train" / "c1" / "001.png", src / "train" / "c0" / "a.png")
    notes = extend(src, tmp_path / "dst")
    assert notes[0] == "left out: val"
    assert notes[1].startswith(f"added 5 pictures and removed 0; {tmp_path / 'dst'} has 13; PSNR ")
    assert pictures(tmp_path / "dst").items() >= before.items()
    # As if all of it had been protected at once.
    protect(src, tmp_path / "whole")
    assert contents(tmp_path / "dst") == contents(tmp_path / "whole")
    assert extend(src, tmp_path / "dst") == [
        "left out: val",
        f"{tmp_path / 'dst'} has all of it already, by names and sizes",
    ]


def test_how_it_was_made_is_not_asked_again(src: Path, tmp_path: Path) -> None:
    how = {"strength": 0.2, "padding": "circular", "filters": "vertical", "resize": 6, "dataset_name": "x"}
    before = protect(src, tmp_path / "dst", format="jpeg:quality=70", **how)
    add_class(src, "b")
    extend(src, tmp_path / "dst")
    after = protect(src, tmp_path / "whole", format="jpeg:quality=70", **how)
    assert pictures(tmp_path / "dst") == after
    assert after.items() >= before.items()


def test_who_was_clean_stays_clean(src: Path, tmp_path: Path) -> None:
    """A picture published clean and then protected shows what the filter does."""
    before = protect(src, tmp_path / "dst", fraction=0.5)
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(src / "train" / "c0" / f"9{number}.png")
    extend(src, tmp_path / "dst")
    assert pictures(tmp_path / "dst").items() >= before.items()
    files = json.loads((tmp_path / "dst" / "manifest.json").read_bytes())["files"]
    assert sum(entry["protected"] for name, entry in files.items() if "/c0/" in name) == 6
    assert sum(entry["protected"] for name, entry in files.items() if "/c1/" in name) == 2


def test_a_name_that_another_picture_had_first(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "c"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), (90, 0, 0)).save(folder / "a.bmp")
    before = protect(tmp_path / "src", tmp_path / "dst", format="png")
    assert list(before) == ["c/a.png"]
    Image.new("RGB", (8, 8), (0, 90, 0)).save(folder / "b.gif")
    (folder / "b.gif").rename(folder / "a.gif.bmp")
    extend(tmp_path / "src", tmp_path / "dst")
    after = pictures(tmp_path / "dst")
    assert after["c/a.png"] == before["c/a.png"]
    assert sorted(after) == ["c/a.gif.png", "c/a.png"]


def test_two_originals_of_one_published_picture_are_not_guessed(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "c"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), (90, 0, 0)).save(folder / "a.bmp")
    protect(tmp_path / "src", tmp_path / "dst")
    Image.new("RGB", (8, 8), (0, 90, 0)).save(folder / "a.gif")
    with pytest.raises(UserError, match=r"^c/a\.(bmp|gif) and a published picture have names that differ by"):
        extend(tmp_path / "src", tmp_path / "dst")


def test_what_is_gone_goes_only_when_asked(src: Path, tmp_path: Path) -> None:
    protect(src, tmp_path / "dst")
    before = contents(tmp_path / "dst")
    shutil.rmtree(src / "train" / "c0")
    with pytest.raises(UserError, match=r"4 pictures of .* are not in .*src any more, such as c0/000\.png"):
        extend(src, tmp_path / "dst")
    assert contents(tmp_path / "dst") == before
    assert extend(src, tmp_path / "dst", prune=True)[-1].startswith("added 0 pictures and removed 4")
    assert sorted(pictures(tmp_path / "dst")) == [f"train/c1/{n:03d}.png" for n in (1, 3, 5, 7)]


def test_a_changed_picture_is_named_and_nothing_changes(src: Path, tmp_path: Path) -> None:
    protect(src, tmp_path / "dst")
    before = contents(tmp_path / "dst")
    add_class(src, "b")
    Image.new("RGB", (8, 8)).save(src / "train" / "c0" / "002.png")
    with pytest.raises(UserError, match=r"^train/c0/002\.png has another original now"):
        extend(src, tmp_path / "dst")
    assert contents(tmp_path / "dst") == before
    assert not staging.staging_folder(tmp_path / "dst").exists()


def test_a_picture_that_was_changed_to_one_of_its_size_is_found_by_its_pixels(
    src: Path, tmp_path: Path
) -> None:
    picture = src / "train" / "c0" / "new.bmp"
    with Image.open(src / "train" / "c0" / "000.png") as image:
        image.save(picture)
        original, mirrored = picture.read_bytes(), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    protect(src, tmp_path / "dst")
    before = contents(tmp_path / "dst")
    mirrored.save(picture)
    assert extend(src, tmp_path / "dst")[-1].endswith("has all of it already, by names and sizes")
    with pytest.raises(UserError, match=r"^train/c0/new\.bmp has another original now"):
        extend(src, tmp_path / "dst", rehash=True)
    picture.write_bytes(original)
    assert extend(src, tmp_path / "dst", rehash=True)[-1].startswith("added 0 pictures and removed 0")
    assert contents(tmp_path / "dst") == before


def test_the_same_pixels_in_other_bytes_are_no_change(src: Path, tmp_path: Path) -> None:
    before = protect(src, tmp_path / "dst")
    for picture in (src / "train" / "c0").iterdir():
        Image.open(picture).save(picture, compress_level=0)
    add_class(src, "b")
    path = tmp_path / "dst" / "train" / "c0" / "000.png"
    Image.open(path).save(path, compress_level=0)  # as another version of the encoder would have
    manifest = read_manifest(tmp_path / "dst")
    manifest["files"]["train/c0/000.png"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    unsigned = {name: value for name, value in manifest.items() if name != "mac"}
    (tmp_path / "dst" / "manifest.json").write_text(json.dumps(sign(unsigned, KEY)))
    expected = before | {"train/c0/000.png": path.read_bytes()}
    extend(src, tmp_path / "dst")
    assert pictures(tmp_path / "dst").items() >= expected.items()


def killed_before(
    step: int, src: Path, old: Path, dst: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> bool:
    """Extend a copy of ``old`` up to the ``step``-th call that changes the disk; whether it came to that."""
    shutil.copytree(old, dst)
    with monkeypatch.context() as patch:
        was_killed = kill_before(step, patch)
        with contextlib.suppress(Killed):
            extend_dataset(src, dst, secret=KEY, workers=0, **options)
        return was_killed()


def test_killed_at_any_step_it_is_whole_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = make_tree(tmp_path / "src", 2)
    protect(src, tmp_path / "old")
    add_class(src, "b")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    extend(src, tmp_path / "new")
    both = [contents(tmp_path / name) for name in ("old", "new")]
    step, killed, seen = 0, True, set()
    while killed:
        step += 1
        dst = tmp_path / f"dst{step}"
        killed = killed_before(step, src, tmp_path / "old", dst, monkeypatch)
        assert contents(dst) in both, step
        seen.add(both.index(contents(dst)))
        extend_dataset(src, dst, secret=KEY, workers=0)
        assert contents(dst) == both[1], step
    assert seen == {0, 1}
    assert step > 25


def test_what_cannot_grow(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dst = tmp_path / "dst"
    with pytest.raises(UserError, match="not a protected dataset"):
        extend(src, dst)
    protect(src, dst)
    with pytest.raises(UserError, match="cannot be extended: another key made it"):
        extend(src, dst, secret=Key(bytes(32)))
    (dst / "train" / "c0" / "000.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be extended: train/c0/000\.png is changed"):
        extend(src, dst)
    protect(src, tmp_path / "array", format="npz")
    with pytest.raises(UserError, match="cannot be extended: it is one array"):
        extend(src, tmp_path / "array")
    protect(src, tmp_path / "noise", method="random-noise")
    with pytest.raises(UserError, match="cannot be extended: what random-noise does to a picture depends on"):
        extend(src, tmp_path / "noise")
    monkeypatch.setattr(run_module, "scheme_at", lambda dst: 1)
    protect(src, tmp_path / "place")
    with pytest.raises(UserError, match=r"cannot be extended: its filters belong to a class's place"):
        extend(src, tmp_path / "place")


def test_where_folders_cannot_be_exchanged_nothing_is_lost(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protect(src, tmp_path / "dst")
    before = contents(tmp_path / "dst")
    add_class(src, "b")
    with monkeypatch.context() as patch:
        patch.setattr(staging, "_RENAME_EXCHANGE", 1 << 20)
        with pytest.raises(UserError, match="two folders cannot be exchanged in one step here"):
            extend(src, tmp_path / "dst")
    assert contents(tmp_path / "dst") == before
    extend(src, tmp_path / "dst")


def test_a_second_release_in_another_way_needs_a_word(src: Path, tmp_path: Path) -> None:
    dst = tmp_path / "v1"
    protect(src, dst, fraction=0.5)

    def exposes(**options: Any) -> tuple[str, ...] | None:
        try:
            protect(src, tmp_path / "v2", earlier=[dst], **options)
        except UserError as error:
            found = re.match(r"(\d) pictures, such as (c\d/\d+\.png), were published in another", str(error))
            return ("", str(error)) if found is None else found.groups()
        shutil.rmtree(tmp_path / "v2")
        return None

    assert exposes(fraction=0.5) is None
    for format in ("webp", "webdataset", "webdataset:images=jpeg", "webdataset:shard_size=3"):
        assert exposes(fraction=0.5, format=format) is None
    protected = [entry["protected"] for entry in read_manifest(dst)["files"].values()]
    assert exposes() == (
        "4",
        sorted(read_manifest(dst)["files"])[protected.index(False)].removeprefix("train/"),
    )
    for change in (
        {"strength": 0.2},
        {"resize": 6},
        {"dataset_name": "other"},
        {"secret": Key(bytes(32))},
        {"method": "random-noise"},
        {"filters": "horizontal"},
    ):
        count, _ = exposes(fraction=0.5, **change) or ("none", "")
        assert int(count) >= 4, change
    assert exposes(fraction=0.5, strength=0.2, accept_exposure=True) is None
    dst = dst / "manifest.json"
    assert exposes(fraction=0.5, strength=0.2) is not None


def test_filters_by_place_expose_classes_that_moved(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "scheme_at", lambda dst: 1)
        protect(src, tmp_path / "v1")
        protect(src, tmp_path / "same", earlier=[tmp_path / "v1"])
        add_class(src, "b")
        with pytest.raises(UserError, match=r"^8 pictures, such as c0/000\.png"):
            protect(src, tmp_path / "v2", earlier=[tmp_path / "v1"])
    with pytest.raises(UserError, match=r"^8 pictures"):
        protect(src, tmp_path / "v2", earlier=[tmp_path / "v1"])


def test_a_suffix_that_had_another_picture_first_is_not_guessed_either(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "c"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), (90, 0, 0)).save(folder / "a.bmp")
    before = protect(tmp_path / "src", tmp_path / "dst")
    Image.new("RGB", (8, 8), (0, 90, 0)).save(folder / "a.png")
    for prune in (False, True):
        with pytest.raises(UserError, match="have names that differ by the suffix alone"):
            extend(tmp_path / "src", tmp_path / "dst", prune=prune)
    assert pictures(tmp_path / "dst") == before


def test_the_same_source_opened_in_another_way_is_refused(src: Path, tmp_path: Path) -> None:
    protect(src, tmp_path / "dst")
    Image.new("RGB", (8, 8)).save(src / "train" / "c0" / "000.png")
    with pytest.raises(UserError, match="cannot be extended: prefix would differ"):
        extend(src / "train", tmp_path / "dst")


@pytest.mark.parametrize(
    ("gone", "other", "left"), [("a.JPG", "a.gif", "a.png"), ("a.png", "a.gif", "a.gif.png")]
)
def test_a_picture_is_pruned_whose_stem_another_has(tmp_path: Path, gone: str, other: str, left: str) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    (src / "c").mkdir(parents=True)
    for number, name in enumerate((gone, other, "b.jpg")):
        Image.new("RGB", (8 + number, 8)).save(src / "c" / name)
    before = protect(src, dst)
    assert f"c/{left}" in before
    (src / "c" / gone).unlink()
    notes = extend(src, dst, prune=True)
    assert notes[-1].startswith("added 0 pictures and removed 1;")
    assert pictures(dst) == {name: data for name, data in before.items() if name != f"c/{gone}"}
    assert extend(src, dst) == [f"{dst} has all of it already, by names and sizes"]


def test_what_was_pruned_comes_back_as_it_was(src: Path, tmp_path: Path) -> None:
    before = protect(src, tmp_path / "dst", fraction=0.5)
    shutil.copytree(src, tmp_path / "all")
    shutil.rmtree(src / "train" / "c0")
    extend(src, tmp_path / "dst", prune=True)
    assert len(json.loads((tmp_path / "dst" / "manifest.json").read_bytes())["removed"]) == 4
    for number in range(9):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(src / "train" / "c1" / f"9{number}.png")
    extend(src, tmp_path / "dst")
    shutil.copytree(tmp_path / "all" / "train" / "c0", src / "train" / "c0")
    for number in range(9):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(src / "train" / "c0" / f"00{number}a.png")
    extend(src, tmp_path / "dst")
    assert pictures(tmp_path / "dst").items() >= before.items()
    assert "removed" not in json.loads((tmp_path / "dst" / "manifest.json").read_bytes())


def test_a_kill_while_tidying_up_brings_nothing_back(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protect(src, tmp_path / "old")
    shutil.rmtree(src / "train" / "c0")
    step, seen = 20, 0  # before, nothing is published
    while True:
        step += 1
        dst = tmp_path / f"dst{step}"
        if not killed_before(step, src, tmp_path / "old", dst, monkeypatch, prune=True):
            break
        if not (dst / "train" / "c0").exists():
            seen += 1
            Image.new("RGB", (8, 8)).save(src / "train" / "c1" / f"{step}.png")
            extend(src, dst)  # which verifies it
            assert not (dst / "train" / "c0").exists()
            (src / "train" / "c1" / f"{step}.png").unlink()
        shutil.rmtree(dst)
    assert seen > 2


def interrupted_growth(src: Path, dst: Path) -> None:
    """Protect ``src``, add a class, and stop after the first pictures of what it grows to."""

    def progress(what: str, done: int, total: int) -> None:
        if done >= 4:
            raise Killed

    protect(src, dst)
    add_class(src, "b")
    with pytest.raises(Killed):
        extend(src, dst, progress=progress)


def test_an_unfinished_growth_is_no_dead_end(src: Path, tmp_path: Path) -> None:
    interrupted_growth(src, tmp_path / "dst")
    add_class(src, "a")
    notes = extend(src, tmp_path / "dst")
    assert notes[1].endswith("and 1 more are new; what is done of 12 pictures is kept")
    assert "resuming: 4 of 16 images are done" in notes
    assert notes[-1].startswith("added 8 pictures")


def test_a_refusal_keeps_what_is_done(src: Path, tmp_path: Path) -> None:
    interrupted_growth(src, tmp_path / "dst")
    picture = src / "train" / "c0" / "000.png"
    picture.rename(tmp_path / "aside")
    with pytest.raises(UserError, match="give --prune to remove them too"):
        extend(src, tmp_path / "dst")
    (tmp_path / "aside").rename(picture)
    assert "resuming: 4 of 12 images are done" in extend(src, tmp_path / "dst")


def test_what_a_disk_lost_meanwhile_is_not_published(src: Path, tmp_path: Path) -> None:
    interrupted_growth(src, tmp_path / "dst")
    for picture in (tmp_path / "dst.partial" / "tree").rglob("*.png"):
        picture.write_bytes(bytes(picture.stat().st_size))
    extend(src, tmp_path / "dst")  # and verifies


def test_what_a_restoration_did_is_not_cleared(src: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise Killed

    protect(src, tmp_path / "old", centred=True)
    with pytest.raises(Killed):
        restore_dataset(tmp_path / "old", tmp_path / "dst", secret=KEY, workers=0, progress=interrupt)
    (tmp_path / "old").rename(tmp_path / "dst")
    before = contents(tmp_path / "dst.partial")
    add_class(src, "b")
    for source in (src, tmp_path / "src" / "train"):  # there is something to add; or it is refused
        with pytest.raises(UserError, match=r"dst\.partial holds another unfinished restoration; choose"):
            extend(source, tmp_path / "dst")
        assert contents(tmp_path / "dst.partial") == before
    assert len(before) > 2


def test_two_who_extend_at_once_lose_nothing(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protect(src, tmp_path / "dst")
    shutil.copytree(src, tmp_path / "theirs" / "src")
    add_class(src, "b")
    add_class(tmp_path / "theirs" / "src", "a")
    enter, waiting = staging.Staging.__enter__, [True]

    def late(self: staging.Staging) -> staging.Staging:
        if waiting.pop() if waiting else False:
            extend_dataset(tmp_path / "theirs" / "src", tmp_path / "dst", secret=KEY, workers=0)
        return enter(self)

    monkeypatch.setattr(staging.Staging, "__enter__", late)
    with pytest.raises(UserError, match=r"4 pictures of .* are not in .*, such as a/001\.png"):
        extend(src, tmp_path / "dst")
    assert (tmp_path / "dst" / "train" / "a").is_dir()


def test_it_stays_as_private_as_it_was(src: Path, tmp_path: Path) -> None:
    protect(src, tmp_path / "dst")
    (tmp_path / "dst").chmod(0o700)
    add_class(src, "b")
    with pytest.raises(UserError, match="workers must be 0 or more, not -1"):
        extend(src, tmp_path / "dst", workers=-1)
    extend(src, tmp_path / "dst")
    assert (tmp_path / "dst").stat().st_mode & 0o777 == 0o700


def test_renaming_hides_nothing_from_earlier(src: Path, tmp_path: Path) -> None:
    protect(src, tmp_path / "v1")
    earlier = [tmp_path / "v1"]
    (src / "train" / "c0").rename(src / "train" / "c2")
    with pytest.raises(UserError, match=r"^4 pictures, such as c2/000\.png, were published in another way"):
        protect(src, tmp_path / "v2", earlier=earlier)
    (src / "train" / "c2").rename(src / "train" / "c0")
    protect(src, tmp_path / "irp", filters="irp", kernel_size=3)
    protect(src, tmp_path / "same", filters="irp", kernel_size=3, earlier=[tmp_path / "irp"])
    Image.new("RGB", (8, 8)).save(src / "train" / "c0" / "new.png")
    with pytest.raises(UserError, match=r"^8 pictures"):
        protect(src, tmp_path / "v2", filters="irp", kernel_size=3, earlier=[tmp_path / "irp"])


def test_a_picture_that_moves_to_another_class_needs_a_word(src: Path, tmp_path: Path) -> None:
    whiskers, moved = (src / "train" / name / "whiskers.png" for name in ("c0", "c1"))
    Image.new("RGB", (8, 8), (90, 0, 0)).save(whiskers)
    protect(src, tmp_path / "dst")
    before = contents(tmp_path / "dst")
    whiskers.rename(tmp_path / "aside")
    shutil.copytree(tmp_path / "dst", tmp_path / "pruned")
    extend(src, tmp_path / "pruned", prune=True)
    (tmp_path / "aside").rename(moved)
    told = (
        r"^c1/whiskers\.png has the name of c0/whiskers\.png: one picture would be published under the "
        r"filters of two classes, which gives both away; move it back, or give --accept-exposure$"
    )
    for name in ("dst", "pruned"):
        with pytest.raises(UserError, match=told):
            extend(src, tmp_path / name, prune=True)
    assert contents(tmp_path / "dst") == before
    notes = extend(src, tmp_path / "dst", prune=True, accept_exposure=True)
    assert notes[1].startswith("warning: c1/whiskers.png has the name of c0/whiskers.png")
    assert extend(src, tmp_path / "dst")[-1].endswith("has all of it already, by names and sizes")
    moved.rename(whiskers)
    extend(src, tmp_path / "pruned")
    assert pictures(tmp_path / "pruned").items() <= before.items()


def test_a_picture_that_moves_within_its_class_stays_clean_or_protected(src: Path, tmp_path: Path) -> None:
    protect(src, tmp_path / "dst", fraction=0.5)
    for folder in (src / "train" / "c0", src / "train" / "c1"):
        (folder / "x").mkdir()
        for picture in folder.glob("*.png"):
            picture.rename(folder / "x" / picture.name)
    with pytest.raises(
        UserError, match=r"^c0/x/00\d\.png has the name of c0/00\d\.png: .* once protected and"
    ):
        extend(src, tmp_path / "dst", prune=True)
    protect(tmp_path / "src", tmp_path / "whole")
    for folder in (src / "train" / "c0", src / "train" / "c1"):
        (folder / "x").rename(folder / "y")
    extend(src, tmp_path / "whole", prune=True)  # all of them as before


def test_what_was_published_and_pruned_is_not_forgotten(src: Path, tmp_path: Path) -> None:
    protect(src, tmp_path / "v1")
    shutil.copytree(src / "train" / "c0", tmp_path / "only" / "c0")
    shutil.rmtree(src / "train" / "c0")
    extend(src, tmp_path / "v1", prune=True)
    how = {"dataset_name": "src", "earlier": [tmp_path / "v1"]}
    with pytest.raises(UserError, match=r"^4 pictures, such as c0/000\.png, were published in another way"):
        protect(tmp_path / "only", tmp_path / "v2", strength=0.2, **how)
    (tmp_path / "only" / "c0").rename(tmp_path / "only" / "c2")
    with pytest.raises(UserError, match=r"^4 pictures, such as c2/000\.png, were published in another way"):
        protect(tmp_path / "only", tmp_path / "v2", **how)
    (tmp_path / "only" / "c2").rename(tmp_path / "only" / "c0")
    protect(tmp_path / "only", tmp_path / "v2", **how)


def test_a_damaged_earlier_manifest_is_one_line(src: Path, tmp_path: Path) -> None:
    protect(src, tmp_path / "v1")
    path = tmp_path / "v1" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for damage, told in (
        ({"key": {}}, "v1: its manifest is damaged"),
        ({"removed": ["c0/000.png"]}, "v1: its manifest is damaged"),
        ({"removed": {"c0/000.png": 300}}, "v1: its manifest is damaged"),
        ({"files": {"train/c0/000.png": {"sha256": ""}}}, "damaged: it lists the file 'train/c0/000.png'"),
    ):
        path.write_text(json.dumps(manifest | damage))
        with pytest.raises(UserError, match=told):
            protect(src, tmp_path / "v2", earlier=[tmp_path / "v1"])
