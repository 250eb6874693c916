"""Looking before protecting: every problem at once, estimates that hold, and nothing written."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from sample_images import photo
from test_cli import run  # noqa: F401
from test_protect_resume import contents, interrupted

from unlearnable_kernels.data.formats.folder import FolderWriter
from unlearnable_kernels.data.formats.loose import ONE_CLASS
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.protect.check import CheckReport, check_dataset
from unlearnable_kernels.protect.extend import check_extending
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.pipeline.plan import Options
from unlearnable_kernels.protect.run import check_publishing, protect_dataset

KEY = Key(bytes(range(32)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three cats of 40x30 and two dogs of 24x24."""
    root = tmp_path / "photos"
    for name, count, shape in (("cat", 3, (30, 40)), ("dog", 2, (24, 24))):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(photo(*shape)).save(root / name / f"{number}.png")
    return root


def check(src: Path, method: str = "classwise-conv", **options: Any) -> CheckReport:
    return check_dataset(src, Options(METHODS.create(method), **options), KEY)


def extending(src: Path, dst: Path, **options: Any) -> str:
    """What a dry run says of it."""
    said: list[str] = []
    same: dict[str, Any] = {"prune": False, "labels": None, "on_error": "raise", "accept_exposure": False}
    same |= {"rehash": False, "bad": ()}
    check_extending(src, dst, secret=KEY, notify=said.append, **same | options)
    return said[-1]


