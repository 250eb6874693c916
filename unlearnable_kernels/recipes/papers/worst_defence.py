"""Protections under published and adaptive defences: what the worst of each leaves, on two CPU cores.

Pictures, network and training are those of ``small_grid``, so that trainings that both have are run once.
Adaptive defences are those that somebody would build who knows the family of ``spectral``, but not the key.
"""

from unlearnable_kernels.recipes.papers.small_grid import DATASET, TRAINING
from unlearnable_kernels.recipes.row import Paper, Row

NAME = "worst-defence"
# Defaults of `spectral` when its rows were first measured; three parts were, too.
_MILD = "cells=0.4,colour=0.43,tone=0.04"
_NORMAL = "cells=0.55,colour=0.55,tone=0.055"
_STRONG = "cells=0.6,colour=0.6,tone=0.06"
_AT_FIRST = "cell=3,colours=rgb"
_THREE = f"spectral:parts=cells+colour+tone,{_AT_FIRST}"
PROTECTIONS = {
    "none": None,
    "zeros": "classwise-conv:padding=zeros",
    "strong": f"{_THREE},{_STRONG}",
    "normal": f"{_THREE},{_NORMAL}",
    "mild": f"{_THREE},{_MILD}",
    "cells": f"spectral:parts=cells,{_AT_FIRST},cells=0.6",
    "colour": f"spectral:parts=colour,{_AT_FIRST},colour=0.6",
    "tone": f"spectral:parts=tone,{_AT_FIRST},tone=0.06",
}
PUBLISHED = {
    "plain": (),
    "rsk-ff": ("rsk", "ff"),
    "coin": ("coin",),
    "jpeg": ("jpeg:quality=10",),
    "grayscale": ("grayscale",),
    "histeq": ("histeq",),
    "at-linf": ("at-linf:eps=4/255,steps=3",),
}
_CELLS = "spectrum-norm:mode=cell"
ADAPTIVE = {
    "rings": ("spectrum-norm",),
    "cells": (_CELLS,),
    "cells-histeq": (_CELLS, "histeq"),
    "gray-cells-histeq": ("grayscale", _CELLS, "histeq"),
    "gray-cells2-histeq": ("grayscale", f"{_CELLS},cell=2", "histeq"),
    "colour": ("band-whiten",),
    "colour-cells-histeq": ("band-whiten", _CELLS, "histeq"),
    "colour-by-cell-histeq": ("band-whiten:mode=cell", "histeq"),
    "random": ("random-spectral",),
}
DEFENCES = PUBLISHED | ADAPTIVE


def _row(defence: str, name: str, protection: str | None) -> Row:
    return Row(f"{NAME}/{defence}/{name}", None, DATASET, protection, "resnet8", DEFENCES[defence], TRAINING)


PAPER = Paper(
    NAME,
    "the worst published and the worst adaptive defence, on two CPU cores",
    tuple(_row(defence, *each) for defence in DEFENCES for each in PROTECTIONS.items()),
)
