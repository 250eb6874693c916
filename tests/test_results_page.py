"""What is published is what was measured: the page and the README's tables are those of results/*.json."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from results_page import filled, page  # noqa: E402

RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))}


def test_the_page_is_that_of_the_results():
    assert (ROOT / "docs" / "results.md").read_text() == page(RECORDS)


def test_the_tables_in_the_readme_are_those_of_the_results():
    readme = (ROOT / "README.md").read_text()
    assert filled(readme, RECORDS) == readme
    assert readme.count("<!-- results: ") == 3


def test_a_changed_figure_changes_the_table():
    readme = (ROOT / "README.md").read_text()
    [stem] = [stem for stem in RECORDS if stem.endswith("-cifar10-protocols")]
    changed = json.loads(json.dumps(RECORDS))
    changed[stem]["runs"][0]["final"]["test_accuracy"] = 0.123
    assert "12.3% |" in filled(readme, changed).partition("results: cifar10-protocols")[2].partition("end")[0]
