"""Raising the Bayes error: BEO (Zhang, Sun, Lim and Zhang, AAAI 2026).

One table was available to us: CIFAR-10 with half of the training set protected. Its figures come from a
training that is sequential, as far as its authors' published programs tell: 26 epochs on the clean share,
then five on the protected share alone. The figures of everything protected are those of their log, trained
without augmentation as their embeddings are. docs/beo.md says more.
"""

from unlearnable_kernels.recipes.row import Paper, Row, once

NAME = "beo-aaai2026"
HALF = {"protected_fraction": 0.5}
BEO = "bayes-error:steps=100"
AUTHORS = "beo-aaai2026:steps={}"
# As the authors train their embeddings.
SHORT = {"epochs": 30, "batch_size": 128, "schedule": "cosine", "clip_norm": None}
SEQUENTIAL = {**SHORT, **HALF, "epochs": 31, "protected_epochs": 5}

PAPER = Paper(
    NAME,
    "Zhang, Sun, Lim and Zhang, AAAI 2026",
    (
        Row(f"{NAME}/cifar10/half/beo", once(69.68), "cifar10", BEO, training=HALF),
        Row(
            f"{NAME}/cifar10/half/clean-part",
            once(91.16),
            "cifar10",
            "classwise-conv:padding=zeros",  # of which nothing is used
            training=HALF | {"only_clean": True},
        ),
        Row(
            f"{NAME}/cifar10/half/earlier-methods",
            once(92.51),
            "cifar10",
            lacking="the protections that it was compared with, of which we know no names",
        ),
        *(
            Row(
                f"{NAME}/cifar10/all-{steps}-outer-steps/beo",
                once(figure),
                "cifar10",
                AUTHORS.format(steps) if steps else None,
                training={**SHORT, "crop_padding": 0, "flip": False},
            )
            for steps, figure in ((0, 85.70), (25, 79.0), (50, 75.0), (79, 67.0))
        ),
        *(
            Row(f"{NAME}/cifar10/half-sequential/{name}", figure, "cifar10", protection, training=SEQUENTIAL)
            for name, protection, figure in (
                ("beo", AUTHORS.format(100), once(69.68)),
                ("opposition", "gradient-opposition:steps=100", once(69.68)),
                ("noise", "random-noise", None),
            )
        ),
    ),
)
