"""What each intensity of class-wise filters protects, with and without displacement: a table of our own.

Data, network and training are those of the small grid's rows without a defence, and so is the baseline.
"""

from unlearnable_kernels.recipes.papers.small_grid import DATASET, PROTECTIONS, TRAINING
from unlearnable_kernels.recipes.row import Paper, Row

NAME = "intensities"
# "mild" is "normal", centred.
_SETTINGS = {"weaker": "strength=0.1", "normal": "intensity=normal", "strong": "intensity=strong"}


def _row(name: str, centred: bool) -> Row:
    protection = f"classwise-conv:{_SETTINGS[name]}" + (",centred=true" if centred else "")
    if protection == "classwise-conv:intensity=normal":
        protection = PROTECTIONS["reflect"] or ""  # the same set, which is then made and trained on once
    row = f"{NAME}/plain/{name}-{'centred' if centred else 'displaced'}"
    return Row(row, None, DATASET, protection, "resnet8", (), TRAINING)


PAPER = Paper(
    NAME,
    "what weaker, normal and strong filters protect, centred or not, on two CPU cores",
    (
        Row(f"{NAME}/plain/none", None, DATASET, None, "resnet8", (), TRAINING),
        *(_row(name, centred) for name in _SETTINGS for centred in (False, True)),
    ),
)
