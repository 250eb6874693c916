"""A run's metrics for TensorBoard, where its package is installed."""

from pathlib import Path
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import writing

LOGS = ("tensorboard",)
_EVENTS = "events.out.tfevents."


def check_log(log: str | None) -> None:
    """Check that metrics can be logged in this way, before a run begins.

    Raises:
        UserError: There is no such log, or its package is not installed.
    """
    if log is None:
        return
    if log not in LOGS:
        raise UserError(f"unknown log {log!r}: choose one of {', '.join(LOGS)}")
    _writer()


class TensorBoard:
    """Scalars by epoch, "train/loss" and the like.

    Args:
        folder: For the event files; those of an earlier part of the run are replaced, so that no step is
            there twice.
        metrics: Lines of metrics.jsonl, to begin with.

    Raises:
        UserError: The package is not installed.
        WriteError: A file cannot be written.
    """

    def __init__(self, folder: Path, metrics: list[dict[str, Any]]) -> None:
        self._folder = folder
        with writing(folder):
            for old in folder.glob(f"{_EVENTS}*"):
                old.unlink()
            self._events = _writer()(str(folder))
        for line in metrics:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        """Add an epoch's line of metrics.jsonl."""
        with writing(self._folder):
            for name, value in line.items():
                if name != "epoch":
                    part, _, rest = name.partition("_")
                    name = f"{part}/{rest}" if part in ("train", "test") else name
                    self._events.add_scalar(name, value, line["epoch"])
            self._events.flush()

    def close(self) -> None:
        """Close the file."""
        self._events.close()


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        install = "pip install 'unlearnable_kernels[tensorboard]'"
        raise UserError(f"tensorboard cannot be imported ({reason}): {install}") from None
    return SummaryWriter
