"""What each intensity of class-wise filters protects, with and without displacement: a table of our own.

Data, network and training are those of the small grid's rows without a defence, and so is the baseline.
"""

from unlearnable_kernels.protect.methods.filters import INTENSITIES, SMALL
from unlearnable_kernels.recipes.papers.small_grid import DATASET, PROTECTIONS, TRAINING
from unlearnable_kernels.recipes.row import Paper, Row

NAME = "intensities"


def _row(intensity: str, centred: bool) -> Row:
    protection = f"classwise-conv:intensity={intensity}" + (",centred=true" if centred else "")
    if protection == "classwise-conv:intensity=normal":
        protection = PROTECTIONS["reflect"] or ""  # the same set, which is then made and trained on once
    name = f"{NAME}/{intensity}/{'centred' if centred else 'displaced'}"
    return Row(name, None, DATASET, protection, "resnet8", (), TRAINING)


PAPER = Paper(
    NAME,
    "what mild, normal and strong filters protect, centred or not, on two CPU cores",
    (
        Row(f"{NAME}/none/none", None, DATASET, None, "resnet8", (), TRAINING),
        *(_row(intensity, centred) for intensity in INTENSITIES[SMALL] for centred in (False, True)),
    ),
)
