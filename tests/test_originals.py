"""Protected images are traced to their originals by name, whatever names protect had to choose."""

from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from unlearnable_kernels.data.originals import match_originals, stem
from unlearnable_kernels.data.source import load_image, open_source
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset

COLLIDING = [
    "a.jpg",
    "a.jpeg",
    "a.png",
    "a.bmp",
    "A.jpg",
    "A.PNG",
    "a.webp",
    "a.jpg.png",
    "a.jpg.bmp",
    "a.png.png",
    "a.bmp.jpg",
    "a.jpg.png.png",
]


def test_same_name_other_suffix_or_suffix_added() -> None:
    originals = ["x/1.bmp", "x/2.png", "x/3.jpg", "x/3.png", "y/1.bmp"]
    assert match_originals(["y/1.png", "x/3.jpg.png", "x/2.png", "x/3.png", "x/1.png"], originals) == [
        4,
        2,
        1,
        3,
        0,
    ]
    assert match_originals(["x/4.png", "z/1.png", "x/1.png"], originals) == [None, None, 0]


def test_no_original_serves_twice() -> None:
    assert match_originals(["a.png", "a.jpg.png"], ["a.jpg", "a.jpg.bmp"]) == [0, 1]
    assert match_originals(["a.jpg.png", "a.png"], ["a.jpg.bmp", "a.jpg"]) == [0, 1]
    assert match_originals(["a.png", "a.webp"], ["a.bmp"]) == [0, None]


def test_what_could_be_either_is_neither() -> None:
    assert match_originals(["a.webp"], ["a.jpg", "a.png"]) == [None]


def test_an_original_that_is_gone_leaves_its_copy_to_no_other() -> None:
    assert match_originals(["a.png", "a.gif.png"], ["a.gif"]) == [None, 0]
    assert match_originals(["a.JPG", "a.png"], ["a.gif"], lambda name, _: name.endswith(".png")) == [None, 0]


def test_dots_in_folders_are_no_suffix() -> None:
    assert [stem("v1.0/a"), stem("v1.0/a.b.png"), stem("a.png"), stem("a")] == [
        "v1.0/a",
        "v1.0/a.b",
        "a",
        "a",
    ]
    assert match_originals(["v1.0/a.png"], ["v1.0/a.bmp", "v1/a.bmp"]) == [0]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class for every four of the colliding names; widths tell its images apart."""
    root = tmp_path_factory.mktemp("zoo")
    for label, names in enumerate(combinations(COLLIDING, 4)):
        folder = root / f"{label:03d}"
        folder.mkdir()
        for number, name in enumerate(names):
            Image.new("RGB", (8 + number, 8)).save(folder / name)
    return root


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_names_that_protect_chose_lead_back(zoo: Path, tmp_path: Path, format: str) -> None:
    protect_dataset(zoo, tmp_path / "out", secret=Key(bytes(range(32))), workers=0, format=format)
    source, copy = open_source(zoo), open_source(tmp_path / "out")
    positions = match_originals([s.name for s in copy.samples], [s.name for s in source.samples])
    assert sorted(position for position in positions if position is not None) == list(range(4 * 495))
    for sample, position in zip(copy.samples, positions, strict=True):
        assert position is not None
        original = source.samples[position]
        assert sample.label == original.label
        widths = [load_image(s, each, None).shape[1] for s, each in ((copy, sample), (source, original))]
        assert widths[0] == widths[1], (sample.name, original.name)
