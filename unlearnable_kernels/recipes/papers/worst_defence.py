"""Protections under published and adaptive defences: what the worst of each leaves, on two CPU cores.

Pictures, network and training are those of ``small_grid``, so that trainings that both have are run once.
Adaptive defences are those that somebody would build who knows the family of ``spectral``, but not the key.
"""

from unlearnable_kernels.recipes.papers.small_grid import DATASET, TRAINING
from unlearnable_kernels.recipes.row import Paper, Row

NAME = "worst-defence"
PROTECTIONS = {
    "none": None,
    "zeros": "classwise-conv:padding=zeros",
    "strong": "spectral",
    "weak": "spectral:intensity=weak",
    "cells": "spectral:parts=cells",
    "colour": "spectral:parts=colour",
    "tone": "spectral:parts=tone",
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
