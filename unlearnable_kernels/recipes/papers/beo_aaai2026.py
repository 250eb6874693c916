"""Raising the Bayes error: BEO (Zhang, Sun, Lim and Zhang, AAAI 2026).

One table was available to us: CIFAR-10 with half of the training set protected. Its figures come from a
training that is sequential, the clean share first and the protected share alone at the end, as far as its
authors' published programs tell; the row of that protocol cannot be run here yet. Nor can those of their log
of Bayes errors, of everything protected and trained without augmentation.
"""

from unlearnable_kernels.recipes.row import Paper, Row, once

NAME = "beo-aaai2026"
HALF = {"protected_fraction": 0.5}
BEO = "bayes-error:steps=100"

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
                lacking="the authors' setting: everything protected, embeddings without augmentation",
            )
            for steps, figure in ((0, 85.70), (25, 79.0), (50, 75.0), (79, 67.0))
        ),
        Row(
            f"{NAME}/cifar10/half-sequential/beo",
            once(69.68),
            "cifar10",
            lacking="a training that sees the clean share first and the protected share alone at the end",
        ),
    ),
)
