"""Training, testing, and the run folders that both write to."""

from unlearnable_kernels.defences.pgd import Attack, Pgd, robust_accuracy
from unlearnable_kernels.recipes.mixture_sweep import train_mixed
from unlearnable_kernels.training.bayes_estimate import BayesEstimate, evaluate_bayes_error
from unlearnable_kernels.training.config import DIGITS_DEMO, PHOTO_DEMO, TrainConfig
from unlearnable_kernels.training.evaluation import evaluate
from unlearnable_kernels.training.loop import train

__all__ = [
    "DIGITS_DEMO",
    "PHOTO_DEMO",
    "Attack",
    "BayesEstimate",
    "Pgd",
    "TrainConfig",
    "evaluate",
    "evaluate_bayes_error",
    "robust_accuracy",
    "train",
    "train_mixed",
]
