"""Collect run folders into one JSON file for results/.

python scripts/record_runs.py demo/runs/clean demo/runs/protected --what "…" --out results/NAME.json
"""

import argparse
import json
from pathlib import Path

from unlearnable_kernels.files import read_jsonl, write_json
from unlearnable_kernels.recipes.results import accuracies, origin, standard_error


def collect(run: Path) -> dict:
    record = json.loads((run / "run.json").read_text())
    config = json.loads((run / "config.json").read_text())
    for part in ("train", "test"):
        config[part] = Path(config[part]).name
        record[part].pop("path")
    for part in ("clean", "pretrained"):
        if config[part] is not None:
            config[part] = Path(config[part]).name
    kept = {name: record[name] for name in ("train", "test", "final", "image_size")}
    metrics = read_jsonl(run / "metrics.jsonl")
    return {"name": run.name, "config": config, **kept, **summary(record, metrics), "metrics": metrics}


def summary(record: dict, metrics: list[dict]) -> dict:
    """What a table's row has of a run as well: its accuracies, their standard error, what trained it."""
    accuracy = accuracies([[line["test_accuracy"] for line in metrics]])
    error = standard_error(accuracy["last"][0], record["test"]["images"])
    return {"accuracy": accuracy, "standard_error": error, "origin": origin(record)}


def collect_runs(runs: list[Path], what: str, out: Path) -> None:
    """One JSON file of finished runs on one machine; what: one sentence on data, network and conditions."""
    first = json.loads((runs[0] / "run.json").read_text())
    kept = {name: first[name] for name in ("machine", "versions")}
    write_json(out, {"what": what, **kept, "runs": [collect(run) for run in runs]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--what", required=True, help="one sentence: data, network, conditions")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    collect_runs(arguments.runs, arguments.what, arguments.out)


if __name__ == "__main__":
    main()
