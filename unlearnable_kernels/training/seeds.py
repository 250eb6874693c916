"""The same run from several seeds, to tell an effect from chance."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.progress import Progress, no_progress, prefixed
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.loop import train
from unlearnable_kernels.training.run_folder import CONFIG, SEED


def train_seeds(
    config: TrainConfig,
    seeds: Sequence[int],
    out: Path,
    progress: Progress = no_progress,
    device: str | None = None,
    log: str | None = None,
    workers: int | None = None,
) -> dict[Path, dict[str, Any]]:
    """Train from each seed in turn.

    Args:
        config: What to train, and how; its own seed plays no part.
        seeds: At least one.
        out: Of one seed the run folder; of several the folder for their run folders seed-0 and so on. Runs
            in it are resumed.
        progress: Called with the images of each run, and which run it is where there are several.
        device: As for ``train``.
        log: As for ``train``.
        workers: As for ``train``.

    Returns:
        The run.json of each run by its folder.

    Raises:
        UserError: As ``train`` does, for a seed that is given twice, and where ``out`` is itself a run folder
            though there are several seeds.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds must be one or more, each once, not {', '.join(map(str, seeds))}")
    if len(seeds) == 1:
        return {out: train(replace(config, seed=seeds[0]), out, progress, device, log, workers)}
    if (out / CONFIG).exists():
        raise UserError(f"{out} is the folder of one run: give several seeds another folder")
    records = {}
    for number, seed in enumerate(seeds, 1):
        folder = out / f"{SEED}{seed}"
        prefix = f"run {number} of {len(seeds)}, seed {seed}: "
        told = prefixed(progress, prefix)
        records[folder] = train(replace(config, seed=seed), folder, told, device, log, workers)
    return records
