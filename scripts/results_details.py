"""Every file in results/ in full, for docs/results.md; ``results_page.py`` puts it together."""

from typing import Any

Record = dict[str, Any]
Records = dict[str, Record]

LOOKS = (
    "PSNR and SSIM, and where they were measured: the difference of colours by CIEDE2000, its mean over the "
    "pixels and in brackets its 95th percentile, and ST-LPIPS, a network's judgement."
)


def on_machine(record: Record) -> str:
    machine = record["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores"


def _opening(what: str, *columns: str) -> list[str]:
    """What stands above the rows of a table."""
    names = "".join(f" {each} |" if each else " |" for each in columns)
    return [what, "", f"|{names}", f"|{' --- |' * len(columns)}"]


def benchmark_page(record: Record) -> list[str]:
    lines = []
    for benchmark in record["benchmarks"]:
        lines += _opening(f"#### {benchmark['title']}", "", "rate", "ours is", "target")
        for name in dict.fromkeys([*benchmark["rates"], *benchmark["measured"]]):
            ratio, target = benchmark["measured"].get(name), benchmark["targets"].get(name)
            shown = "" if ratio is None else f"{ratio:.2f} times"
            lines.append(f"| {name} | {benchmark['rates'].get(name, '')} | {shown} | {target or ''} |")
        lines.append("")
    return lines


def training_page(record: Record) -> list[str]:
    lines = _opening(record["what"], "trained on", "clean-test accuracy", "in training", "epochs")
    for run in record["runs"]:
        final = run["final"]
        tested, trained = final["test_accuracy"], final["train_accuracy"]
        lines.append(f"| {run['name']} | {tested:.1%} | {trained:.1%} | {final['epoch']} |")
    return [*lines, ""]


def detection_page(record: Record) -> list[str]:
    columns = "padding", "hit rate, mean", "lowest and highest", "of the protected"
    lines = _opening(record["what"], *columns)
    found = record["detections"]
    for padding in dict.fromkeys(each["padding"] for each in found):
        own = [each for each in found if each["padding"] == padding]
        rates = [each["hit_rate"] for each in own]
        protected = sum(each["protected_as_protected"] for each in own) / len(own)
        mean = sum(rates) / len(rates)
        lines.append(f"| {padding} | {mean:.1%} | {min(rates):.1%} to {max(rates):.1%} | {protected:.1%} |")
    return [*lines, ""]


def pictures_page(record: Record) -> list[str]:
    found = record["pictures"]
    sets = list(dict.fromkeys(each["dataset"] for each in found))
    lines = _opening(f"{record['what']}. {LOOKS}", "", *sets)
    for method in dict.fromkeys(each["method"] for each in found):
        cells = []
        for name in sets:
            own = [each for each in found if (each["method"], each["dataset"]) == (method, name)]
            cells.append(_looks(own))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    columns = "", "pictures", "protected", "restored", "brightness set right"
    lines += ["", *_opening("Restored from the key, PSNR in dB:", *columns)]
    for each in record["restored"]:
        figures = " | ".join(f"{each[what]:.1f}" for what in ("protected", "restored", "brightened"))
        stored = f", stored as {each['stored_as']}" if "stored_as" in each else ""
        lines.append(f"| {each['dataset']}, {each['method']}{stored} | {each['pictures']} | {figures} |")
    return [*lines, ""]


def _looks(own: list[Record]) -> str:
    """What ``LOOKS`` explains, as means over the keys, as far as it was measured."""

    def mean(what: str) -> float:
        return sum(each[what] for each in own) / len(own)

    text = f"{mean('psnr'):.1f} dB, {mean('ssim'):.2f}"
    if all("delta_e" in each for each in own):
        text += f", {mean('delta_e'):.1f} ({mean('delta_e_95'):.1f})"
    return text if any(each.get("st_lpips") is None for each in own) else f"{text}, {mean('st_lpips'):.2f}"


def equal_page(record: Record) -> list[str]:
    """Strengths at which shapes of a method leave the same SSIM."""
    lines = _opening("Strengths at equal SSIM:", "shape", "SSIM", "strengths", "reached", "PSNR in dB")
    for each in record["equal_ssim"]:
        reached = f"{each['strengths']} | {each['ssim']:.3f} | {each['psnr']:.1f}"
        lines.append(f"| {each['shape']} | {each['target']} | {reached} |")
    return [*lines, ""]


def formats_page(record: Record) -> list[str]:
    """A row for each output format at each size, as means over the pictures."""
    what = f"Means over {record['images']} pictures; milliseconds of processor time."
    lines = _opening(what, "size", "format", "bytes, of the source's", "encode", "decode")
    for size, measured in record["formats"].items():
        for name, each in measured["formats"].items():
            times = f"{each['encode_ms']:.1f} ms | {each['decode_ms']:.1f} ms"
            lines.append(f"| {size} | {name} | {each['of_source']:.2f} | {times} |")
    return [*lines, ""]


def memory_page(record: Record) -> list[str]:
    """A row for each step with a set of very many pictures."""
    size = record["manifest_megabytes"]
    what = f"{record['what']}; {record['images']:,} pictures, a manifest of {size} MB."
    lines = _opening(what, "step", "peak of its own process", "of all its processes", "processor time")
    for step, each in record["memory"].items():
        sizes = f"{each['own_megabytes']:,} MB | {each['all_megabytes']:,} MB"
        lines.append(f"| `{step}` | {sizes} | {each['processor_seconds']:.0f} s |")
    return [*lines, ""]


PARTS = {
    "benchmarks": benchmark_page,
    "runs": training_page,
    "detections": detection_page,
    "formats": formats_page,
    "memory": memory_page,
    "pictures": pictures_page,
    "equal_ssim": equal_page,
}
"""What a file may hold, and how it is shown."""


def details(records: Records) -> list[str]:
    lines = []
    for stem, record in records.items():
        machine, versions = record["machine"], record["versions"]
        lines += [
            f"### {stem}",
            "",
            f"{on_machine(record)}, {machine['memory_gib']} GiB; GPU: {machine['gpu'] or 'none'}; "
            f"Python {versions['python']}, torch {versions['torch']}.",
            "",
        ]
        for part, shown in PARTS.items():
            lines += shown(record) if part in record else []
    return lines
