"""Results of rows as tables, text and a page: what stands where; and no scaled row passes for a full one."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sample_results import SCALED, sample_result
from small_runs import write_tree

from unlearnable_kernels.cli import app
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.recipes.papers import hardening, worst_defence
from unlearnable_kernels.recipes.results import circumstances, read_result
from unlearnable_kernels.report import is_results, write_results_report
from unlearnable_kernels.report.figures import colour
from unlearnable_kernels.report.matrix import DEFENCES, PARTS, TESTS, Table, tables
from unlearnable_kernels.report.matrix_page import grid_block
from unlearnable_kernels.report.matrix_text import csv_text, figure, latex, markdown, text_rows
from unlearnable_kernels.report.plots import bars, budgets, curves, parts
from unlearnable_kernels.training import TrainConfig
from unlearnable_kernels.training.run_folder import write_run

PLACE = "cuda-cvpr2023/cifar10"
GRID = {
    "small-grid/plain/none": [0.56, 0.58],
    "small-grid/plain/zeros": [0.25, 0.27],
    "small-grid/rsk-ff/zeros": [0.44, 0.46],
    "small-grid/coin/zeros": [0.30, 0.30],
    "small-grid/plain/reflect": [0.31],
}


def grid(**changes: Any) -> list[dict[str, Any]]:
    return [sample_result(name, last, **changes) for name, last in GRID.items()]


def one(results: Sequence[dict[str, Any]]) -> Table:
    [table] = tables(results)
    return table


def test_the_worst_defence_comes_first_beside_the_picture_quality() -> None:
    heading, *rows = text_rows(one(grid()[::-1]))
    assert heading == ["protection", "PSNR, dB", "SSIM", "worst", "mean", "seeds", "plain", "rsk-ff", "coin"]
    assert rows == [
        ["none", "-", "-", "plain 57.0 ± 1.4 (1 of 3)", "57.0 (1 of 3)", "2", "57.0 ± 1.4", "-", "-"],
        ["zeros", "20.0", "0.75", "rsk-ff 45.0 ± 1.4", "33.7", "2", "26.0 ± 1.4", "45.0 ± 1.4", "30.0 ± 0.0"],
        ["reflect", "20.0", "0.75", "plain 31.0 (1 of 3)", "31.0 (1 of 3)", "1", "31.0", "-", "-"],
    ]


def test_where_no_defence_was_tried_none_is_the_worst(tmp_path: Path) -> None:
    names = ("beo-arms/joint-augmented/conv", "beo-arms/everything-augmented/conv", "formats/plain/none")
    for table in tables([sample_result(name, [0.5]) for name in names]):
        assert text_rows(table)[0][:4] == ["protection", "PSNR, dB", "SSIM", "seeds"]
        assert "worst" not in csv_text(table)
        assert "**" not in "".join(markdown(table))
        assert "textbf" not in latex(table)
    (tmp_path / "one.json").write_text(json.dumps(sample_result(names[-1], [0.5])))
    write_results_report([tmp_path], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "at best" not in page
    assert "class=worst" not in page
    assert ("Accuracy by training" in page, "Accuracy by defence" in page) == (True, False)


def test_as_many_protections_as_a_recipe_has_differ_in_colour() -> None:
    most = max(map(len, (worst_defence.PROTECTIONS, hardening.PROTECTIONS)))
    assert len({colour(index) for index in range(most)}) == most


def test_quality_is_the_mean_over_the_seeds_sets() -> None:
    quality = [{"psnr": 20.0, "ssim": 0.5}, {"psnr": 30.0, "ssim": None}]
    result = sample_result("small-grid/plain/zeros", [0.2, 0.2], quality=quality)
    assert text_rows(one([result]))[1][1:3] == ["25.0", "0.50"]


def test_published_figures_stand_beside_full_rows_only() -> None:
    name = f"{PLACE}/erm/cuda"
    assert figure(sample_result(name, [0.2])) == "20.0 (18.48 to 25.48)"
    assert figure(sample_result(name, [0.3])) == "30.0 (18.48 to 25.48, outside)"
    assert figure(sample_result(f"{PLACE}/at/cuda", [0.3])) == "30.0 (44.40)"
    assert figure(sample_result("later-breaks/cifar10/erm/vuda", [0.3], about=True)) == "30.0 (about 41)"
    assert figure(sample_result(name, [0.3], scaled=SCALED)) == "30.0"


def test_scaled_rows_have_tables_of_their_own_behind_the_full_ones() -> None:
    scaled = [sample_result(f"{PLACE}/erm/cuda", [0.2], scaled=SCALED)]
    full, after = tables([*scaled, sample_result(f"{PLACE}/erm/cuda", [0.3])])
    assert (full.scaled, after.scaled) == ("", "0.1 of the epochs, 500 images")
    assert after.title == f"Scaled: {PLACE}, resnet18"
    assert after.conditions[-1].endswith("not to be compared with published figures.")
    for text in (csv_text(after), latex(after), "".join(markdown(after))):
        assert "18.48" not in text
    assert all("18.48" in text for text in (csv_text(full), latex(full), "".join(markdown(full))))


def test_parts_other_tests_and_networks_have_tables_of_their_own() -> None:
    rows = ["erm/cuda", "test-permuted/cuda", "part-0.2/cuda", "part-0.2/clean-part", "at-vgg16/cuda"]
    results = [sample_result(f"{PLACE}/{name}", [0.5]) for name in rows]
    made = tables(results)
    assert [table.kind for table in made] == [DEFENCES, DEFENCES, TESTS, PARTS]
    assert len({table.name for table in made}) == 4
    assert made[-1].title == f"{PLACE}, resnet18, a part of the images protected"
    assert [line.protection for line in made[-1].lines] == ["cuda", "clean-part"]
    assert text_rows(made[-1])[0] == ["protection", "PSNR, dB", "SSIM", "seeds", "part-0.2"]


def test_machines_share_a_table_and_more_seeds_count_before_later_ones() -> None:
    gpu = {"cpu": "Some CPU", "cores": 2, "gpu": "Some GPU"}
    name = f"{PLACE}/erm/cuda"
    more = sample_result(name, [0.2, 0.4], machine=gpu, date="2026-01-01")
    earlier, later = (
        sample_result(name, [mean], date=f"2026-02-0{day}") for day, mean in ((1, 0.5), (2, 0.6))
    )
    other = sample_result(f"{PLACE}/at/cuda", [0.7])
    for results, mean in (
        ([more, later], 0.3),
        ([later, more], 0.3),
        ([later, earlier], 0.6),
        ([earlier, later], 0.6),
    ):
        line = one([*results, other]).lines[0]
        found = {column: round(each["mean"], 9) for column, each in line.results.items()}
        assert found == {"erm": mean, "at": 0.7}
    other["runs"][0]["machine"] = later["machine"] | {"cpu": "Third CPU"}  # of one run of several
    told = " ".join(one([more, later, other]).conditions)
    assert "epochs; Some GPU, torch" in told
    assert "; or Third CPU, 2 cores, torch" in told


def test_csv_has_a_number_in_every_cell() -> None:
    lines = list(
        csv.DictReader(io.StringIO(csv_text(one([*grid(), sample_result("small-grid/coin/none", [0.5])]))))
    )
    assert [line["protection"] for line in lines] == ["none", "zeros", "reflect"]
    assert (lines[1]["worst_defence"], float(lines[1]["worst"])) == ("rsk-ff", 45.0)
    assert (float(lines[1]["rsk-ff"]), float(lines[1]["rsk-ff sd"])) == (45.0, 1.41)
    assert (lines[2]["rsk-ff"], lines[2]["plain sd"], lines[0]["psnr_db"]) == ("", "", "")


def test_latex_is_escaped() -> None:
    table = one(grid())
    for line in table.lines:
        line.results["50%_&"] = line.results["plain"]
    table.columns.append("50%_&")
    text = latex(table)
    assert r"rsk-ff & coin & 50\%\_\& \\" in text
    assert r"\textbf{rsk-ff 45.0 $\pm$ 1.4}" in text
    assert text.count("\n\\hline") == 3


def test_the_readmes_grid_is_of_full_rows_of_the_grid() -> None:
    scaled = grid(scaled=SCALED)
    assert grid_block(tables([*scaled, sample_result(f"{PLACE}/erm/cuda", [0.2])])) == ["Not yet measured."]
    assert "| zeros | 20.0 | 0.75 | **rsk-ff 45.0 ± 1.4** | 26.0 ± 1.4 | 33.7 | 2 |" in grid_block(
        tables([*grid(), *scaled])
    )


def test_figures_are_drawn_where_there_is_something_to_draw() -> None:
    assert budgets(one(grid())) is None
    assert parts(one(grid())) is None
    at = [sample_result(f"{PLACE}/{name}/cuda", [0.3]) for name in ("erm", "at", "at-linf-8")]
    assert "L∞ ε in 1/255" in str(budgets(one(at)))
    assert budgets(one(at[:2])) is None
    half = [sample_result(f"{PLACE}/part-{part}/cuda", [0.9]) for part in (0.2, 0.4)]
    assert "protected images in %" in str(parts(one(half)))
    assert parts(one(half[:1])) is None
    drawn = str(curves(one(grid())))
    assert all(name in drawn for name in ("plain", "rsk-ff", "coin", "zeros", "reflect"))
    before = grid()
    for result in before:
        del result["accuracy"]["by_epoch"]
    assert curves(one(before)) is None


def test_names_are_text_in_figures_and_tables(tmp_path: Path) -> None:
    name = r"x/$\frac{1}{$/_none"
    result = sample_result("small-grid/plain/none", [0.5, 0.6])
    result |= {"row": name}
    for run in result["runs"]:
        run["machine"] = run["machine"] | {"cpu": "a\n\\input{b}"}
    table = one([result])
    for drawn in (bars(table), curves(table)):
        assert r"$\frac{1}{$" in str(drawn)
        assert "_none" in str(drawn)
    assert r"a\n\input{b}" in latex(table).splitlines()[1]
    path = tmp_path / "result.json"
    for bad in ("plain", "x/y\n/z"):
        path.write_text(json.dumps(result | {"row": bad}))
        with pytest.raises(UserError, match="'row' is missing or malformed"):
            read_result(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    for result in grid():
        path = root / result["row"] / f"{circumstances(result)}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(result))
    return root


def test_the_command_writes_the_page_and_tables_beside_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "docs" / "page.html"
    app(["report", str(folder), "--out", str(out)], standalone_mode=False)
    assert "2 files of tables" in capsys.readouterr().out
    text = out.read_text()
    assert "<td class=worst>rsk-ff 45.0 ± 1.4</td>" in text
    assert "zeros: at worst 45.0 ± 1.4 % with rsk-ff, PSNR 20.0 dB, SSIM 0.75." in text
    assert text.count("<svg") == 2  # by defence, and by epoch
    assert "<script" not in text
    stem = "small-grid-resnet8"
    assert {path.name for path in (tmp_path / "docs" / "page").iterdir()} == {f"{stem}.csv", f"{stem}.tex"}


def test_pictures_come_from_the_work_folder(tmp_path: Path) -> None:
    data, guarded = tmp_path / "animals", tmp_path / "sets" / "guarded"
    write_tree(data / "train", ["cat", "dog"], 2, seed=0)
    write_tree(data / "test", ["cat", "dog"], 2, seed=1)
    protect_dataset(data, guarded, secret=Key(bytes(32)), workers=0)
    result = sample_result("small-grid/plain/zeros", [0.2], upon="random-noise", stored_as="jpeg")
    seen = {"path": "x", "images": 4, "sha256": result["data"]["train"]["sha256"], "protection": {}}
    record = {
        "status": "unfinished",
        "classes": ["cat", "dog"],
        "image_size": 16,
        "train": seen,
        "test": None,
    }
    record |= {"plugins": {}, "fresh_tensors": None, "device": "cpu", "machine": result["machine"]}
    config = TrainConfig(str(guarded), test=str(data))
    write_run(tmp_path / "runs" / "one", config, record | {"versions": {}, "final": None})
    other = sample_result("small-grid/plain/reflect", [0.2])
    for each in (result, other):
        (tmp_path / "r").mkdir(exist_ok=True)
        (tmp_path / "r" / f"{each['protection'][-5:]}.json").write_text(json.dumps(each))
    told: list[tuple[str, int, int]] = []
    page, work = tmp_path / "page.html", tmp_path
    write_results_report([tmp_path / "r"], page, work=work, progress=lambda *each: told.append(each))
    assert told == [("drawing", 1, 1)]
    text = (tmp_path / "page.html").read_text()
    assert text.count("<img") == 2 * 3
    assert f"<h2>{result['dataset']}, random-noise, {result['protection']}, jpeg</h2>" in text
    assert f"<h2>{other['dataset']}, {other['protection']}</h2>" not in text


def test_bad_calls(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for path in ("config.json", "run.json"):
        (tmp_path / "run" / path).write_text("{}")
    assert (is_results(folder), is_results(tmp_path / "run")) == (True, False)
    (tmp_path / "notes.html").write_text("mine")
    for line, message in (
        ([str(folder), str(tmp_path / "run")], "either"),
        ([str(tmp_path / "run"), "--work", "x"], "for runs leave it out"),
        ([str(folder), "--out", str(tmp_path / "notes.html")], "not an HTML page"),
    ):
        with pytest.raises(UserError, match=message):
            app(["report", *line], standalone_mode=False)
    with pytest.raises(UserError, match="no results of"):
        write_results_report([tmp_path / "empty"], tmp_path / "page.html")
