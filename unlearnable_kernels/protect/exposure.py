"""What a further release would give away: pictures published in two ways show what was done to them."""

from collections.abc import Iterable
from typing import Any

from unlearnable_kernels.data.manifest import sample_entries
from unlearnable_kernels.data.originals import match_originals
from unlearnable_kernels.protect.pipeline.plan import Plan

_HARMLESS = ("format", "quality", "fraction")  # they change no filter; who is protected is compared by itself


def exposed(plan: Plan, manifests: Iterable[dict[str, Any]]) -> list[str]:
    """Pictures that were published before in another way than they now would be.

    From two releases of the same pictures under two filters, both filters can be estimated without one clean
    picture (docs/threat_model.md); a clean and a protected copy need not even that.

    Args:
        plan: What would be published.
        manifests: Of what was published before, whatever its key.

    Returns:
        Names of samples of the plan's source, each once, in its order.
    """
    names = plan.task.names
    found: set[int] = set()
    for manifest in manifests:
        entries = sample_entries(manifest)
        rows = match_originals(list(entries), names)
        same = _treatment(manifest) == _treatment(plan.header)
        by_place = manifest.get("scheme", 1) == 1
        for entry, row in zip(entries.values(), rows, strict=True):
            if row is None:
                continue
            before, now = bool(entry["protected"]), plan.assignment[row] >= 0
            moved = by_place and entry["label"] != plan.task.labels[row]
            if before != now or (before and (moved or not same)):
                found.add(row)
    return [names[row] for row in sorted(found)]


def _treatment(header: dict[str, Any]) -> tuple[Any, ...]:
    """What decides what becomes of a protected picture."""
    parameters = {name: value for name, value in header["parameters"].items() if name not in _HARMLESS}
    key = header["key"]["fingerprint"]
    return header["method"], parameters, key, header["dataset_name"], header.get("scheme", 1)
