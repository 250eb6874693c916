"""What storing with loss leaves of a protection: a table of our own.

Data, network and training are those of the small grid's rows without a defence.
"""

from unlearnable_kernels.recipes.papers.small_grid import DATASET, PROTECTIONS, TRAINING
from unlearnable_kernels.recipes.row import Paper, Row

NAME = "formats"
FORMATS = {"lossless": None} | {f"jpeg-{quality}": f"jpeg:quality={quality}" for quality in (95, 75, 50, 25)}


def _row(protection: str, name: str, stored_as: str | None) -> Row:
    row = f"{NAME}/plain/{protection}-{name}"
    return Row(row, None, DATASET, PROTECTIONS[protection], "resnet8", (), TRAINING, stored_as=stored_as)


PAPER = Paper(
    NAME,
    "what JPEG leaves of a protection, on two CPU cores",
    (
        Row(f"{NAME}/plain/none", None, DATASET, None, "resnet8", (), TRAINING),
        *(_row(protection, *each) for protection in ("zeros", "reflect") for each in FORMATS.items()),
    ),
)
