"""Class-wise convolution: the tables of CUDA (Sadasivan, Soltanolkotabi and Feizi, CVPR 2023).

Its recipe is ``TrainConfig``'s defaults: ResNet-18, 100 epochs, batches of 512, SGD with rate 0.1, a tenth of
it after every 40 epochs, gradients clipped at 5, crops and flips. Where others ran the same again, the
published figures are the band from the lowest to the highest.
"""

from collections.abc import Iterator
from typing import Any

from unlearnable_kernels.recipes.row import PERMUTED, PROTECTED, SHARED, Paper, Row, once

NAME = "cuda-cvpr2023"
CUDA = "classwise-conv:padding=zeros"
SETTINGS: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "cifar100": {},
    "imagenet100": {"image_size": 224},
}
AT4 = "at-linf:eps=4/255"

# Data set, training, and the figures for clean data, EM, TAP, NTGA, REM and CUDA.
OVERVIEW = (
    ("cifar10", "erm", (94.66, 13.20, 22.51, 16.27, 27.09), (18.48, 25.48)),
    ("cifar10", "at", (89.51, 88.62, 88.02, 88.96, 48.16), once(44.40)),
    ("cifar100", "erm", (76.27, 1.60, 13.75, 3.22, 10.14), (12.69, 17.33)),
    ("cifar100", "at", (64.50, 63.43, 62.39, 62.44, 27.10), once(34.34)),
    ("imagenet100", "erm", (80.66, 1.26, 9.10, 8.42, 13.74), (2.68, 8.96)),
    ("imagenet100", "at", (66.62, 63.40, 63.56, 63.06, 41.66), once(38.68)),
)
OTHERS = ("em", "tap", "ntga", "rem")

# Data set, defence, figure: adversarial training on CUDA data with other budgets.
BUDGETS = (
    ("cifar10", "at-linf:eps=8/255", 32.85),
    ("cifar10", "at-linf:eps=16/255", 19.32),
    ("cifar10", "at-l2:eps=0.25", 39.05),
    ("cifar10", "at-l2:eps=0.5", 51.19),
    ("cifar10", "at-l2:eps=0.75", 51.14),
    ("cifar100", "at-linf:eps=8/255", 30.00),
    ("cifar100", "at-l2:eps=0.75", 36.90),
    ("imagenet100", "at-linf:eps=8/255", 40.08),
    ("imagenet100", "at-l2:eps=0.75", 20.58),
)

# Network, figures for adversarial training on clean and on CUDA data.
NETWORKS = (
    ("vgg16-cuda2023", 87.51, 42.98),
    ("wrn34_10-cuda2023", 91.21, 53.02),
    ("densenet121-cuda2023", 83.27, 45.95),
)

# Name, defence, figure: CIFAR-10, ResNet-18.
DEFENCES = (
    ("smoothing", "smoothing:sigma=0.5", 43.85),
    ("grayscale", "grayscale", 20.12),
    ("mixup", "mixup", 25.53),
    ("cutout", "cutout", 25.80),
    ("cutmix", "cutmix", 26.93),
    ("autoaugment", "autoaugment", 34.09),
    ("orthogonal", "orthogonal", 50.72),
    ("finetune-all", "finetune-all", 42.42),
    ("finetune-last", "finetune-last", 48.22),
    ("random-blur-0.1", "random-blur:strength=0.1", 9.20),
    ("random-blur-0.3", "random-blur:strength=0.3", 13.37),
    ("dat-3", "dat:filter=3", 39.05),
    ("dat-5", "dat:filter=5", 46.21),
    ("dat-7", "dat:filter=7", 38.48),
)

# Protected part, figures for the mixture and for its clean part alone.
FRACTIONS = ((0.2, 93.28, 93.75), (0.4, 91.34, 92.56), (0.6, 89.91, 89.77), (0.8, 85.61, 84.30))


def _overview() -> Iterator[Row]:
    for dataset, training, (clean, *others), cuda in OVERVIEW:
        defences = (AT4,) if training == "at" else ()
        place, settings = f"{NAME}/{dataset}/{training}", SETTINGS[dataset]
        yield Row(f"{place}/clean", once(clean), dataset, None, defences=defences, training=settings)
        yield Row(f"{place}/cuda", cuda, dataset, CUDA, defences=defences, training=settings)
        for name, figure in zip(OTHERS, others, strict=True):
            lacking = f"the protection {name.upper()}, which is not built here"
            yield Row(f"{place}/{name}", once(figure), dataset, lacking=lacking)


def _released() -> Iterator[Row]:
    """CIFAR-10 as the released program has it: PyTorch's initial weights, and AT against ε = 0.015."""
    for training, defences, clean, cuda in (
        ("erm", (), once(94.66), (18.48, 25.48)),
        ("at", ("at-linf:eps=0.015",), once(89.51), once(44.40)),
    ):
        place, network = f"{NAME}/cifar10-released/{training}", "resnet18-cuda2023"
        yield Row(f"{place}/clean", clean, "cifar10", None, network, defences)
        yield Row(f"{place}/cuda", cuda, "cifar10", CUDA, network, defences)


def _budgets() -> Iterator[Row]:
    for dataset, defence, figure in BUDGETS:
        # A slash would divide the name.
        name = f"{NAME}/{dataset}/{defence.replace(':eps=', '-').replace('/255', '')}/cuda"
        yield Row(name, once(figure), dataset, CUDA, defences=(defence,), training=SETTINGS[dataset])


def _networks() -> Iterator[Row]:
    for network, clean, cuda in NETWORKS:
        place = f"{NAME}/cifar10/at-{network.removesuffix('-cuda2023')}"
        yield Row(f"{place}/clean", once(clean), "cifar10", None, network, (AT4,))
        yield Row(f"{place}/cuda", once(cuda), "cifar10", CUDA, network, (AT4,))


def _defences() -> Iterator[Row]:
    for name, defence, figure in DEFENCES:
        yield Row(f"{NAME}/cifar10/{name}/cuda", once(figure), "cifar10", CUDA, defences=(defence,))


def _tests() -> Iterator[Row]:
    place = f"{NAME}/cifar10/test"
    yield Row(f"{place}-protected/cuda", once(99.91), "cifar10", CUDA, test=PROTECTED)
    yield Row(f"{place}-permuted/cuda", once(2.53), "cifar10", CUDA, test=PERMUTED)
    # Not published: which class the network sees in a filter, whatever the image shows.
    yield Row(f"{place}-shared/cuda", None, "cifar10", CUDA, test=SHARED)
    # Trained on, and tested on clean images: without a filter for each class nothing is protected.
    yield Row(f"{NAME}/cifar10/erm/one-filter", once(90.47), "cifar10", f"{CUDA},filters=shared")


def _fractions() -> Iterator[Row]:
    for fraction, mixed, alone in FRACTIONS:
        place, settings = f"{NAME}/cifar10/part-{fraction:g}", {"protected_fraction": fraction}
        yield Row(f"{place}/cuda", once(mixed), "cifar10", CUDA, training=settings)
        alone_settings = settings | {"only_clean": True}
        yield Row(f"{place}/clean-part", once(alone), "cifar10", CUDA, training=alone_settings)


PAPER = Paper(
    NAME,
    "Sadasivan, Soltanolkotabi and Feizi, CVPR 2023",
    (*_overview(), *_released(), *_budgets(), *_networks(), *_defences(), *_tests(), *_fractions()),
)
