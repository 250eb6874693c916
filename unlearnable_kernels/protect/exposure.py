"""What a further release would give away: pictures published in two ways show what was done to them."""

import unicodedata
from array import array
from collections.abc import Mapping
from typing import Any

from unlearnable_kernels.data.listing import Names
from unlearnable_kernels.data.manifest import Manifest
from unlearnable_kernels.data.originals import match_originals
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.pipeline.plan import Plan

# They change no filter; who is protected is compared by itself.
_HARMLESS = ("format", "quality", "images", "shard_size", "fraction")


def exposed(plan: Plan, manifest: Manifest) -> list[str]:
    """Pictures that were published before in another way than they now would be, as far as names tell.

    From two releases of the same pictures under two filters, both filters can be estimated without one clean
    picture (docs/threat_model.md); a clean and a protected copy need not even that. Pictures are told by
    their names: first with their classes, then without, since a class or a folder may have been renamed.

    Args:
        plan: What would be published.
        manifest: Of what was published before, whatever its key; what was pruned since counts too.

    Returns:
        Names of samples of the plan's source, in its order.
    """
    names, earlier = plan.task.names, Names()
    labels, flags = array("q"), bytearray()
    for name, entry in manifest.samples():
        earlier.append(name)
        labels.append(entry.label)
        flags.append(entry.protected)
    for name, protected in manifest.get("removed", {}).items():
        earlier.append(name)
        labels.append(-1)  # unknown; filters by a class's place, which need it, lose no pictures
        flags.append(protected)
    rows = match_originals(earlier, names)
    same = _treatment(manifest) == _treatment(plan.header)
    if same and not METHODS[manifest["method"]].growable(manifest["parameters"]):
        same = manifest["source_listing_sha256"] == plan.header["source_listing_sha256"]
    by_place = manifest.get("scheme", 1) == 1
    found: set[int] = set()
    for label, before, row in zip(labels, map(bool, flags), rows, strict=True):
        if row is not None:
            now = plan.assignment[row] >= 0
            moved = by_place and label != plan.task.labels[row]
            if before != now or (before and (moved or not same)):
                found.add(row)
    lost = {bare_name(name) for name, row in zip(earlier, rows, strict=True) if row is None}
    matched = {row for row in rows if row is not None}
    found |= {row for row, name in enumerate(names) if row not in matched and bare_name(name) in lost}
    return [names[row] for row in sorted(found)]


def bare_name(name: str) -> str:
    """A sample's name without its folders and suffixes, whatever its case and its form of Unicode."""
    return unicodedata.normalize("NFC", name.rpartition("/")[2].partition(".")[0]).casefold()


def _treatment(header: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides what becomes of a protected picture."""
    parameters = {name: value for name, value in header["parameters"].items() if name not in _HARMLESS}
    key = header["key"]["fingerprint"]
    return header["method"], parameters, key, header["dataset_name"], header.get("scheme", 1)
