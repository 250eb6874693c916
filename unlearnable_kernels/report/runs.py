"""Run folders as the report reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.run_folder import read_evaluations, read_metrics, read_run


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        name: What the page calls the run.
        config: How it was trained.
        record: The content of run.json.
        metrics: One object for each finished epoch.
        evaluations: One object for each later evaluation.
    """

    name: str
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


def read_runs(paths: list[Path]) -> list[Run]:
    """Read run folders.

    Args:
        paths: The folders.

    Returns:
        The runs in the order of ``paths``, each under another name.

    Raises:
        UserError: A folder does not hold a run, holds a damaged one, or is given twice.
    """
    return [_read(path, name) for path, name in zip(paths, _distinct_names(paths), strict=True)]


def _read(path: Path, name: str) -> Run:
    config, record = read_run(path)
    return Run(name, config, record, read_metrics(path, config), read_evaluations(path))


def _distinct_names(paths: list[Path]) -> list[str]:
    """The folders' names, with as many of their parents as it takes to tell them apart."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise UserError("a run folder is given twice")
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in resolved]


def percent(accuracy: float) -> str:
    """An accuracy in [0, 1] as a percentage with one decimal."""
    return f"{100 * accuracy:.1f} %"
