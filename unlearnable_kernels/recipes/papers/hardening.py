"""The search for what holds against the defences that undo ``spectral``.

As ``worst_defence``, whose protections and adaptive defences these are, but twice as many epochs: a network
must have learnt what the defences leave of the classes before a protection can show that it misleads.
"""

from unlearnable_kernels.recipes.papers import worst_defence
from unlearnable_kernels.recipes.row import Paper, Row

NAME = "hardening"
_OPPONENT, _BALANCED = (worst_defence.PROTECTIONS[name] for name in ("opponent", "balanced"))
_SHAPE = worst_defence.SHAPE
TRAINING = worst_defence.TRAINING | {"epochs": 10}
PROTECTIONS = {
    "none": None,
    "zeros": worst_defence.PROTECTIONS["zeros"],
    "first-strong": worst_defence.PROTECTIONS["first-strong"],
    "fine": f"{worst_defence.FOUR},colours=rgb",
    "opponent": _OPPONENT,
    # The same with what keeps a thief from knowing its cells, or a network from one shortcut for a class.
    "keyed": f"{_OPPONENT},edges=keyed",
    "turned": f"{_OPPONENT},edges=turned",
    "secrets": f"{_OPPONENT},secrets=4",
    # `opponent` at a mean SSIM of 0.83, a twelfth stronger.
    "firm": f"{_SHAPE},cells=0.65,colour=0.65,tone=0.065,contrast=0.65",
    "erased": worst_defence.PROTECTIONS["erased"],
    "structure": worst_defence.PROTECTIONS["structure"],
    "balanced": _BALANCED,
    "strong": worst_defence.PROTECTIONS["strong"],
    # What lies between the two, the second with more of gains and contrast alone; and other shares erased.
    "between": f"{_SHAPE},cells=0.53,colour=0.58,tone=0.058,contrast=0.58,erased=0.06",
    "gains": f"{_SHAPE},cells=0.55,colour=0.55,tone=0.055,contrast=0.58,erased=0.06",
    "erased-5": f"{_SHAPE},cells=0.55,colour=0.6,tone=0.06,contrast=0.6,erased=0.05",
    "erased-7": f"{_SHAPE},cells=0.5,colour=0.55,tone=0.055,contrast=0.55,erased=0.07",
    "erased-8": f"{_SHAPE},cells=0.5,colour=0.5,tone=0.05,contrast=0.5,erased=0.08",
    "crossed": _BALANCED,  # upon filters: `UPON`
}
ADAPTIVE = (
    "gray-cells-histeq",
    "gray-cells2-histeq",
    "gray-cells-contrast-histeq",
    "colour-cells-histeq",
    "pairs-10",
    "pairs-10-filled",
)
PUBLISHED = ("plain", "rsk-ff", "coin", "jpeg", "ueraser")
DEFENCES = {name: worst_defence.DEFENCES[name] for name in (*ADAPTIVE, *PUBLISHED)}
# Filters that mix what the cells keep apart.
UPON = {"crossed": "classwise-conv:intensity=mild"}


def _row(defence: str, name: str, protection: str | None) -> Row:
    data, defences = worst_defence.DATASET, DEFENCES[defence]
    path = f"{NAME}/{defence}/{name}"
    return Row(path, None, data, protection, "resnet8", defences, TRAINING, upon=UPON.get(name))


PAPER = Paper(
    NAME,
    "what holds against the composed normalisations",
    tuple(_row(defence, *each) for defence in DEFENCES for each in PROTECTIONS.items()),
)
