"""What makes BEO's effect appear: a table of our own that two CPU cores can do, beside no published one.

CIFAR-10, the first 200 images of every class, ``resnet8``, tested on 2,000 images. Four arms of a set of
which half is protected: trained jointly or in sequence, with and without augmentation; and everything
protected. In every arm the network sees 24,000 images, so that arms differ in nothing else. Sets are
protected as a whole, and mixed afterwards; embeddings are short, and warm-started, since time forbids long
ones.
"""

from collections.abc import Iterator
from typing import Any

from unlearnable_kernels.recipes.row import Paper, Row

Settings = dict[str, Any]

NAME = "beo-arms"
DATASET = "subset:cifar10,images=200"
TRAINING: Settings = {
    "epochs": 12,
    "batch_size": 64,
    "schedule": "one-cycle",
    "lr": 0.05,
    "test_limit_per_class": 200,
}
HALF: Settings = {"protected_fraction": 0.5}
# Epochs over a half are half as long.
SEQUENTIAL: Settings = {**HALF, "epochs": 24, "protected_epochs": 4}
ALONE: Settings = {**HALF, "epochs": 24, "only_clean": True}
# One-cycle has hardly any rate left for the last epochs, those of the protected share.
STEADY: Settings = {"schedule": "step", "lr_step": 24, "lr": 0.02}
UNAUGMENTED: Settings = {"crop_padding": 0, "flip": False}
AUGMENTED: dict[str, Settings] = {"augmented": {}, "unaugmented": UNAUGMENTED}

SHORT = "network=resnet8,embeddings=1,first_epochs=5,epochs=1"
NOISE = "random-noise"
# Single steps lead from end to end of the budget: all of it is used after each.
PROTECTIONS = {
    "beo-32": f"bayes-error:steps=32,inner_steps=1,{SHORT}",
    "noise": NOISE,
    "conv": "classwise-conv:padding=zeros",
    "beo-100": f"bayes-error:steps=100,inner_steps=1,{SHORT}",
    "opposition": f"gradient-opposition:steps=10,inner_steps=2,{SHORT}",
}
ESTIMATES = {
    "beo-32-narrow": f"{PROTECTIONS['beo-32']},bandwidth=0.1",
    "beo-32-median": f"{PROTECTIONS['beo-32']},bandwidth=median",
    "beo-32-length": f"{PROTECTIONS['beo-32']},scale=length",
    "beo-32-three": PROTECTIONS["beo-32"].replace("embeddings=1", "embeddings=3"),
}
"""The same with another bandwidth, features of another scale or several embeddings: without augmentation."""


def _rows() -> Iterator[Row]:
    for augmented, changes in AUGMENTED.items():
        for arm, share in (("all-clean", {}), ("clean-half", ALONE)):
            protection = NOISE if share else None  # of which nothing is used
            yield _row(f"{arm}-{augmented}/none", protection, share | changes)
    for name, protection in PROTECTIONS.items():
        for augmented, changes in AUGMENTED.items():
            for arm, share in (("joint", HALF), ("sequential", SEQUENTIAL), ("everything", {})):
                yield _row(f"{arm}-{augmented}/{name}", protection, share | changes)
    for name, protection in ESTIMATES.items():
        for arm, share in (("joint", HALF), ("everything", {})):
            yield _row(f"{arm}-unaugmented/{name}", protection, share | UNAUGMENTED)
    steady = UNAUGMENTED | STEADY
    yield _row("clean-half-steady-unaugmented/none", NOISE, ALONE | steady)
    for name in ("beo-32", "noise", "conv"):
        yield _row(f"sequential-steady-unaugmented/{name}", PROTECTIONS[name], SEQUENTIAL | steady)


def _row(name: str, protection: str | None, training: Settings) -> Row:
    return Row(f"{NAME}/{name}", None, DATASET, protection, "resnet8", training=TRAINING | training)


PAPER = Paper(NAME, "BEO by protocol and augmentation, beside controls, on two CPU cores", tuple(_rows()))