def test_estimates_are_near_what_protect_does(photos: Path, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Image.open(photos / "cat" / "0.png") as image:
        image.save(photos / "cat" / "3.jpg", icc_profile=profile)
    (photos / "cat" / "0.png").unlink()
    before = sorted(tmp_path.rglob("*"))
    found = check(photos)
    assert sorted(tmp_path.rglob("*")) == before
    assert found.problems == []
    assert (found.images, found.classes, found.sampled) == (5, {"cat": 3, "dog": 2}, 5)
    assert (found.smallest, found.largest) == ((24, 24), (40, 30))
    protect_dataset(photos, tmp_path / "out", secret=KEY, workers=0)
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*/*.*"))
    assert found.output_bytes == pytest.approx(written, rel=0.01)
    assert found.psnr is not None
    assert 10 < found.psnr < 40
    assert found.ssim is not None
    assert 0.3 < found.ssim < 1
    assert found.seconds is not None
    assert found.seconds > 0
    assert not found.stops("raise")


def spoil(photos: Path) -> dict[str, tuple[str, bool]]:
    """Add one of everything that is refused; returns part of the reason, and whether it can be skipped."""
    whole = (photos / "cat" / "0.png").read_bytes()
    (photos / "cat" / "cut.png").write_bytes(whole[:-20])
    (photos / "cat" / "a.txt").touch()
    Image.new("RGBA", (8, 8)).save(photos / "cat" / "clear.png")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(photos / "dog" / "deep.png")
    (photos / "stray.png").write_bytes(whole)
    (photos / "bird").mkdir()
    (photos / "Dog").mkdir()
    (photos / "Dog" / "1.png").write_bytes(whole)
    (photos / "dog" / "out.png").symlink_to("/etc/hostname")
    (photos / "dog" / "folder").symlink_to("/etc")
    return {
        "cat/cut.png": ("PNG", True),
        "cat/a.txt": ("not an image", True),
        "cat/clear.png": ("transparent", True),
        "dog/deep.png": ("16 bits", True),
        "stray.png": ("outside the class folders", True),
        "bird": ("without images", True),
        "": ("differ only by case", False),
        "dog/out.png": ("symbolic link", False),
        "dog/folder": ("symbolic link to a folder", False),
    }


def test_all_problems_are_listed_at_once(photos: Path) -> None:
    expected = spoil(photos)
    found = check(photos)
    problems = {problem.file: problem for problem in found.problems}
    assert problems.keys() == expected.keys()
    for name, (reason, skippable) in expected.items():
        assert reason in problems[name].reason, name
        assert problems[name].skippable == skippable, name
    assert problems["cat/clear.png"].remedy == "flatten it onto a background"
    assert problems["cat/a.txt"].remedy == "move it out of the dataset"
    assert found.images == 6
    assert found.stops("skip")
    for name in ("dog/out.png", "dog/folder"):
        (photos / name).unlink()
    shutil.rmtree(photos / "Dog")
    assert check(photos).stops("raise")
    assert not check(photos).stops("skip")


def test_what_would_stop_protect_before_or_behind_the_pictures(photos: Path) -> None:
    for options, match in (
        ({"format": "npz"}, "pictures differ in size, but npz needs one size"),
        ({"method": "bayes-error"}, "pictures differ in size, but bayes-error needs one size"),
        ({"method": "classwise-conv:kernel_size=4"}, "kernel size must be an odd number"),
    ):
        [problem] = check(photos, **options).problems
        assert match in problem.reason
        assert not problem.skippable
    assert check(photos, format="npz", resize=24).problems == []
    (photos / "cat" / f"{'x' * 251}.bmp").write_bytes((photos / "cat" / "0.png").read_bytes())
    assert "too long" in check(photos, format="webp").problems[0].reason
    with pytest.raises(UserError, match="no such file"):
        check(photos / "nowhere")


def test_what_lies_beside_a_split_is_looked_at(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "set" / split / "cat").mkdir(parents=True)
        Image.fromarray(photo(16, 16)).save(tmp_path / "set" / split / "cat" / "0.png")
    (tmp_path / "set" / "\udcff\x1b").mkdir()
    with pytest.raises(UserError, match="its name is not UTF-8"):
        protect_dataset(tmp_path / "set", tmp_path / "out", secret=KEY, workers=0)
    found = check(tmp_path / "set")
    assert [(each.reason, each.remedy) for each in found.problems] == [("its name is not UTF-8", "rename it")]
    assert (found.stops("raise"), found.stops("skip")) == (True, False)
    protect_dataset(tmp_path / "set", tmp_path / "out", secret=KEY, workers=0, on_error="skip")
    (tmp_path / "set" / "link").symlink_to("nowhere")
    assert check(tmp_path / "set").stops("skip")


def test_what_is_no_file_is_not_to_be_removed(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("cat/0.png,a\x1b[2J\n")
    options = Options(METHODS.create("classwise-conv"))
    for src, name, reason in (
        (photos, "absent.csv", "cannot be read"),
        (photos, "list.csv", "must be a class's name"),
        (Path("memory://b/set"), "list.csv", "SRC is a folder"),
    ):
        [problem] = check_dataset(src, options, KEY, labels=tmp_path / name).problems
        assert (reason in problem.reason, problem.remedy) == (True, "")
    [problem] = check(photos, method="classwise-conv:kernel_size=4").problems
    assert problem.remedy == ""


def test_that_nothing_would_be_protected_is_told_as_protect_does(photos: Path, tmp_path: Path) -> None:
    told: list[str] = []
    protect_dataset(photos, tmp_path / "out", secret=KEY, fraction=0.01, workers=0, notify=told.append)
    assert told[0] == "warning: no image is protected: --fraction 0.01 selects none of 5 images"
    assert check(photos, fraction=0.01).notes == told[:1]
    assert check(photos, fraction=0.5).notes == []


def test_names_that_cannot_be_written_are_found_before_anything_is(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "0.bmp").mkdir()
    shutil.copy(photos / "cat" / "1.png", photos / "cat" / "0.bmp" / "2.png")
    (photos / "cat" / "0.png").rename(photos / "cat" / "0.bmp" / "0.png")
    (photos / "cat" / "0.bmp").rename(photos / "cat" / "a.png")
    shutil.copy(photos / "cat" / "1.png", photos / "cat" / "a.gif")
    with pytest.raises(UserError, match=r"cat/a\.png: a picture would lie where a folder is needed"):
        protect_dataset(photos, tmp_path / "out", secret=KEY, workers=0)
    assert not (tmp_path / "out.partial").exists()
    assert "where a folder" in check(photos).problems[0].reason


def test_the_command(run: Any, photos: Path) -> None:  # noqa: F811
    result = run("check", photos)
    assert result.returncode == 0
    first, second, last = result.stdout.splitlines()
    assert first == "5 pictures from 24x24 to 40x30 in 2 classes of 2 to 3"
    assert second.startswith("expected: 0.0 MB in 1 s, PSNR ")
    assert last == "protect would go through"
    assert "fraction must be above 0 and at most 1" in run("check", photos, "--fraction", "nan").stderr
    assert "--shard-size goes with" in run("check", photos, "--shard-size", "9").stderr
    (photos / "cat" / "\x1b[2J.png").write_bytes(b"")
    result = run("check", photos)
    assert result.returncode == 2
    assert result.stdout.splitlines()[0].startswith(r"cat/\x1b[2J.png: not an image of a known format")
    assert run("check", photos, "--on-error", "skip").returncode == 0
    assert ONE_CLASS in run("check", photos / "dog").stdout.splitlines()
    found = json.loads(run("check", photos, "--json").stdout)
    assert found["stops"] is True
    assert found["problems"][0]["file"] == "cat/\x1b[2J.png"


def test_a_dry_run_writes_nothing_and_json_tells_what_was_written(run: Any, photos: Path) -> None:  # noqa: F811
    run("keygen", "k")
    command = ("protect", photos, "out", "--key-file", "k", "--workers", "0")
    result = run(*command, "--dry-run")
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "protect would go through")
    assert not Path("out").exists()
    result = run(*command, "--dry-run", "--extend", "--json")
    [problem] = json.loads(result.stdout)["problems"]
    assert (result.returncode, "out: not a protected dataset" in problem["reason"]) == (2, True)
    (photos / "cat" / "bad.png").write_bytes(b"")
    assert run(*command, "--dry-run").returncode == 2
    assert "cat/bad.png: " in run(*command, "--dry-run", "--extend").stdout
    found = json.loads(run(*command, "--on-error", "skip", "--json").stdout)
    assert (found["images"], found["protected"], found["method"]) == (5, 5, "classwise-conv")
    assert [name for name, _ in found["skipped"]] == ["cat/bad.png"]
    assert "files" not in found


def test_a_dry_run_tells_what_extending_would_do(run: Any, photos: Path) -> None:  # noqa: F811
    run("keygen", "k")
    command = ("protect", photos, "out", "--key-file", "k", "--workers", "0")
    assert run(*command, "--resize", "16").returncode == 0
    before = contents(Path("out"))
    (photos / "dog" / "1.png").rename(photos / "cat" / "9.png")
    result = run(*command, "--extend", "--dry-run")
    assert (result.returncode, "give --prune to remove them too" in result.stdout) == (2, True)
    result = run(*command, "--extend", "--dry-run", "--prune")
    told, first, *_, last = result.stdout.splitlines()
    assert told == "would add 1 pictures and remove 1"
    assert first == "5 pictures from 16x16 to 16x16 in 2 classes of 1 to 4"  # as the manifest says
    assert (result.returncode, last) == (0, "protect would go through")
    assert contents(Path("out")) == before
    assert not list(Path().glob("out.*"))


def test_a_dry_run_knows_what_is_protected_already(run: Any, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "src" / "c").mkdir(parents=True)
    for number in range(4):
        Image.fromarray(photo(8, 8)).save(tmp_path / "src" / "c" / f"{number}.png")
    run("keygen", "k")
    command = ("protect", "src", "out", "--key-file", "k", "--workers", "0")
    assert run(*command, "--fraction", "0.25").returncode == 0
    files = json.loads((tmp_path / "out" / "manifest.json").read_bytes())["files"]
    [kept] = [name for name, entry in files.items() if entry["protected"]]
    for name in files.keys() - {kept}:
        (tmp_path / "src" / name).unlink()
    told = run(*command, "--extend", "--prune", "--dry-run")
    assert (told.returncode, "no image is protected" in told.stdout) == (0, False)
    (tmp_path / "src" / kept).rename(tmp_path / "src" / "c" / "new.png")
    told = run(*command, "--extend", "--prune", "--dry-run", "--accept-exposure")
    assert "warning: no image is protected: --fraction 0.25 selects none of 1 images" in told.stdout


def test_a_dry_run_stops_where_publishing_would(run: Any, photos: Path) -> None:  # noqa: F811
    run("keygen", "k")
    command = ("protect", photos, "out", "--workers", "0", "--json")
    key = ("--key-file", "k")

    def dry(*options: Any) -> str:
        result = run(*command, "--dry-run", *options)
        problems = [each["reason"] for each in json.loads(result.stdout)["problems"]]
        assert result.returncode == (2 if problems else 0)
        return "; ".join(problems)

    assert "fraction must be above 0" in run(*command, "--dry-run", "--fraction", "0").stderr
    assert dry(*key, "--fraction", "0.5") == ""
    assert run(*command, *key).returncode == 0
    assert dry(*key) == ""
    refusal = dry(*key, "--intensity", "strong")
    assert (
        "holds a dataset that differs in kernel_size (3, now 5); going by names, what was done to 5"
        in refusal
    )
    assert (
        "5 pictures, such as cat/0.png, could be estimated from both; add new pictures with --extend"
        in refusal
    )
    assert "estimated" not in dry(*key, "--format", "webp")
    assert "give --key-file" in dry()
    Path("out").rename("before")
    assert dry() == ""
    assert "published in another way before" in dry(*key, "--earlier", "before", "--intensity", "mild")
    assert dry(*key, "--earlier", "before", "--intensity", "mild", "--accept-exposure") == ""
    assert "give --key-file" in dry("--earlier", "before")
    assert not list(Path().glob("out*"))


def test_a_dry_run_stops_where_something_else_was_begun(photos: Path, tmp_path: Path) -> None:
    def dry(dst: Path, secret: Key | None = KEY) -> None:
        asked = Options(METHODS.create("classwise-conv"))
        same: dict[str, Any] = {"labels": None, "on_error": "raise", "accept_exposure": False}
        check_publishing(photos, dst, asked, secret, earlier=(), notify=lambda message: None, **same)

    out, begun = tmp_path / "out", tmp_path / "out.partial"
    interrupted(photos, out, 2, strength=0.2)
    before = contents(begun)
    with pytest.raises(UserError, match="holds an unfinished run that differs in strength"):
        dry(out)
    with pytest.raises(UserError, match=r"what is in .*/out\.partial can be compared with the key alone"):
        dry(out, None)
    assert contents(begun) == before
    (begun / "plan.jsonl").rename(begun / "restores")
    with pytest.raises(UserError, match="holds another unfinished restoration"):
        dry(out)
    (begun / "other").touch()
    with pytest.raises(UserError, match="but holds 'other'"):
        dry(out)
    (tmp_path / "file").touch()
    for secret in (KEY, None):
        with pytest.raises(UserError, match="/file is not a folder"):
            dry(tmp_path / "file" / "a" / "b", secret)
    dry(tmp_path / "no" / "such")


def test_a_dry_run_of_extending_leaves_out_what_is_skipped(run: Any, photos: Path) -> None:  # noqa: F811
    run("keygen", "k")
    command = ("protect", photos, "out", "--key-file", "k", "--workers", "0")
    assert run(*command).returncode == 0
    dry = (*command, "--extend", "--dry-run", "--on-error", "skip")
    whole = (photos / "cat" / "0.png").read_bytes()
    (photos / "cat" / "bad.png").write_bytes(b"x")
    (photos / "cat" / "new.png").write_bytes(whole)
    result = run(*dry)
    assert (result.returncode, "would add 1 pictures and remove 0" in result.stdout) == (0, True)
    (photos / "cat" / "0.png").write_bytes(b"broken")
    result = run(*dry)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (2, "protect would stop")
    assert "\ncat/0.png has another original now" in result.stdout
    for name in ("bad", "new"):
        (photos / "cat" / f"{name}.png").unlink()
    (photos / "cat" / "0.png").write_bytes(bytes(len(whole)))
    result = run(*dry)
    assert (result.returncode, "would add 0 pictures and remove 0" in result.stdout) == (0, True)
    assert run(*command, "--extend", "--on-error", "skip").returncode == 0  # nothing is new by sizes
    assert run(*dry, "--rehash").returncode == 2


def test_a_dry_run_of_extending_stops_where_a_restoration_was_begun(photos: Path, tmp_path: Path) -> None:
    out, begun = tmp_path / "out", tmp_path / "out.partial"
    protect_dataset(photos, out, secret=KEY, workers=0)
    begun.mkdir()
    (begun / "restores").touch()
    with pytest.raises(UserError, match="holds another unfinished restoration"):
        extending(photos, out)


@pytest.mark.parametrize("format", ["webp", "webdataset:images=webp"])
def test_every_picture_too_large_for_its_format_is_listed(photos: Path, format: str) -> None:
    for number in range(3):
        Image.new("RGB", (17_000, 8)).save(photos / "dog" / f"wide{number}.jpg", quality=10)
    found = check(photos, format=format)
    assert [problem.file for problem in found.problems] == [f"dog/wide{number}.jpg" for number in range(3)]
    assert found.problems[0].reason == "cannot be written as webp: 17000x8, at most 16383 pixels a side"
    assert found.problems[0].remedy == "give --resize, or another --format"
    assert (found.images, found.largest, found.sampled) == (5, (40, 30), 5)
    assert found.stops("raise")
    assert not found.stops("skip")
    assert check(photos).problems == []
    for path in photos.glob("*/*.png"):
        path.unlink()
    shutil.rmtree(photos / "cat")
    assert check(photos, format=format).stops("skip")


def test_what_only_the_encoder_refuses_is_listed_by_picture(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(self: FolderWriter, image: np.ndarray, destination: Any, name: str, profile: bytes) -> bytes:
        if name.startswith("dog"):
            raise ImageError(f"{name}: cannot be written as png: no")
        return b"x"

    monkeypatch.setattr(FolderWriter, "encode", encode)
    found = check(photos, format="png")
    assert [(each.file, each.skippable) for each in found.problems] == [
        ("dog/0.png", True),
        ("dog/1.png", True),
    ]
    assert (found.images, found.classes, found.sampled) == (3, {"cat": 3, "dog": 0}, 3)
