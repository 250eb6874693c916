"""What is published is what was measured: docs/results*, and the README's blocks, follow results/."""

import json
import re
import sys
from pathlib import Path

import pytest

from unlearnable_kernels.recipes.papers import ROWS
from unlearnable_kernels.recipes.results import accuracies, read_results
from unlearnable_kernels.report.matrix import tables
from unlearnable_kernels.report.results_page import table_files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from results_details import detection_page  # noqa: E402
from results_page import BLOCKS, figures, filled, matching, measurement, page  # noqa: E402

README = (ROOT / "README.md").read_text()
MEASURED = read_results(ROOT / "results" / "reproduce")
MADE = tables(MEASURED)
RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))}


def changed(name, change):
    """The records with that measurement changed, and no other."""
    records = json.loads(json.dumps(RECORDS))
    [record] = matching(records, re.escape(name)).values()
    change(record)
    return records


def test_the_page_is_that_of_the_results():
    assert (ROOT / "docs" / "results.md").read_text() == page(RECORDS, MADE, MEASURED)


def test_rows_still_name_the_protection_that_was_measured():
    for result in read_results(ROOT / "results" / "reproduce"):
        row = ROWS[result["row"]]
        assert result["protection"] == row.protection, row.name
        assert (result.get("stored_as"), result.get("upon")) == (row.stored_as, row.upon), row.name


def test_trainings_say_by_what_they_were_made_and_how_sure_their_figures_are():
    runs = [run for record in RECORDS.values() for run in record.get("runs", ())]
    assert len(runs) > 10
    for run in runs:
        curve = [line["test_accuracy"] for line in run["metrics"]]
        assert run["accuracy"] == accuracies([curve])
        assert 0 < run["standard_error"] < 0.03
        assert run["origin"].keys() == {"commit", "threads", "device", "machine", "versions"}


def test_no_file_names_a_place_of_the_machine_that_made_it():
    for path in (ROOT / "results").rglob("*.json"):
        assert not re.search(r'"(subset:)?/', path.read_text()), path


def test_the_readme_has_every_block_and_its_figures_are_those_of_the_results():
    assert re.findall(r"<!-- results: (\S+) -->", README) == list(BLOCKS)
    assert filled(README, RECORDS, MADE) == README


def test_it_is_said_that_no_gpu_was_measured_while_that_is_so():
    for gpu, said in ((None, True), ("some GPU", False)):
        records = changed("cpu", lambda record, gpu=gpu: record["machine"].update(gpu=gpu))
        records = {stem: record for stem, record in records.items() if "-gpu" not in stem}
        text = " ".join(page(records, MADE, MEASURED).split())
        assert ("have not been measured yet; `scripts" in text) == said


def test_the_speed_on_a_gpu_is_that_of_its_file():
    def change(record):
        record["benchmarks"][0]["measured"]["matmul"] = 123

    assert "copy 0.028, matmul 5.77, torch.fft 13, best peer 5.77 (wanted 5) |" in page(
        RECORDS, MADE, MEASURED
    )
    assert "copy 0.028, matmul 123, torch.fft 13, best peer 5.77 (wanted 5) |" in page(
        changed("gpu", change), MADE, MEASURED
    )


def test_the_readme_has_five_figures():
    assert len(figures(RECORDS)) - 2 == 5


def test_a_changed_accuracy_changes_the_readme_and_the_page():
    def change(record):
        [run] = [run for run in record["runs"] if run["name"] == "protected-at-linf"]
        run["final"]["test_accuracy"] = 0.123

    records = changed("cifar10-protocols", change)
    assert "→ 12.3%" in filled(README, records, MADE)
    assert (
        page(records, MADE, MEASURED).count("| 12.3% |")
        == page(RECORDS, MADE, MEASURED).count("| 12.3% |") + 2
    )  # summary, and in full


def test_a_changed_speed_changes_the_readme_and_the_page():
    def change(record):
        record["benchmarks"][0]["rates"]["ours"] = "7,654,321 images/s, 47.03 GB/s"

    records = changed("cpu", change)
    assert "7.7 million images/s" in filled(README, records, MADE)
    assert page(records, MADE, MEASURED).count("7,654,321") == 2


def test_the_page_shows_every_file_and_every_run():
    text = page(RECORDS, MADE, MEASURED)
    for stem, record in RECORDS.items():
        assert f"### {stem}\n" in text
        for entry in record.get("runs", []):
            assert f"| {entry['name']} | {entry['final']['test_accuracy']:.1%} |" in text
        for entry in record.get("benchmarks", []):
            assert f"#### {entry['title']}\n" in text


def test_measurements_are_told_from_machines():
    assert measurement("amd-epyc-2core-torch2.11-cpu-operators") == "cpu-operators"
    assert list(matching(RECORDS, "cpu")) == ["amd-epyc-2core-torch2.11-cpu"]


def test_a_figure_of_two_machines_is_refused_until_it_is_said_which():
    twice = RECORDS | {"other-torch2.12-cpu": RECORDS["amd-epyc-2core-torch2.11-cpu"]}
    with pytest.raises(ValueError, match=r"exactly one file in results/ must be a cpu\.json"):
        figures(twice)


def test_detections_are_summed_up_for_each_padding():
    rates = {"zeros": [0.7, 0.8], "reflect": [0.5]}
    found = [
        {"padding": padding, "hit_rate": rate, "protected_as_protected": rate / 2}
        for padding, each in rates.items()
        for rate in each
    ]
    *_, zeros, reflect, _ = detection_page({"what": "x", "detections": found})
    assert zeros == "| zeros | 75.0% | 70.0% to 80.0% | 37.5% |"
    assert reflect == "| reflect | 50.0% | 50.0% to 50.0% | 25.0% |"


def test_the_tables_beside_the_page_are_those_of_the_results():
    folder = ROOT / "docs" / "results"
    assert {path.name: path.read_text() for path in folder.glob("*")} == table_files(MADE)
    assert set(re.findall(r"\]\(results/(.+?)\)", page(RECORDS, MADE, MEASURED))) == table_files(MADE).keys()


def test_without_measured_rows_it_says_so():
    assert page(RECORDS, [], []).count("Not yet measured.") == 1
    assert "<!-- results: grid -->\nNot yet measured.\n<!-- end -->" in filled(README, RECORDS, [])
