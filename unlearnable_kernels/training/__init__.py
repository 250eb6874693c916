"""Training, testing, and the run folders that both write to."""

from unlearnable_kernels.defences.pgd import Attack, Pgd, robust_accuracy
from unlearnable_kernels.training.attacks import AutoAttack
from unlearnable_kernels.training.bayes_estimate import BayesEstimate, evaluate_bayes_error
from unlearnable_kernels.training.checkpoint import save_tensors, stored_tensors, tensors_under
from unlearnable_kernels.training.config import DIGITS_DEMO, PHOTO_DEMO, TrainConfig
from unlearnable_kernels.training.detection import evaluate_detection
from unlearnable_kernels.training.engine import Engine, EpochResult, Recipe, fresh_network
from unlearnable_kernels.training.evaluation import evaluate, evaluate_attacks, evaluate_certified
from unlearnable_kernels.training.features import features_of, pixel_gradient
from unlearnable_kernels.training.inputs import fitting_device
from unlearnable_kernels.training.loop import train
from unlearnable_kernels.training.processes import Processes
from unlearnable_kernels.training.reproducible import deterministic, seeded
from unlearnable_kernels.training.seeds import train_seeds

__all__ = [
    "DIGITS_DEMO",
    "PHOTO_DEMO",
    "Attack",
    "AutoAttack",
    "BayesEstimate",
    "Engine",
    "EpochResult",
    "Pgd",
    "Processes",
    "Recipe",
    "TrainConfig",
    "deterministic",
    "evaluate",
    "evaluate_attacks",
    "evaluate_bayes_error",
    "evaluate_certified",
    "evaluate_detection",
    "features_of",
    "fitting_device",
    "fresh_network",
    "pixel_gradient",
    "robust_accuracy",
    "save_tensors",
    "seeded",
    "stored_tensors",
    "tensors_under",
    "train",
    "train_seeds",
]
