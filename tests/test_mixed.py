import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import one_thread

from unlearnable_kernels.cli import app
from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.mixture import mix
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Seed, create_key_file
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.recipes.mixture_sweep import sweep_mixtures
from unlearnable_kernels.training import TrainConfig

__all__ = ["one_thread"]  # a fixture; the network tiny comes with it
PER_CLASS = 20


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixed")
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (root / "photos" / label).mkdir(parents=True)
        for number in range(PER_CLASS):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "photos" / label / f"{number}.webp", lossless=True)
    protect_dataset(root / "photos", root / "whole", secret=Seed(0), workers=0)
    key = create_key_file(root / "key")
    protect_dataset(root / "photos", root / "half", secret=key, fraction=0.5, workers=0)
    protect_dataset(root / "photos", root / "array", secret=Seed(0), format="npz", workers=0)
    return root


def sets(photos, name="whole"):
    return load_arrays(photos / name), load_arrays(photos / "photos")


def by_class(rows, data):
    return torch.bincount(data.labels[rows], minlength=2).tolist()


@pytest.mark.parametrize("form", ["whole", "array"])
def test_a_mixture_holds_an_exact_part_of_each_class_in_protected_form(photos, form):
    protected, clean = sets(photos, form)
    mixed = mix(protected, clean, 0.3, only_clean=False)
    is_protected = (mixed.images == protected.images).all((1, 2, 3))
    is_clean = (mixed.images == clean.images).all((1, 2, 3))
    assert torch.equal(is_protected, ~is_clean)
    assert by_class(is_protected, mixed) == [6, 6]
    assert mixed.names == protected.names
    assert mixed.protection() is not None


def test_the_clean_part_is_the_rest_and_larger_parts_contain_smaller_ones(photos):
    protected, clean = sets(photos)
    kept = {
        fraction: set(mix(protected, clean, fraction, only_clean=True).names) for fraction in (0.1, 0.3, 0.9)
    }
    assert [len(names) for names in kept.values()] == [36, 28, 4]
    assert kept[0.9] < kept[0.3] < kept[0.1]
    rest = mix(protected, clean, 0.3, only_clean=True)
    mixed = mix(protected, clean, 0.3, only_clean=False)
    rows = [mixed.names.index(name) for name in rest.names]
    assert torch.equal(rest.images, mixed.images[rows])
    assert torch.equal(rest.labels, mixed.labels[rows])
    assert rest.protection() is None


def test_of_a_half_protected_set_the_protected_half_is_taken(photos):
    half, clean = sets(photos, "half")
    mixed = mix(half, clean, 0.5, only_clean=False)
    assert torch.equal(mixed.images, half.images)
    names = set(mix(half, clean, 0.5, only_clean=True).names)
    flags = half.protected_flags()
    assert names == {name for name, flag in zip(half.names, flags, strict=True) if not flag}
    with pytest.raises(UserError, match=r"0\.6, but only 10 of the 20 images of 'cat' are protected"):
        mix(half, clean, 0.6, only_clean=False)


def test_a_missing_original_and_an_empty_rest_are_named(photos):
    protected, clean = sets(photos)
    fewer = replace(clean, images=clean.images[1:], labels=clean.labels[1:], names=clean.names[1:])
    with pytest.raises(UserError, match=r"do not include the original of cat/0\.webp: give"):
        mix(protected, fewer, 0.5, only_clean=False)
    with pytest.raises(UserError, match=r"^protected_fraction is 1: no clean image is left"):
        mix(protected, clean, 1, only_clean=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clean": "c", "protected_fraction": 0.0}, "above 0 and at most 1"),
        ({"clean": "c", "protected_fraction": 1.5}, "above 0 and at most 1"),
        ({"clean": "c"}, "give both"),
        ({"protected_fraction": 0.5}, "give both"),
        ({"only_clean": True}, "give both"),
    ],
)
def test_half_a_mixture_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(train="t", **settings)


def command(photos, out, *more):
    base = ["sweep", "--train", photos / "whole", "--clean", photos / "photos", "--out", out, *more]
    short = ["--network", "tiny", "--epochs", "1", "--set", "batch_size=16"]
    app([str(each) for each in [*base, *short]], standalone_mode=False)


def test_the_sweep_trains_on_each_mixture_and_beside_it_on_its_clean_part(photos, tmp_path, capsys):
    command(photos, tmp_path, "--test", photos / "photos")
    tenths = [f"protected-0.{n}" for n in range(1, 10)]
    expected = {*tenths, *(f"{name}-clean-part" for name in tenths), "protected-1"}
    assert {folder.name for folder in tmp_path.iterdir()} == expected
    said = capsys.readouterr().out
    assert said.count("test accuracy") == 19
    counts = {
        name: json.loads((tmp_path / name / "run.json").read_text())["train"]["images"] for name in expected
    }
    assert counts["protected-0.7"] == counts["protected-1"] == 40
    assert counts["protected-0.7-clean-part"] == 12


def test_where_too_few_are_protected_nothing_is_trained(photos, tmp_path):
    with pytest.raises(UserError, match=r"1\.0, but only 10 of the 20 images of 'cat' are protected"):
        command(photos, tmp_path, "--train", photos / "half")
    assert not list(tmp_path.iterdir())


def test_fractions_of_choice_and_with_a_defence(photos, tmp_path):
    command(photos, tmp_path, "--fraction", 0.5, "--fraction", 0.25, "--defence", "at-linf:steps=1")
    names = {f"protected-{each}" for each in ("0.5", "0.5-clean-part", "0.25", "0.25-clean-part")}
    assert {folder.name for folder in tmp_path.iterdir()} == names
    config = json.loads((tmp_path / "protected-0.25-clean-part" / "config.json").read_text())
    assert config["defences"] == [{"name": "at-linf", "eps": 4 / 255, "steps": 1, "step_size": None}]
    assert (config["protected_fraction"], config["only_clean"]) == (0.25, True)


def test_one_mixture_is_an_ordinary_run(photos, tmp_path):
    mixture = ["--set", f"clean={photos / 'photos'}", "--set", "protected_fraction=0.5"]
    command = ["train", "--train", photos / "whole", "--out", tmp_path / "run", *mixture]
    short = ["--network", "tiny", "--epochs", "1", "--batch-size", "16", "--set", "only_clean=true"]
    app([str(each) for each in [*command, *short]], standalone_mode=False)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["train"]["images"] == 20


def test_a_wrong_fraction_ends_a_sweep_before_it_begins(photos, tmp_path):
    with pytest.raises(UserError, match=r"^protected_fraction must be above 0 and at most 1, not -0\.5"):
        command(photos, tmp_path, "--fraction", 0.5, "--fraction", -0.5)
    assert not list(tmp_path.iterdir())


def test_without_the_originals_or_a_fraction_one_line_says_so(photos, tmp_path):
    settings = {"train": str(photos / "whole")}
    with pytest.raises(UserError, match=r"^a sweep needs the originals .* set clean to their folder$"):
        sweep_mixtures(settings, tmp_path)
    with pytest.raises(UserError, match=r"^a sweep needs at least one fraction$"):
        sweep_mixtures(settings | {"clean": str(photos / "photos")}, tmp_path, ())
