"""What was measured of the papers' rows: a JSON file for each row, machine and scale; and their listing."""

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import read_json, write_json, writing
from unlearnable_kernels.recipes.row import DETECTED, Row

_NUMBER = float | int
# Of each field its type, or the fields of an object, in a list what each item is, in a tuple what it may be.
_NEEDED: dict[str, Any] = {
    "row": str,
    "published": (type(None), [_NUMBER]),
    "dataset": str,
    "protection": str | None,
    "training": (
        type(None),
        {
            "network": str,
            "epochs": int,
            "protected_fraction": _NUMBER | None,
            "defences": [{"name": str}],
        },
    ),
    "test": str,
    "test_images": int,
    "scaled": (
        type(None),
        {"epochs": _NUMBER, "images": int | None, "network": str | None, "training": dict},
    ),
    "seeds": list,
    "accuracy": dict,
    "mean": _NUMBER,
    "standard_deviation": _NUMBER | None,
    "standard_error": _NUMBER,
    "quality": [{"psnr": _NUMBER | None, "ssim": _NUMBER | None}],
    "machine": {"cpu": str, "gpu": str | None, "cores": int},
    "data": dict,
    "runs": [{"versions": {"torch": str}}],
    "date": str,
}

_PROTECTED_BY = ("protection", "stored_as", "upon")


def write_result(result: dict[str, Any], results: Path) -> dict[str, Any]:
    """Write a row's result with today's date, unless a file of more seeds or of the same result is there.

    One of another protection, which the row had before, is replaced.

    Scaled rows have names of their own, so that they never take a full one's place.

    Args:
        result: A row's result.
        results: Folder for all results.

    Returns:
        The file's content.

    Raises:
        WriteError: It cannot be written.
    """
    path = results / result["row"] / f"{circumstances(result)}.json"
    result = result | {"date": datetime.datetime.now(datetime.timezone.utc).date().isoformat()}
    if path.is_file():
        before = read_result(path)
        more = len(before["seeds"]) > len(result["seeds"])
        if more and all(before.get(name) == result.get(name) for name in _PROTECTED_BY):
            return before
        if before == result | {"date": before["date"]}:
            return before
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return result


def accuracies(curves: Sequence[Sequence[float]]) -> dict[str, Any]:
    """What a file says of accuracies in [0, 1], given those of each run by epoch."""
    return {
        "last": [curve[-1] for curve in curves],
        "best": [max(curve) for curve in curves],
        "mean_of_last_five": [sum(curve[-5:]) / len(curve[-5:]) for curve in curves],
        "by_epoch": curves,
    }


def standard_error(accuracy: float, images: int) -> float:
    """Of one run's accuracy, for the size of the test set."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was trained by, from its run.json; None where an earlier version did not record it."""
    return {name: record.get(name) for name in ("commit", "threads", "device", "machine", "versions")}


def circumstances(result: dict[str, Any]) -> str:
    """Where and at what scale it was measured, as the name of a file: MACHINE-torchVERSION[-scaled-…]."""
    here, torch = result["machine"], result["runs"][-1]["versions"]["torch"]
    scaled = f"-{scale_slug(result)}" if result["scaled"] else ""
    return f"{slug(here['gpu'] or here['cpu'])}-torch{'.'.join(torch.split('.')[:2])}{scaled}"


def scale_slug(result: dict[str, Any]) -> str:
    """At what scale it was measured, as a part of a file's name: scaled-…, or nothing where it was full."""
    return "" if result["scaled"] is None else slug("scaled", *scale_words(result["scaled"]))


def read_results(results: Path) -> list[dict[str, Any]]:
    """All results in a folder, by the names of their files.

    Raises:
        UserError: A file is damaged.
    """
    return [read_result(path) for path in sorted(results.rglob("*.json"))]


