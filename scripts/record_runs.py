"""Collect run folders into one JSON file for results/.

python scripts/record_runs.py demo/runs/clean demo/runs/protected --what "…" --out results/NAME.json
"""

import argparse
import json
from pathlib import Path

from unlearnable_kernels.files import read_jsonl, write_json


def collect(run: Path) -> dict:
    record = json.loads((run / "run.json").read_text())
    config = json.loads((run / "config.json").read_text())
    for part in ("train", "test"):
        config[part] = Path(config[part]).name
        record[part].pop("path")
    if config["pretrained"] is not None:
        config["pretrained"] = Path(config["pretrained"]).name
    kept = {name: record[name] for name in ("train", "test", "final", "image_size")}
    return {"name": run.name, "config": config, **kept, "metrics": read_jsonl(run / "metrics.jsonl")}


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
