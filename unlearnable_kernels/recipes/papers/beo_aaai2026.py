"""Raising the Bayes error: BEO (Zhang, Sun, Lim and Zhang, AAAI 2026).

One table was available to us: CIFAR-10 with half of the training set protected. Its figures come from a
training that is sequential, as far as its authors' published programs tell: 26 epochs on the clean share,
then five on the protected share alone. The figures of everything protected are those of their log, trained
without augmentation as their embeddings are. docs/beo.md says more.
"""

from unlearnable_kernels.recipes.row import Paper, Row, once

NAME = "beo-aaai2026"
HALF = {"protected_fraction": 0.5}
BEO = "beo-aaai2026:steps={}"
CONV = "classwise-conv:padding=zeros"
# As the authors train their embeddings.
SHORT = {"epochs": 30, "batch_size": 128, "schedule": "cosine", "clip_norm": None}
LOG = {**SHORT, "crop_padding": 0, "flip": False}
# Outer steps, and what the log says after them; of the last ones, up to step 190, from lowest to highest.
LOGGED = ((25, once(79.0)), (50, once(75.0)), (79, once(67.0)), (190, (62.0, 76.0)))
SEQUENTIAL = {**SHORT, **HALF, "epochs": 31, "protected_epochs": 5}
ALONE = {**SHORT, **HALF, "epochs": 31, "only_clean": True}

PAPER = Paper(
    NAME,
    "Zhang, Sun, Lim and Zhang, AAAI 2026",
    (
        Row(
            f"{NAME}/cifar10/half/bayes-error", once(69.68), "cifar10", "bayes-error:steps=100", training=HALF
        ),
        # Of its protection nothing is used.
        Row(
            f"{NAME}/cifar10/half/clean-part",
            once(91.16),
            "cifar10",
            CONV,
            training=HALF | {"only_clean": True},
        ),
        Row(
            f"{NAME}/cifar10/half/earlier-methods",
            once(92.51),
            "cifar10",
            lacking="the protections that it was compared with, of which we know no names",
        ),
        Row(f"{NAME}/cifar10-log/plain/clean", once(85.70), "cifar10", training=LOG),
        *(
            Row(
                f"{NAME}/cifar10-log/plain/beo-{steps}-steps",
                figure,
                "cifar10",
                BEO.format(steps),
                training=LOG,
            )
            for steps, figure in LOGGED
        ),
        *(
            Row(f"{NAME}/cifar10/half-sequential/{name}", figure, "cifar10", protection, training=training)
            for name, protection, figure, training in (
                ("beo", BEO.format(100), once(69.68), SEQUENTIAL),
                ("opposition", "gradient-opposition:steps=100", once(69.68), SEQUENTIAL),
                ("noise", "random-noise", None, SEQUENTIAL),
                ("conv", CONV, None, SEQUENTIAL),
                ("clean-part", CONV, once(91.16), ALONE),
            )
        ),
    ),
)
