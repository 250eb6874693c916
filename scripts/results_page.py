"""Writes docs/results.md, and the README's marked tables, from results/*.json: `make results`.

Never edit that page by hand, nor what stands in the README between <!-- results: NAME --> and <!-- end -->,
where NAME is that of the file without machine and torch version.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HEAD = """# Measured results

Written by `make results` from the JSON files in `results/`, one for each machine and measurement.

Each row says how many times as fast ours is, or which part of a ceiling it reaches (copy, fma, sgemm). For
`classwise_conv`: (a) one `F.conv2d` an image, the released program's way; (b) one grouped `F.conv2d`
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


def protocols_table(record: dict[str, Any]) -> list[str]:
    """Clean-test accuracies after training on clean and on protected images, a row for each protocol."""
    reached = {run["name"]: run["final"]["test_accuracy"] for run in record["runs"]}
    names = {"erm": "plain (ERM)", "at-linf": "adversarial, L∞ 4/255", "at-l2": "adversarial, L2 0.5"}
    lines = ["| trained | on clean images | on protected images |", "| --- | --- | --- |"]
    for protocol, name in names.items():
        pair = [reached.get(f"{data}-{protocol}") for data in ("clean", "protected")]
        if None not in pair:
            lines.append(f"| {name} | {' | '.join(f'{each:.1%}' for each in pair)} |")
    return [*lines, "", f"{record['what']}; {record['machine']['cpu']}, {record['machine']['cores']} cores."]


def mixed_table(record: dict[str, Any]) -> list[str]:
    lines = ["| trained on | clean-test accuracy |", "| --- | --- |"]
    lines += [f"| {run['name']} | {run['final']['test_accuracy']:.1%} |" for run in record["runs"]]
    return [*lines, "", f"{record['what']}; {record['machine']['cpu']}, {record['machine']['cores']} cores."]


def operators_table(record: dict[str, Any]) -> list[str]:
    lines = ["| | ours | ours is … times as fast as |", "| --- | --- | --- |"]
    for benchmark in record["benchmarks"]:
        ceilings = ("copy", "sgemm", "fma", "product", "memory")
        ratios = [
            f"{name} {ratio:.3g}"
            for name, ratio in benchmark["measured"].items()
            if not any(word in name for word in ceilings)
        ]
        title = re.sub(r"^(\w+)", r"`\1`", benchmark["title"].partition(", avx")[0].partition(";")[0])
        lines.append(f"| {title} | {benchmark['rates']['ours']} | {', '.join(ratios)} |")
    return lines


README_TABLES = {
    "cifar10-protocols": protocols_table,
    "cifar10-mixed": mixed_table,
    "cpu-operators": operators_table,
}


def filled(readme: str, records: dict[str, dict[str, Any]]) -> str:
    """The README with every marked table written anew; ``records`` by file stem."""

    def table(marked: re.Match[str]) -> str:
        [record] = [record for stem, record in records.items() if stem.endswith(f"-{marked[1]}")]
        return "\n".join(
            [f"<!-- results: {marked[1]} -->", *README_TABLES[marked[1]](record), "<!-- end -->"]
        )

    return re.sub(r"<!-- results: (\S+) -->.*?<!-- end -->", table, readme, flags=re.DOTALL)


def page(records: dict[str, dict[str, Any]]) -> str:
    lines = [HEAD]
    for stem, record in records.items():
        machine, versions = record["machine"], record["versions"]
        lines += [
            f"## {stem}",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
            f"GPU: {machine['gpu']}; Python {versions['python']}, torch {versions['torch']}.",
            "",
        ]
        lines += benchmark_page(record) if "benchmarks" in record else training_page(record)
    return "\n".join(lines)


def main() -> None:
    records = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))}
    (ROOT / "docs" / "results.md").write_text(page(records))
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(), records))


if __name__ == "__main__":
    main()
