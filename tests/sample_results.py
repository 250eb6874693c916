"""Results of rows as ``reproduce`` writes them, without any training, for tests of what is made of them."""

from collections.abc import Sequence
from typing import Any

from unlearnable_kernels.recipes.papers import ROWS
from unlearnable_kernels.training import TrainConfig

SCALED = {"epochs": 0.1, "images": 500, "network": None, "training": {}}


def sample_result(name: str, last: Sequence[float], **changes: Any) -> dict[str, Any]:
    """The result of a row with these accuracies, one for each seed."""
    row, mean = ROWS[name], sum(last) / len(last)
    spread = (sum((each - mean) ** 2 for each in last) / (len(last) - 1)) ** 0.5 if len(last) > 1 else None
    given = {"network": row.network, "defences": row.defences, **row.training}
    if "protected_fraction" in given:
        given["clean"] = "x"
    machine = {"cpu": "Some CPU", "cores": 2, "memory_gib": 8.0, "gpu": None, "system": "Linux"}
    machine |= changes.get("machine", {})
    run = {
        "commit": "0" * 40,
        "threads": 1,
        "device": "cpu" if machine["gpu"] is None else "cuda",
        "machine": machine,
        "versions": {"torch": "2.11.0"},
    }
    quality = {"images": 256, "unchanged": 0, "psnr": 20.0, "ssim": 0.75}
    result = {
        "row": name,
        "published": None if row.published is None else list(row.published),
        "dataset": row.dataset,
        "protection": row.protection,
        "test": row.test,
        "training": TrainConfig("x", **given).as_dict(),
        "data": {"train": {"images": 500, "sha256": f"{row.protection}"}},
        "scaled": None,
        "seeds": list(range(len(last))),
        "accuracy": {"last": list(last), "by_epoch": [[each / 2, each] for each in last]},
        "mean": mean,
        "standard_deviation": spread,
        "test_images": 10000,
        "standard_error": (mean * (1 - mean) / 10000) ** 0.5,
        "quality": [] if row.protection is None else [quality] * len(last),
        "machine": machine,
        "runs": [run] * len(last),
        "date": "2026-01-01",
    }
    if row.upon is not None:
        result["upon"] = row.upon
    return result | changes
