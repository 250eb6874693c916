"""Pairs of a class give its other pictures back, of ``spectral``: examples/clean_pairs.py, and a defence."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from example_scripts import example, one_class
from PIL import Image
from sample_images import photo

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.quality import psnr
from unlearnable_kernels.defences import DEFENCES, clean_pairs
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.class_spectra import PARTS, Variant, class_spectra
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.methods.spectral import SpectralMarks
from unlearnable_kernels.protect.run import protect_dataset


def test_pairs_of_a_class_undo_spectral(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    src = one_class(tmp_path / "src", (photo(32, 32, number) for number in range(14)))
    script = example("clean_pairs")
    monkeypatch.setattr(clean_pairs, "ROUNDS", 3)
    options = ["--pairs", "1", "12", "--others", "2", "--method", "spectral:intensity=strong,erased=0"]
    monkeypatch.setattr(sys, "argv", ["clean_pairs.py", str(src), *options])
    script.main()
    published, one, twelve = (
        float(line.rpartition(": ")[2].removesuffix(" dB")) for line in capsys.readouterr().out.splitlines()
    )
    assert twelve > published + 6
    assert twelve > one


def marked(folder: Path) -> tuple[Path, Path]:
    """A set of two classes, and the same after ``spectral`` without contrast."""
    src = folder / "src"
    for number in range(24):
        path = src / f"c{number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(32, 32, number)).save(path)
    method = METHODS.create("spectral:parts=cells+colour+tone,erased=0")
    protect_dataset(src, folder / "out", secret=Key(bytes(32)), workers=0, method=method)
    return src, folder / "out"


def test_trained_on_are_clean_pairs_and_what_they_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clean_pairs, "ROUNDS", 3)
    monkeypatch.setattr(clean_pairs, "AT_ONCE", 2 * 32 * 32 * 3)
    src, out = marked(tmp_path)
    before, after = load_arrays(src), load_arrays(out)
    defence = DEFENCES.create(f"clean-pairs:pairs=10,clean={src}")
    images, labels = defence.prepare(after.images, after.labels, torch.Generator())
    assert torch.equal(labels, after.labels)
    for label in (0, 1):
        rows = after.labels == label
        clean, seen, restored = (each[rows].numpy() for each in (before.images, after.images, images))
        assert np.array_equal(restored[:10], clean[:10])
        gain = [psnr(c, r) - psnr(c, s) for c, s, r in zip(clean, seen, restored, strict=True)]
        assert np.mean(gain[10:]) > 6
    filled = DEFENCES.create(f"clean-pairs:pairs=10,clean={src},fill=true")
    noisy = filled.prepare(after.images, after.labels, torch.Generator())[0]
    changed = (noisy != images).flatten(1).any(1)
    assert all(changed[after.labels == label].tolist() == [False] * 10 + [True] * 2 for label in (0, 1))
    few = DEFENCES.create(f"clean-pairs:pairs=20,clean={src}").prepare(after.images, after.labels, None)[0]
    assert torch.equal(few, before.images)


def test_contrast_is_part_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = np.stack([photo(32, 32, number) for number in range(24)])
    factors = np.array([[0.1, -0.3], [0.05, -0.2]], np.float32)
    marks = SpectralMarks(class_spectra(Key(bytes(32)), "zoo", ["cat"], dict.fromkeys(PARTS)))
    marks = replace(marks, spectra=replace(marks.spectra, contrasts=factors[None]))
    seen = np.empty_like(clean)
    marks.apply(clean, [0] * len(clean), seen)
    way_back = clean_pairs.WayBack(seen[:12], clean[:12])
    assert np.abs(way_back.contrasts - factors).sum() < np.abs(factors).sum() / 1.5
    found = np.mean([psnr(*each) for each in zip(clean[12:], way_back(seen[12:]), strict=True)])
    monkeypatch.setattr(clean_pairs.WayBack, "_fit_contrasts", lambda *call: None)
    left = clean_pairs.WayBack(seen[:12], clean[:12])(seen[12:])
    assert found > np.mean([psnr(*each) for each in zip(clean[12:], left, strict=True)]) + 3


def test_what_a_class_has_lost_is_filled_with_as_much_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_pairs, "ROUNDS", 2)
    clean = np.stack([photo(32, 32, number) // 2 + 64 for number in range(24)])
    strengths = {"cells": 0.2, "colour": None, "tone": None}
    spectra = class_spectra(Key(bytes(32)), "zoo", ["cat"], strengths, Variant(cell=2, erased=0.2))
    seen = np.empty_like(clean)
    SpectralMarks(spectra).apply(clean, [0] * len(clean), seen)
    way_back = clean_pairs.WayBack(seen[:12], clean[:12])
    erased = spectra.gains[0].repeat(2, 0).repeat(2, 1) == 0

    def energy(images: np.ndarray) -> np.ndarray:
        return np.square(clean_pairs.transformed(images / 255)).mean((0, 3))

    wanted, missing = energy(clean[12:]), energy(way_back(seen[12:]))
    filled = energy(way_back(seen[12:], torch.Generator().manual_seed(0)))
    assert missing[erased].sum() < 0.4 * wanted[erased].sum()
    assert 0.6 < filled[erased].sum() / wanted[erased].sum() < 1.4
    assert abs(filled[~erased].sum() / missing[~erased].sum() - 1) < 0.05


def test_pairs_that_there_are_not(tmp_path: Path) -> None:
    src, out = marked(tmp_path)
    after = load_arrays(out)
    with pytest.raises(UserError, match="clean-pairs: needs the data set as it was: clean=PATH"):
        DEFENCES.create("clean-pairs").prepare(after.images, after.labels, torch.Generator())
    next((src / "c1").iterdir()).unlink()
    with pytest.raises(UserError, match="src must have the training set's images, in the same order"):
        DEFENCES.create(f"clean-pairs:clean={src}").prepare(after.images, after.labels, torch.Generator())
    with pytest.raises(UserError, match="pairs must be at least 1, not 0"):
        DEFENCES.create("clean-pairs:pairs=0")
