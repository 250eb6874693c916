"""The spectral method beside an oracle of its own: parameters, bytes, parts; what becomes of a dataset."""

import hashlib
import math
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image
from sample_images import photo
from test_protect_resume import KEY, Killed, contents, kill_before, make_tree

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.manifest import read_manifest
from unlearnable_kernels.data.spectra import rings_of_cells, spectral_weights
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.check import check_dataset
from unlearnable_kernels.protect.extend import extend_dataset
from unlearnable_kernels.protect.keys import Key, Seed
from unlearnable_kernels.protect.methods import spectral as module
from unlearnable_kernels.protect.methods.class_spectra import ALL_PARTS, class_spectra
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.pipeline import plan as plan_module
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.pipeline.plan import Options
from unlearnable_kernels.protect.restore import restore_dataset
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.stages import finish_dataset, plan_dataset, render_dataset
from unlearnable_kernels.protect.verify import verify_dataset
from unlearnable_kernels.recipes.papers import ROWS, hardening, worst_defence
from unlearnable_kernels.report.contact_sheet import write_preview

STRONG = {"cells": 0.6, "colour": 0.6, "tone": 0.06}
AT_FIRST = {"parts": "cells+colour+tone", "cell": 3, "colours": "rgb", "erased": 0}
"""Defaults of the first sets; their strengths were 0.55, 0.55 and 0.055."""
FIRST_NORMAL = {"cells": 0.55, "colour": 0.55, "tone": 0.055}
EDGES = (0.5, 3, 7, 13)
RECORDED = ["dfe195ad76aa5fa8", "3a7983f0db2db6a7", "9d0d54b9a1a4a32f"]
"""SHA-256 of the gains, mixings and curves of two classes: another one would be another protection."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "first": AT_FIRST | FIRST_NORMAL,
    "second": {"cells": 0.6, "colour": 0.6, "tone": 0.06, "contrast": 0.6, "large_contrast": 1},
    "third": {"cells": 0.45, "colour": 0.4, "tone": 0.04, "contrast": 0.5, "erased": 0.1},
    "now": {},
}
PIXELS = {
    "first": "7702f5fc97b58fc4",
    "second": "02fd47e87c7ed9fa",
    "third": "90851799f1f147fb",
    "now": "f17bc5270f712db3",
}
"""SHA-256 of the pixels that ``zoo`` becomes."""


def uniform(part: str, what: str, one: str, strength: float, *shape: int) -> np.ndarray:
    data = KEY.derive(f"spectral {part} {what}", "zoo", one, strength, length=8 * math.prod(shape))
    words = [int.from_bytes(data[8 * place : 8 * place + 8], "little") for place in range(math.prod(shape))]
    return np.array([(word >> 11) / 2**53 for word in words]).reshape(shape)


def ramp(values: np.ndarray, begin: float) -> np.ndarray:
    steps = np.clip(values - begin, 0, 1)
    return 3 * steps**2 - 2 * steps**3


def expected(image: np.ndarray, one: str) -> np.ndarray:
    """What the class ``one`` of the set "zoo" does to uint8 [H, W, 3], in float64."""
    height, width, _ = image.shape
    signs = 2 * uniform("cells", "gains", one, 0.6, 11, 11) - 1
    middles = np.hypot(*np.mgrid[1:34:3, 1:34:3])
    for low, high in zip((0, *EDGES[1:]), (*EDGES[1:], 99), strict=True):
        inside = (middles >= low) & (middles < high)
        signs[inside] -= signs[inside].mean()
    rows, columns = np.arange(height) * 32 / height, np.arange(width) * 32 / width
    shares = [
        np.stack([ramp(at, 3 * cell - 1) - ramp(at, 3 * cell + 2) for cell in range(11)])
        for at in (rows, columns)
    ]
    shares[0][0], shares[1][0] = 1 - ramp(rows, 2), 1 - ramp(columns, 2)
    gains = 1 + 0.6 * np.einsum("ah,bw,ab->hw", *shares, signs)
    mixings = uniform("colour", "mixings", one, 0.6, 12, 4, 3, 3).sum(0) - 6
    mixings *= 0.6 / np.sqrt((mixings**2).sum((1, 2), keepdims=True))
    radii = np.hypot(rows[:, None], columns)
    begun = [ramp(radii, edge - 0.5) for edge in EDGES] + [0 * radii]
    bands = np.stack([begun[ring] - begun[ring + 1] for ring in range(4)])
    bands[0] *= 1 - 0.5 * np.clip((min(height, width) - 64) / 160, 0, 1)
    weights = gains[..., None, None] * (np.eye(3) + np.einsum("rhw,rij->hwij", bands, mixings))
    spectrum = scipy.fft.dctn(image / 255, axes=(0, 1), norm="ortho")
    x = scipy.fft.idctn(np.einsum("hwij,hwj->hwi", weights, spectrum), axes=(0, 1), norm="ortho")
    amplitudes = uniform("tone", "amplitudes", one, 0.06, 12, 3, 3).sum(0) - 6
    amplitudes *= 0.06 / np.abs(amplitudes).sum(1, keepdims=True)
    phases = 2 * np.pi * uniform("tone", "phases", one, 0.06, 3, 3)
    waves = np.sin(1.5 * np.pi * np.arange(1, 4) * x[..., None] + phases)
    return 255 * np.clip(x + (amplitudes * waves).sum(-1), 0, 1)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "zoo"
    for name, sizes in (("cat", [(32, 32), (20, 27)]), ("dog", [(32, 32), (90, 73), (1, 1)])):
        (root / name).mkdir(parents=True)
        for number, size in enumerate(sizes):
            Image.fromarray(photo(*size, seed=number)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plan_module, "CHUNK_IMAGES", 2)
    return make_tree(tmp_path / "src", 8)


def protect(src: Path, dst: Path, **options: Any) -> dict[str, bytes]:
    protect_dataset(src, dst, **{"secret": KEY, "workers": 0, "method": "spectral"} | options)
    return {name: data for name, data in contents(dst).items() if name != "manifest.json"}


def test_files_are_those_of_the_equations(zoo: Path, tmp_path: Path) -> None:
    protect(zoo, tmp_path / "out", **AT_FIRST, **STRONG)
    for path in sorted(zoo.rglob("*.png")):
        before = np.asarray(Image.open(path))
        wanted = expected(before, path.parent.name)
        got = np.asarray(Image.open(tmp_path / "out" / path.relative_to(zoo)))
        # Half a level of rounding, and float32.
        assert np.abs(got - wanted).max() < 0.502, path
        assert before.size == 3 or np.abs(got - before.astype(int)).mean() > 3


def test_parameters_stay_as_they_were_recorded() -> None:
    spectra = class_spectra(KEY, "zoo", ["cat", "dog"], STRONG)
    arrays = spectra.gains, spectra.mixings, spectra.curves
    digests = [hashlib.sha256(each.tobytes()).hexdigest()[:16] for each in arrays]
    assert digests == RECORDED


@pytest.mark.parametrize("which", PIXELS)
def test_pixels_stay_as_they_were_recorded(zoo: Path, tmp_path: Path, which: str) -> None:
    protect(zoo, tmp_path / "out", **DEFAULTS[which])
    digest = hashlib.sha256()
    for path in sorted((tmp_path / "out").rglob("*.png")):
        digest.update(np.asarray(Image.open(path)).tobytes())
    assert digest.hexdigest()[:16] == PIXELS[which]


def test_the_default_is_what_the_rows_of_hardening_measured() -> None:
    usual = METHODS.create("spectral")
    measured = [row.protection for name, row in ROWS.items() if re.fullmatch("hardening/.*/balanced", name)]
    assert len(measured) == len(hardening.DEFENCES)
    for text in measured:
        method = METHODS.create(text)
        assert (method.strengths, method.variant) == (usual.strengths, usual.variant)


def test_intensities_and_parts_of_the_default_are_rows_of_worst_defence() -> None:
    names = {name: f"intensity={name}" for name in ("mild", "strong")}
    names |= {name: f"parts={name}" for name in ALL_PARTS}
    for name, settings in names.items():
        now, row = (
            METHODS.create(text) for text in (f"spectral:{settings}", worst_defence.PROTECTIONS[name])
        )
        assert (row.strengths, row.variant, row.parts) == (now.strengths, now.variant, now.parts), name


def test_strengths_are_what_they_say() -> None:
    spectra = class_spectra(KEY, "zoo", [str(number) for number in range(40)], STRONG)
    np.testing.assert_allclose(np.linalg.norm(spectra.mixings, axis=(2, 3)), 0.6, rtol=1e-6)
    np.testing.assert_allclose(np.abs(spectra.curves[..., 0]).sum(-1), 0.06, rtol=1e-6)
    rings = rings_of_cells().numpy()
    for ring in range(4):
        np.testing.assert_allclose(spectra.gains[:, rings == ring].mean(1), 1, rtol=1e-6)
    assert 0.34 < spectra.gains[:, rings == 3].std() < 0.36  # 0.6 / √3
    assert abs(spectra.mixings.mean()) < 0.01
    assert 0 <= spectra.curves[..., 1].min() < 0.1
    assert 6.2 < spectra.curves[..., 1].max() < 6.3


def test_every_part_class_strength_key_and_name_draws_for_itself() -> None:
    def first(secret: Key | Seed, name: str, classes: Any, **strengths: float) -> list[float]:
        made = class_spectra(secret, name, classes, STRONG | strengths)
        return [float(each[-1].flat[at]) for each, at in ((made.gains, 9), (made.mixings, 0))] + [
            float(made.curves[-1, 0, 0, 1])
        ]

    base = first(KEY, "zoo", ["cat"])
    assert first(KEY, "zoo", ["b", "a", "cat"]) == base
    others = [
        first(Key(bytes(32)), "zoo", ["cat"]),
        first(KEY, "zoos", ["cat"]),
        first(KEY, "zoo", ["cats"]),
        first(KEY, "zoo", 1),
        first(KEY, "zoo", 2),
    ]
    for column in range(3):
        assert len({each[column] for each in [base, *others]}) == 6
    weaker = first(KEY, "zoo", ["cat"], tone=0.04)
    assert weaker[:2] == base[:2]
    assert weaker[2] != base[2]


def test_the_mean_colour_stays_and_large_pictures_are_tinted_less() -> None:
    spectra = class_spectra(KEY, "zoo", ["cat"], STRONG | {"cells": None})
    mixings, gains = torch.from_numpy(spectra.mixings), torch.from_numpy(spectra.gains)
    identity = torch.eye(3)
    small, large = (spectral_weights(gains, mixings, side, side)[0] for side in (32, 224))
    for weights in (small, large):
        assert torch.equal(weights[0, 0], identity)
    torch.testing.assert_close(small[0, 2] - identity, mixings[0, 0])
    torch.testing.assert_close(large[0, 14] - identity, mixings[0, 0] / 2)
    torch.testing.assert_close(large[0, 35], small[0, 5])
    torch.testing.assert_close(small[31, 31] - identity, mixings[0, 3])


def test_local_contrast_changes_large_pictures_half_as_much() -> None:
    variant = METHODS.create("spectral").variant
    spectra = class_spectra(KEY, "zoo", ["cat", "dog"], {"contrast": 0.6}, variant)
    sets = np.array([1, 0, 1])
    whole = spectra.factors(sets, 64, 500)
    assert whole is not None
    np.testing.assert_allclose(np.abs(whole).sum((1, 2)), 0.6, rtol=1e-6)
    assert np.array_equal(whole[0], whole[2])
    for size, share in (((8, 8), 1), ((144, 400), 0.75), ((224, 224), 0.5), ((1000, 500), 0.5)):
        np.testing.assert_allclose(spectra.factors(sets, *size), share * whole, rtol=1e-6)
    before = class_spectra(KEY, "zoo", ["cat", "dog"], {"contrast": 0.6})  # as in sets that do not name it
    assert np.array_equal(before.factors(sets, 224, 224), whole)
    assert class_spectra(KEY, "zoo", ["cat"], STRONG).factors(sets, 32, 32) is None


def test_a_part_that_is_left_out_changes_nothing(zoo: Path, tmp_path: Path) -> None:
    spectra = class_spectra(KEY, "zoo", ["cat"], dict.fromkeys(STRONG))
    assert (spectra.gains == 1).all()
    assert not spectra.mixings.any()
    assert not spectra.curves[..., 0].any()
    protect(zoo, tmp_path / "a", parts="tone+cells", intensity="mild", tone=0.1)
    parameters = read_manifest(tmp_path / "a")["parameters"]
    named = {name: parameters[name] for name in ("parts", *STRONG)}
    assert named == {"parts": "cells+tone", "cells": 0.3, "colour": None, "tone": 0.1}
    heading = METHODS["spectral"].heading(parameters)
    assert heading == "spectral, cells 0.3, tone 0.1, cell 2, colours opponent, erased 0.04"


def test_classes_in_groups_and_images_one_by_one_get_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = module.SpectralMarks(class_spectra(KEY, "zoo", ["a", "b", "c"], STRONG))
    images = np.stack([photo(16, 12, seed) for seed in range(6)])
    assignment = [2, 0, -1, 1, 0, 2]
    whole, grouped, single = (np.full_like(images, 7) for _ in range(3))
    marks.apply(images, assignment, whole)
    monkeypatch.setattr(module, "_GROUP", 1)
    marks.apply(images, assignment, grouped)
    for number, one in enumerate(assignment):
        marks.apply(images[number : number + 1], [one], single[number : number + 1])
    assert np.array_equal(whole, grouped)
    assert np.array_equal(whole, single)
    assert np.array_equal(whole[2], images[2])


def test_weights_are_kept_for_the_next_pictures_but_not_sent_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WEIGHTS", 36 * (64 + 16))
    marks = module.SpectralMarks(class_spectra(KEY, "zoo", ["a", "b"], STRONG))
    made = []
    make = module.ClassSpectra.weights
    monkeypatch.setattr(module.ClassSpectra, "weights", lambda *call: made.append(call[2]) or make(*call))
    for side, one in ((8, 0), (4, 0), (8, 0), (4, 1), (4, 1), (4, 0)):
        marks.apply(photo(side, side, 1)[None], [one], np.empty((1, side, side, 3), np.uint8))
    assert made == [8, 4, 4, 4]
    assert len(pickle.dumps(marks)) < 10_000


def test_only_the_chosen_part_changes(tree: Path, tmp_path: Path) -> None:
    protect(tree, tmp_path / "out", fraction=0.5)
    before, after = load_arrays(tree / "train"), load_arrays(tmp_path / "out")
    changed = (after.images != before.images).flatten(1).any(1)
    assert [int(changed[before.labels == one].sum()) for one in (0, 1)] == [2, 2]
    protected = [each["protected"] for each in read_manifest(tmp_path / "out")["files"].values()]
    assert sorted(protected) == sorted(changed.tolist())


def test_an_interrupted_run_ends_with_the_same_bytes(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = protect(tree, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_before(6, patch)
        with pytest.raises(Killed):
            protect(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert protect(tree, tmp_path / "out") == whole
    assert verify_dataset(tmp_path / "out", KEY).ok
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert KEY.material.hex() not in text
    usual = METHODS.create("spectral")
    gain = class_spectra(KEY, "src", ["c0"], usual.strengths, usual.variant).gains[0, 0, 1]
    assert str(gain)[:6] not in text


def test_a_set_grows_and_keeps_its_bytes(tree: Path, tmp_path: Path) -> None:
    before = protect(tree, tmp_path / "dst", parts="colour+tone", intensity="mild", format="jpeg:quality=90")
    shutil.copytree(tree / "train" / "c1", tree / "train" / "b")
    extend_dataset(tree, tmp_path / "dst", secret=KEY, workers=0)
    assert verify_dataset(tmp_path / "dst", KEY).ok
    after = contents(tmp_path / "dst")
    assert after.items() >= before.items()
    assert len(after) == 12 + 1


def test_a_set_of_the_first_defaults_grows_and_comes_back(tree: Path, tmp_path: Path) -> None:
    before = protect(tree, tmp_path / "dst", **AT_FIRST, **FIRST_NORMAL)
    parameters = read_manifest(tmp_path / "dst")["parameters"]
    of_the_task = {"fraction": 1.0, "resize": None, "format": "same", "quality": 95}
    assert parameters == {"parts": AT_FIRST["parts"]} | FIRST_NORMAL | of_the_task
    shutil.copytree(tree / "train" / "c1", tree / "train" / "b")
    extend_dataset(tree, tmp_path / "dst", secret=KEY, workers=0)
    assert verify_dataset(tmp_path / "dst", KEY).ok
    assert read_manifest(tmp_path / "dst")["parameters"] == parameters
    assert contents(tmp_path / "dst").items() >= before.items()
    restore_dataset(tmp_path / "dst", tmp_path / "back", secret=KEY, workers=0)
    assert len(contents(tmp_path / "back")) == 12


def test_what_the_first_defaults_began_ends_with_their_bytes(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = protect(tree, tmp_path / "whole", **AT_FIRST, **FIRST_NORMAL)
    with monkeypatch.context() as patch:
        patch.setitem(module.INTENSITIES, "normal", FIRST_NORMAL | {"contrast": 0.55})
        plan_dataset(tree, tmp_path / "planned", Options(METHODS.make("spectral", AT_FIRST)), secret=KEY)
        kill_before(6, patch)
        with pytest.raises(Killed):
            protect(tree, tmp_path / "out", **AT_FIRST)
    render_dataset(tmp_path / "planned", secret=KEY, rank=0, world=1, executor=Executor(workers=0))
    finish_dataset(tmp_path / "planned", secret=KEY)
    assert contents(tmp_path / "planned").items() >= whole.items()
    with pytest.raises(UserError, match=r" parts .*, cells \(0.55, now 0.5\), .*cell \(None, now 2\)"):
        protect(tree, tmp_path / "out")
    assert protect(tree, tmp_path / "out", **AT_FIRST, **FIRST_NORMAL) == whole


def test_it_can_be_previewed_and_checked_before(tree: Path, tmp_path: Path) -> None:
    write_preview(tree, tmp_path / "sheet.png", KEY, method="spectral")
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    report = check_dataset(tree, Options(METHODS.create("spectral")), KEY)
    assert report.problems == []
    assert report.psnr is not None
    assert 10 < report.psnr < 40


def test_what_only_the_set_that_is_there_names_is_another_protection(tree: Path, tmp_path: Path) -> None:
    protect(tree, tmp_path / "out")
    with pytest.raises(UserError, match=r"holds a dataset that differs in erased \(0.06, now None\)"):
        protect(tree, tmp_path / "out", cells=0.5)


def test_a_plan_from_before_a_setting_was_there_is_finished_without_it(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = {"erased": 0.0, "large_contrast": 1.0}
    whole = protect(tree, tmp_path / "whole", **later)
    asked_of = plan_module.asked_of

    def before(options: Options) -> dict[str, Any]:
        asked = asked_of(options)
        settings = {name: value for name, value in asked["settings"].items() if name not in later}
        return asked | {"settings": settings}

    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "asked_of", before)
        plan_dataset(tree, tmp_path / "out", Options(METHODS.make("spectral", later)), secret=KEY)
    render_dataset(tmp_path / "out", secret=KEY, rank=0, world=1, executor=Executor(workers=0))
    finish_dataset(tmp_path / "out", secret=KEY)
    assert contents(tmp_path / "out").items() >= whole.items()


REFUSED = {
    "parts=cells+noise": "parts must be some of cells+colour+tone+contrast, not 'cells+noise'",
    "parts=tone+tone": "parts must be some of cells+colour+tone+contrast, not 'tone+tone'",
    "parts=cells,contrast=0.5": "contrast must be among the parts if it has a strength, not 'cells'",
    "cell=17": "cell must be 1 to 16, not 17",
    "edges=soft": "edges must be one of fixed, keyed, turned, not 'soft'",
    "colours=lab": "colours must be one of rgb, opponent, not 'lab'",
    "secrets=0": "secrets must be 1 to 64, not 0",
    "erased=0.001": "erased must take out a cell, not 0.001 with cells of 2",
    "cell=16,erased=0.1": "erased must take out a cell, not 0.1 with cells of 16",
    "parts=tone,large_contrast=1": "contrast must be among the parts if large_contrast is given, not 'tone'",
    "large_contrast=1.5": "large_contrast must be 0 to 1, not 1.5",
    "erased=0.6": "erased must be 0 to 0.5, not 0.6",
    "parts=tone,erased=0.1": "cells must be among the parts if some are erased, not 'tone'",
    "intensity=huge": "intensity must be one of mild, normal, strong, not 'huge'",
    "parts=cells,tone=0.1": "tone must be among the parts if it has a strength, not 'cells'",
    "cells=0": "cells must be above 0 and at most 1, not 0.0",
    "colour=1.5": "colour must be above 0 and at most 1, not 1.5",
    "tone=0.6": "tone must be above 0 and at most 0.5, not 0.6",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_it_cannot_take_is_named(text: str) -> None:
    with pytest.raises(UserError) as error:
        METHODS.create(f"spectral:{text}").check()
    assert str(error.value) == REFUSED[text]


def test_a_side_that_needs_too_large_tables_is_refused() -> None:
    marks = module.SpectralMarks(class_spectra(KEY, "zoo", ["a"], module.INTENSITIES["mild"]))
    image = np.zeros((1, 2, 2 * 5001, 3), np.uint8)
    with pytest.raises(UserError, match=r"^spectral cannot take a picture of 10002x2: .*at most 4096 px"):
        marks.apply(image, [0], image.copy())
