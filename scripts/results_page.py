"""Writes docs/results.md from results/*.json: `make results`. Never edit that page by hand."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HEAD = """# Measured results

Written by `make results` from the JSON files in `results/`, one for each machine and measurement.

For `classwise_conv`: (a) one `F.conv2d` an image, the released program's way; (b) one grouped `F.conv2d`
over the batch; (c) one `F.conv2d` a class; (d) OpenCV's `filter2D` an image; copy: the bytes alone; fma: a
loop of fused multiply-adds timed in the same run. Each file is one run on a shared host: between runs of one
day ratios moved by a third, and a ratio to fma above 1 shows that the loop was disturbed, not a miracle.
"""


def benchmark_page(record: dict[str, Any]) -> list[str]:
    lines = []
    for benchmark in record["benchmarks"]:
        lines += [
            f"### {benchmark['title']}",
            "",
            "| | rate | ours is | target |",
            "| --- | --- | --- | --- |",
        ]
        for name in dict.fromkeys([*benchmark["rates"], *benchmark["measured"]]):
            ratio, target = benchmark["measured"].get(name), benchmark["targets"].get(name)
            shown = "" if ratio is None else f"{ratio:.2f} times"
            lines.append(f"| {name} | {benchmark['rates'].get(name, '')} | {shown} | {target or ''} |")
        lines.append("")
    return lines


def training_page(record: dict[str, Any]) -> list[str]:
    lines = [
        record["what"],
        "",
        "| trained on | clean-test accuracy | in training | epochs |",
        "| --- | --- | --- | --- |",
    ]
    for run in record["runs"]:
        final = run["final"]
        tested, trained = final["test_accuracy"], final["train_accuracy"]
        lines.append(f"| {run['name']} | {tested:.1%} | {trained:.1%} | {final['epoch']} |")
    return [*lines, ""]


def main() -> None:
    lines = [HEAD]
    for path in sorted((ROOT / "results").glob("*.json")):
        record = json.loads(path.read_text())
        machine, versions = record["machine"], record["versions"]
        lines += [
            f"## {path.stem}",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
            f"GPU: {machine['gpu']}; Python {versions['python']}, torch {versions['torch']}.",
            "",
        ]
        lines += benchmark_page(record) if "benchmarks" in record else training_page(record)
    (ROOT / "docs" / "results.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
