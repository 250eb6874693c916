"""Training on mixtures of clean and protected images, and on their clean parts alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.progress import Progress, no_progress, prefixed
from unlearnable_kernels.training import TrainConfig, train

FRACTIONS = tuple(tenths / 10 for tenths in range(1, 11))


def sweep_mixtures(
    settings: dict[str, Any],
    out: Path,
    fractions: Sequence[float] = FRACTIONS,
    progress: Progress = no_progress,
    device: str | None = None,
) -> dict[str, dict[str, Any]]:
    """For each fraction two runs in ``out``: on the mixture, and on its clean part alone.

    The run folder protected-0.3 is that of the mixture of which three tenths are protected,
    protected-0.3-clean-part that of the other seven tenths by themselves, which 1.0 lacks.

    Args:
        settings: Fields of ``TrainConfig``, but for protected_fraction and only_clean: train holds protected
            images, clean their originals.
        out: Folder for the run folders; runs in it are resumed.
        fractions: Parts of each class to be taken in protected form, above 0 and at most 1.
        progress: Called with the images of each run, and which run it is.
        device: As for ``train``.

    Returns:
        The run.json of each run by folder name.

    Raises:
        UserError: As ``train`` does, and without clean or a fraction.
    """
    if settings.get("clean") is None:
        raise UserError("a sweep needs the originals of the protected images: set clean to their folder")
    if not fractions:
        raise UserError("a sweep needs at least one fraction")
    configs = {}
    # The largest first: that too few images are protected for it shows at once, not after hours of training.
    for fraction in sorted(set(fractions), reverse=True):
        for only_clean in (False,) if fraction == 1 else (False, True):
            name = f"protected-{fraction:g}{'-clean-part' if only_clean else ''}"
            own = {"protected_fraction": fraction, "only_clean": only_clean}
            configs[name] = TrainConfig(**settings | own)
    records = {}
    for number, (name, config) in enumerate(configs.items(), 1):
        prefix = f"run {number} of {len(configs)}, {name}: "
        records[name] = train(config, out / name, prefixed(progress, prefix), device)
    return records
