"""Training, testing, and the run folders that both write to."""

from unlearnable_kernels.training.config import DIGITS_DEMO, PHOTO_DEMO, TrainConfig
from unlearnable_kernels.training.evaluate import evaluate
from unlearnable_kernels.training.loop import train

__all__ = ["DIGITS_DEMO", "PHOTO_DEMO", "TrainConfig", "evaluate", "train"]
