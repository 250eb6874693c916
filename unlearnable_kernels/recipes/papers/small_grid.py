"""Defences against protections, small enough for two CPU cores: a table of our own, beside no published one.

CIFAR-10, the first 1,000 images of every class; ``resnet8``, five epochs in batches of 64 under a one-cycle
rate, crops and flips. Every protection is of these 10,000 images. A run is tested on 3,000 images.
"""

from unlearnable_kernels.recipes.row import Paper, Row

NAME = "small-grid"
DATASET = "subset:cifar10,images=1000"
TRAINING = {
    "epochs": 5,
    "batch_size": 64,
    "schedule": "one-cycle",
    "lr": 0.05,
    "test_limit_per_class": 300,
}
PROTECTIONS = {
    "none": None,
    "zeros": "classwise-conv:padding=zeros",
    "reflect": "classwise-conv:padding=reflect",
    # Short embeddings, one of which is ascended: what two cores can do for 10,000 images.
    "beo": "bayes-error:network=resnet8,steps=4,inner_steps=2,embeddings=1,first_epochs=2,epochs=1",
}
PLAIN_ALONE = {
    # Stripes, and filters fitted to the pictures: the literature's VUDA, HUDA and IRP.
    "vertical": "classwise-conv:filters=vertical",
    "horizontal": "classwise-conv:filters=horizontal",
    "irp": "classwise-conv:filters=irp",
    "replicate": "classwise-conv:padding=replicate",
    "circular": "classwise-conv:padding=circular",
}
"""Measured without a defence, for what padding and filters do."""
DEFENCES = {
    "plain": (),
    "rsk-ff": ("rsk", "ff"),
    "coin": ("coin",),
    "grayscale": ("grayscale",),
    "jpeg": ("jpeg:quality=10",),
    "ueraser": ("ueraser",),
    "histeq": ("histeq",),
    "spectrum-norm": ("spectrum-norm",),
    "at-linf": ("at-linf:eps=4/255,steps=3",),
}


def _row(defence: str, name: str, protection: str | None) -> Row:
    return Row(f"{NAME}/{defence}/{name}", None, DATASET, protection, "resnet8", DEFENCES[defence], TRAINING)


PAPER = Paper(
    NAME,
    "what defences recover of each protection, on two CPU cores; adversarial training takes 3 steps of PGD",
    (
        *(_row(defence, *each) for defence in DEFENCES for each in PROTECTIONS.items()),
        *(_row("plain", *each) for each in PLAIN_ALONE.items()),
    ),
)
