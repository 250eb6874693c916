"""Training, testing, and the run folders that both write to."""

from unlearnable_kernels.training.attacks import Attack, Pgd, robust_accuracy
from unlearnable_kernels.training.config import DIGITS_DEMO, PHOTO_DEMO, TrainConfig
from unlearnable_kernels.training.evaluate import evaluate
from unlearnable_kernels.training.loop import train

__all__ = [
    "DIGITS_DEMO",
    "PHOTO_DEMO",
    "Attack",
    "Pgd",
    "TrainConfig",
    "evaluate",
    "robust_accuracy",
    "train",
]
