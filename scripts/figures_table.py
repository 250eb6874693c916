"""Print the figures of a benchmark's JSON file as a short table.

python scripts/figures_table.py FILE
"""

import json
import sys
from pathlib import Path


def main() -> None:
    for benchmark in json.loads(Path(sys.argv[1]).read_text())["benchmarks"]:
        print(benchmark["title"])
        print("  ours:", benchmark["rates"].get("ours", ""))
        for name, value in benchmark["measured"].items():
            target = benchmark["targets"].get(name)
            goal = "" if target is None else f"  target {target:g} {'ok' if value >= target else 'UNDER'}"
            print(f"  / {name:24} {value:8.2f}{goal}")


if __name__ == "__main__":
    main()
