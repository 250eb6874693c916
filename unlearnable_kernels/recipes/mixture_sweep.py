"""The protocol ``mixed``: training on clean and protected images together, and on the clean alone."""

from pathlib import Path
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.inputs import Progress
from unlearnable_kernels.training.loop import train

FRACTIONS = tuple(tenths / 10 for tenths in range(1, 11))


def train_mixed(
    settings: dict[str, Any], out: Path, progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """For each fraction two plain runs in ``out``: on the mixture, and on its clean part alone.

    settings: TrainConfig's fields. train holds protected images, clean their originals; protected_fraction
    is the one fraction, or 0.1, 0.2 … 1.0 where it is left out. The run folder protected-0.3 is that of the
    mixture whose images are protected to three tenths, protected-0.3-clean-part that of the other seven
    tenths by themselves, which 1.0 lacks. Returns the run.json of each by folder name. Raises UserError as
    ``train`` does, and without clean.
    """
    if settings.get("clean") is None:
        raise UserError(
            "protocol mixed needs the originals of the protected images: set clean to their folder"
        )
    if settings.get("eps") is not None:
        raise UserError("protocol mixed trains without an attack: leave eps out")
    fraction = settings.get("protected_fraction")
    records = {}
    # The largest first: that too few images are protected for it shows at once, not after hours of training.
    for part in reversed(FRACTIONS) if fraction is None else (fraction,):
        for only_clean in (False,) if part == 1 else (False, True):
            own = {"protocol": "erm", "protected_fraction": part, "only_clean": only_clean}
            name = f"protected-{part:g}{'-clean-part' if only_clean else ''}"
            records[name] = train(TrainConfig(**settings | own), out / name, progress)
    return records