def read_result(path: Path) -> dict[str, Any]:
    """One result.

    Raises:
        UserError: The file is damaged.
    """
    result = read_json(path)
    damaged = [name for name, kind in _NEEDED.items() if not _fits(result, {name: kind})]
    if not damaged:
        curves = result["accuracy"].get("by_epoch", [])
        well_formed = {
            "row": result["row"].count("/") >= 2 and result["row"].isprintable(),
            "published": result["published"] is None or len(result["published"]) == 2,
            "runs": result["runs"],
            "training": (result["training"] is None) == (result["test"] == DETECTED),
            "data": result["training"] is None or _fits(result["data"], {"train": {"sha256": str}}),
            "accuracy": _fits(curves, [[_NUMBER]]) and len(set(map(len, curves))) <= 1,
        }
        damaged = [name for name, well in well_formed.items() if not well]
    if damaged:
        raise UserError(f"{path} is damaged: {damaged[0]!r} is missing or malformed")
    found: dict[str, Any] = result
    return found


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is as something like ``_NEEDED`` says."""
    if isinstance(kind, tuple):
        return any(_fits(value, each) for each in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(each, kind[0]) for each in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(n in value and _fits(value[n], k) for n, k in kind.items())
    return isinstance(value, kind)


def listing(rows: Sequence[Row], results: Sequence[dict[str, Any]]) -> str:
    """A table for people: published, ours, seeds, device, date; what is scaled stands on lines of its own."""
    lines: list[tuple[str, ...]] = [("row", "published", "ours", "seeds", "device", "date")]
    for row in rows:
        own = [result for result in results if result["row"] == row.name]
        full = [result for result in own if result["scaled"] is None]
        if not full:
            missing = f"not here: {row.lacking}" if row.lacking else "not yet measured"
            lines.append((row.name, band(row.published, row.about), missing))
        for result in full:
            figure = _ours(result) + _verdict(row, result)
            lines.append((row.name, band(row.published, row.about), figure, *_where(result)))
        for result in own:
            if result["scaled"] is not None:
                what = f"  scaled: {', '.join(scale_words(result['scaled']))}"
                lines.append((what, "", _ours(result), *_where(result)))
    lines = [tuple(map(shown, line)) for line in lines]
    widths = [max(len(line[column]) for line in lines if len(line) > column + 1) for column in range(5)]
    return "\n".join(
        "  ".join(
            text.ljust(width) for text, width in zip(line, (*widths, 0)[: len(line)], strict=True)
        ).rstrip()
        for line in lines
    )


def band(published: Sequence[float] | None, about: bool = False) -> str:
    """The published figure in percent, or the band of several; "-" where there is none."""
    if published is None:
        return "-"
    low, high = published
    if about:
        return f"about {low:g}"
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"


def outside(published: Sequence[float] | None, mean: float) -> bool:
    """Whether an accuracy in [0, 1] lies outside the band of several published ones, in percent."""
    if published is None or published[0] == published[1]:
        return False
    return not published[0] <= 100 * mean <= published[1]


def _ours(result: dict[str, Any]) -> str:
    spread = result["standard_deviation"]
    return f"{100 * result['mean']:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def _verdict(row: Row, result: dict[str, Any]) -> str:
    """Where there is a band, whether ours lies outside; beside a single figure, the difference."""
    if row.published is None:
        return ""
    low, high = row.published
    if low == high:
        return f" ({100 * result['mean'] - low:+.2f})"
    return " OUTSIDE" if outside(row.published, result["mean"]) else ""


def _where(result: dict[str, Any]) -> tuple[str, str, str]:
    here = result["machine"]
    return str(len(result["seeds"])), here["gpu"] or f"{here['cpu']}, {here['cores']} cores", result["date"]


def scale_words(scaled: dict[str, Any]) -> list[str]:
    """What was left out of a scaled row, for people."""
    words = [f"{scaled['epochs']:g} of the epochs"] if scaled["epochs"] != 1 else []
    words += [f"{scaled['images']} images"] if scaled["images"] is not None else []
    words += [scaled["network"]] if scaled["network"] is not None else []
    return words + [f"{name} {value}" for name, value in sorted(scaled["training"].items())]


def slug(*words: str) -> str:
    """Words as a part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower()).strip("-")
