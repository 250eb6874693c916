"""Run folders as the report reads them."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.run_folder import (
    SEED,
    read_evaluations,
    read_metrics,
    read_run,
    run_folders,
)


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        config: How it was trained.
        record: The content of run.json.
        metrics: One object for each finished epoch.
        evaluations: One object for each later evaluation.
    """

    config: TrainConfig
    record: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    @property
    def protection(self) -> dict[str, Any] | None:
        """How the training set was protected, if it was: its manifest without the tables of files."""
        protection: dict[str, Any] | None = self.record["train"]["protection"]
        return protection

    def protected_by(self, part: str) -> dict[str, Any]:
        """One object of the training set's manifest; empty if it is missing or of another type.

        Other programs may have written the manifest, so nothing that is in it is relied on.
        """
        value = (self.protection or {}).get(part)
        return value if isinstance(value, dict) else {}

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy on clean test images after the last finished epoch, in [0, 1]; None if not tested."""
        return self.metrics[-1].get("test_accuracy") if self.metrics else None

    @property
    def train_set(self) -> str:
        """The name of the training set's folder."""
        path = Path(self.config.train)
        return path.parent.name if path.name in ("train", "train.npz") else path.name


@dataclass(frozen=True)
class Entry:
    """What the page shows as one: a run, or runs that differ by their seed alone.

    Attributes:
        name: What the page calls it.
        runs: One, or several in the order of their seeds.
    """

    name: str
    runs: list[Run]

    @property
    def first(self) -> Run:
        """The run that speaks for all in what they share."""
        return self.runs[0]

    @property
    def measured(self) -> list[Run]:
        """The runs whose figures count: finished ones, or where there are none all that have an epoch."""
        finished = [run for run in self.runs if run.record["status"] == "finished"]
        return finished or [run for run in self.runs if run.metrics]

    @property
    def test_accuracy(self) -> float | None:
        """The mean of the runs' accuracies on clean test images, in [0, 1]; None if not tested."""
        found = self.test_accuracies
        return fmean(found) if found else None

    @property
    def test_accuracies(self) -> list[float]:
        """Each run's accuracy on clean test images after its last epoch."""
        return [run.test_accuracy for run in self.measured if run.test_accuracy is not None]


def read_entries(paths: list[Path]) -> list[Entry]:
    """Read run folders, and put those together that differ by their seed alone.

    Args:
        paths: The folders; one that holds those of several seeds stands for these.

    Returns:
        The entries in the order of ``paths``, each under another name.

    Raises:
        UserError: A folder does not hold a run, holds a damaged one, or is given twice.
    """
    folders = [folder for path in paths for folder in run_folders(path)]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run folder is given twice")
    groups: list[list[tuple[Path, Run]]] = []
    for folder in folders:
        run = _read(folder)
        for group in groups:
            if all(_by_seed_alone(run, other) for _, other in group):
                group.append((folder, run))
                break
        else:
            groups.append([(folder, run)])
    names = _distinct_names([_folder_of([folder for folder, _ in group]) for group in groups])
    return [
        Entry(name, sorted((run for _, run in group), key=lambda run: run.config.seed))
        for name, group in zip(names, groups, strict=True)
    ]


def _read(path: Path) -> Run:
    config, record = read_run(path)
    return Run(config, record, read_metrics(path, config), read_evaluations(path))


def _by_seed_alone(first: Run, second: Run) -> bool:
    shared = ("classes", "image_size", "train", "test", "plugins")
    return (
        first.config.seed != second.config.seed
        and replace(first.config, seed=0) == replace(second.config, seed=0)
        and all(first.record[name] == second.record[name] for name in shared)
    )


def _folder_of(runs: list[Path]) -> Path:
    """The folder that runs are called by: that of their seeds, or else the first one's."""
    place = runs[0].resolve()
    of_seeds = len(runs) > 1 and all(run.resolve().parent == place.parent for run in runs)
    return place.parent if of_seeds and place.name.startswith(SEED) else place


def _distinct_names(paths: list[Path]) -> list[str]:
    """The folders' names, with as many of their parents as it takes to tell them apart."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def percent(accuracies: float | list[float]) -> str:
    """Accuracies in [0, 1] as a percentage: one, or the mean ± standard deviation of several."""
    values = [accuracies] if isinstance(accuracies, float | int) else accuracies
    if len(values) == 1:
        return f"{100 * values[0]:.1f} %"
    return f"{100 * fmean(values):.1f} ± {100 * stdev(values):.1f} % ({len(values)} seeds)"
