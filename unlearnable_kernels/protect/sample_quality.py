"""How much a protected set looks like its originals, measured on a few pictures when it is written."""

from collections.abc import Collection
from typing import Any

import numpy as np

from unlearnable_kernels.data.images import decode
from unlearnable_kernels.data.quality import FEW, central, mean_quality
from unlearnable_kernels.data.source import Source, load_image
from unlearnable_kernels.data.writer import Destination
from unlearnable_kernels.protect.methods.method import Perturbation
from unlearnable_kernels.protect.pipeline.plan import Plan

_DECIMALS = {"psnr": 2, "ssim": 4}


def sample_quality(
    source: Source, plan: Plan, perturbation: Perturbation, destination: Destination, skipped: Collection[int]
) -> dict[str, Any]:
    """PSNR and SSIM of protected pictures, from the plan alone: no worker and no resumption changes them.

    At most ``FEW`` pictures at even distances are protected once more in memory, and encoded and decoded
    where that loses something. Of large ones the middle is compared.

    Args:
        source: What is protected.
        plan: How.
        perturbation: Of ``plan``.
        destination: What pictures are encoded for.
        skipped: Positions in ``plan.outputs`` of pictures that are not in the set.

    Returns:
        The manifest's field, {"picture_quality": {"images": …, "psnr": …, "ssim": …}}: as ``mean_quality``
        has them, rounded; empty where nothing was protected.

    Raises:
        UserError: A picture cannot be read any more.
    """
    protected = np.asarray(plan.assignment) >= 0
    protected[list(skipped)] = False
    rows = np.flatnonzero(protected).tolist()
    if not rows:
        return {}
    count = min(FEW, len(rows))
    pairs = []
    for row in (rows[len(rows) * index // count] for index in range(count)):
        sample = source.samples[row]
        before = load_image(source, sample, plan.task.resize)
        after = np.empty_like(before)
        perturbation.apply(before[None], [plan.assignment[row]], after[None])
        if not plan.writer.lossless:
            after = decode(plan.writer.encode(after, destination, sample.name, b""), sample.name)
        pairs.append((central(before), central(after)))
    found = mean_quality(pairs)
    rounded = {name: found[name] and round(found[name], places) for name, places in _DECIMALS.items()}
    return {"picture_quality": {"images": found["images"], **rounded}}
