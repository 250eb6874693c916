"""The judgement of protections: the worst defence of either kind, what clean images leave, and the figure."""

import json
from pathlib import Path
from typing import Any

import pytest
from sample_results import sample_result

from unlearnable_kernels.recipes.papers import hardening
from unlearnable_kernels.report import results_page
from unlearnable_kernels.report.judgement import Verdict, judged, judgement_rows
from unlearnable_kernels.report.judgement_plot import against_ssim, by_shape
from unlearnable_kernels.report.matrix import tables
from unlearnable_kernels.report.matrix_page import sections

MEASURED = {
    "hardening/plain/none": 0.63,
    "hardening/gray-cells-histeq/none": 0.52,
    "hardening/gray-cells2-histeq/none": 0.51,
    "hardening/plain/fine": 0.2,
    "hardening/jpeg/fine": 0.3,
    "hardening/gray-cells-histeq/fine": 0.28,
    "hardening/gray-cells2-histeq/fine": 0.29,
    "hardening/plain/first-strong": 0.1,
}


def of(results: list[dict[str, Any]]) -> list[Verdict]:
    made = tables(results)
    return [verdict for table in made for verdict in judged(table, made)]


def samples() -> list[dict[str, Any]]:
    return [sample_result(name, [mean]) for name, mean in MEASURED.items()]


def with_ssim(name: str, mean: float, ssim: float) -> dict[str, Any]:
    return sample_result(name, [mean], quality=[{"psnr": 20.0, "ssim": ssim}])


def test_the_worst_of_each_kind_stands_beside_what_it_leaves_of_clean_images() -> None:
    heading, *rows = judgement_rows(of(samples()))
    assert heading[3:] == ["mean", "worst published", "worst adaptive", "clean", "seeds"]
    every, published = len(hardening.DEFENCES), len(hardening.PUBLISHED)
    adaptive = every - published
    none, fine, strong = ([row[0], *row[3:7]] for row in rows)
    assert none[:3] == ["none", f"55.3 (3 of {every})", f"plain 63.0 (1 of {published})"]
    assert none[3:] == [f"gray-cells-histeq 52.0 (2 of {adaptive})", "-"]
    assert fine[:3] == ["fine", f"26.8 (4 of {every})", f"jpeg 30.0 (2 of {published})"]
    assert fine[3:] == [f"gray-cells2-histeq 29.0 (2 of {adaptive})", "51.0"]
    assert strong[2:] == [f"plain 10.0 (1 of {published})", "-", "-"]


def test_who_adds_clean_images_is_compared_with_these_alone() -> None:
    mixed = {
        "training": sample_result("small-grid/plain/zeros", [0.5])["training"] | {"protected_fraction": 0.9}
    }
    zeros, none = (sample_result(f"worst-defence/plain/{name}", [0.3]) for name in ("zeros", "none"))
    added = zeros | mixed | {"row": "worst-defence/own-10/zeros", "mean": 0.4}
    alone = none | mixed | {"row": "worst-defence/own-10-alone/none", "mean": 0.35}
    first, second = judgement_rows(of([zeros, none, added, alone]))[1:]
    assert first[3].startswith("30.0 (1 of ")
    assert second[5].startswith("own-10 40.0")
    assert second[6] == "35.0"


def test_other_pictures_and_networks_are_judged_by_themselves() -> None:
    measured = {"jpeg/balanced": 0.3, "gray-cells-histeq/balanced": 0.4, "gray-cells-histeq/none": 0.5}
    rows = [sample_result(f"worst-defence/resnet18/{name}", [mean]) for name, mean in measured.items()]
    other = sample_result("worst-defence/gray-cells-histeq/none", [0.9])
    verdicts = [verdict for verdict in of([*rows, other]) if verdict.line.protection == "balanced"]
    [[_, row]] = map(judgement_rows, [verdicts])
    assert row[4:7] == ["jpeg 30.0 (1 of 3)", "gray-cells-histeq 40.0 (1 of 2)", "50.0"]


def test_other_recipes_are_not_judged_and_other_machines_are() -> None:
    assert of([sample_result("small-grid/plain/zeros", [0.3])]) == []
    machine = {"cpu": "Other CPU", "cores": 2, "gpu": None}
    other = sample_result("hardening/gray-cells2-histeq/none", [0.9], machine=machine)
    [verdict] = [each for each in of([*samples()[3:], other]) if each.line.protection == "fine"]
    assert verdict.honest == other


def test_table_and_figure_are_on_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_page, "_FIGURES", ())
    (tmp_path / "one.json").write_text(json.dumps(with_ssim("hardening/plain/fine", 0.2, 0.82)))
    results_page.write_results_report([tmp_path], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<td>plain 20.0 (1 of " in page
    assert page.count("<svg") == 1
    text = "\n".join(sections(tables(samples()), samples(), "results"))
    assert (
        "| fine | 20.0 | 0.75 | 26.8 (4 of 11) | jpeg 30.0 (2 of 5) | gray-cells2-histeq 29.0 (2 of 6) | 51.0"
        in text
    )
    other = tables([with_ssim("small-grid/plain/zeros", 0.3, 0.8)])
    assert "published and adaptive" not in "\n".join(sections(other, [], "results"))


def test_the_figure_has_a_curve_for_each_protection_whatever_its_strength() -> None:
    names = {"strong": 0.8, "balanced": 0.86, "mild": 0.9, "opponent": 0.92, "structure": 0.94}
    results = [with_ssim(f"worst-defence/plain/{name}", 0.3, ssim) for name, ssim in names.items()]
    curves = [[verdict.line.protection for verdict in curve] for curve in by_shape(of(results))]
    assert sorted(curves) == [["opponent"], ["strong", "balanced", "mild"], ["structure"]]
    drawn = str(against_ssim(of(results)))
    assert "strong, balanced, mild" in drawn
    assert all(f">{name}<" in drawn for name in names)
    assert "clean images, published defences" not in drawn
    assert against_ssim(of([sample_result("worst-defence/plain/none", [0.5])])) is None


def test_a_protection_upon_another_has_a_curve_of_its_own() -> None:
    balanced, crossed = (with_ssim(f"hardening/plain/{name}", 0.3, 0.8) for name in ("balanced", "crossed"))
    assert len(by_shape(of([balanced, crossed]))) == 2


def test_marks_are_hollow_until_all_defences_of_their_kind_are_measured() -> None:
    every = [with_ssim(f"hardening/{name}/opponent", 0.2, 0.86) for name in hardening.PUBLISHED]
    filled = 'style="fill: #2b7fd4; stroke: #2b7fd4'
    assert filled not in str(against_ssim(of(every[1:])))
    assert filled in str(against_ssim(of(every)))
