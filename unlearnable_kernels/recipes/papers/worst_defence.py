"""Protections under published and adaptive defences: what the worst of each leaves.

Pictures, network and training are those of ``small_grid``, so that trainings that both have are run once.
Adaptive defences are those that somebody would build who knows the family of ``spectral``, but not the key.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unlearnable_kernels.recipes.papers.beo_arms import PROTECTIONS as BEO
from unlearnable_kernels.recipes.papers.small_grid import DATASET, TRAINING
from unlearnable_kernels.recipes.row import Paper, Row

NAME = "worst-defence"
_FIRST = "spectral:parts=cells+colour+tone,cell=3,colours=rgb"
_ALL = "spectral:parts=cells+colour+tone+contrast,cell=2"
FOUR = f"{_ALL},cells=0.6,colour=0.6,tone=0.06,contrast=0.6"
SHAPE = f"{_ALL},colours=opponent"
PROTECTIONS = {
    "none": None,
    "zeros": "classwise-conv:padding=zeros",
    "reflect": "classwise-conv:padding=reflect",
    # A recipe for a GPU. Each of 32 single steps leaves all of the budget used.
    "beo": BEO["beo-32"],
    # Defaults of `spectral` before, from the first on.
    "first": f"{_FIRST},cells=0.55,colour=0.55,tone=0.055",
    "first-strong": f"{_FIRST},cells=0.6,colour=0.6,tone=0.06",
    "opponent": f"{FOUR},colours=opponent",
    # Weaker gains and contrast, and cells taken out, which no pair of pictures gives back.
    "erased": f"{SHAPE},colour=0.6,tone=0.06,cells=0.3,contrast=0.4,erased=0.1",
    # The same SSIM with less of colour and tone, which defences undo by doing without.
    "structure": f"{SHAPE},cells=0.45,colour=0.4,tone=0.04,contrast=0.5,erased=0.1",
    # The default: fewer cells taken out, and nearly the strengths of `opponent`. Then its other
    # intensities, and its parts.
    "balanced": f"{SHAPE},cells=0.5,colour=0.55,tone=0.055,contrast=0.55,erased=0.06",
    "mild": f"{SHAPE},cells=0.3,colour=0.35,tone=0.035,contrast=0.33,erased=0.04",
    "strong": f"{SHAPE},cells=0.55,colour=0.6,tone=0.06,contrast=0.6,erased=0.06",
    "cells": "spectral:parts=cells,cell=2,cells=0.5,erased=0.06",
    "colour": "spectral:parts=colour,cell=2,colours=opponent,colour=0.55",
    "tone": "spectral:parts=tone,cell=2,tone=0.055",
    "contrast": "spectral:parts=contrast,cell=2,contrast=0.55",
}
PROTECTED = tuple(name for name, protection in PROTECTIONS.items() if protection is not None)
PUBLISHED = {
    "plain": (),
    "rsk-ff": ("rsk", "ff"),
    "coin": ("coin",),
    "jpeg": ("jpeg:quality=10",),
    "grayscale": ("grayscale",),
    "histeq": ("histeq",),
    "at-linf": ("at-linf:eps=4/255,steps=3",),
    **{
        name: (name,)
        for name in (
            "ueraser",
            "autoaugment",
            "bit-depth",
            "channel-norm",
            "cutmix",
            "cutout",
            "gaussian",
            "mixup",
            "op",
            "orthogonal",
            "random-blur",
            "smoothing",
            "whiten",
        )
    },
    "at-l2": ("at-l2:steps=3",),
    "dat": ("dat:steps=3",),
}
_CELLS = "spectrum-norm:mode=cell"
ADAPTIVE = {
    "rings": ("spectrum-norm",),
    "cells": (_CELLS,),
    "cells-histeq": (_CELLS, "histeq"),
    "gray-cells-histeq": ("grayscale", _CELLS, "histeq"),
    "gray-cells2-histeq": ("grayscale", f"{_CELLS},cell=2", "histeq"),
    "gray-cells-contrast-histeq": ("grayscale", _CELLS, "contrast-norm", "histeq"),
    "colour": ("band-whiten",),
    "colour-cells-histeq": ("band-whiten", _CELLS, "histeq"),
    "colour-by-cell-histeq": ("band-whiten:mode=cell", "histeq"),
    "random": ("random-spectral",),
    "random-contrast": ("random-spectral:contrast=0.6",),
    "random-erased": ("random-spectral:contrast=0.6,erased=0.1",),
    "pairs-1": ("clean-pairs:pairs=1",),
    "pairs-10": ("clean-pairs:pairs=10",),
    "pairs-10-filled": ("clean-pairs:pairs=10,fill=true",),
}
DEFENCES = PUBLISHED | ADAPTIVE
OWN_IMAGES = {"own-1": {"protected_fraction": 0.99}, "own-10": {"protected_fraction": 0.9}}
"""A thief adds clean images of the same classes, so that 1 or 10 % of all are clean."""
OWN_ALONE = {
    "own-1-alone": {"protected_fraction": 0.99, "only_clean": True, "epochs": 392},
    "own-10-alone": {"protected_fraction": 0.9, "only_clean": True, "epochs": 49},
}
"""Such a thief does without the protected ones, in as many steps: 784, for 785 of a mixture."""
FINE_TUNED = {"pretrained-all": ("finetune-all",), "pretrained-last": ("finetune-last",)}
PRETRAINING = {"train": "subset:tiny-imagenet,images=100", "image_size": 32}
"""20,000 other images, of 200 classes."""
ELSEWHERE = {
    "tiny-imagenet": ("subset:tiny-imagenet,classes=20,images=340", "resnet8"),
    "resnet18": (DATASET, "resnet18"),
}
"""Tables of larger pictures, at 64 px and of 20 classes, and of a larger network."""
TRIED_ELSEWHERE = ("plain", "rsk-ff", "jpeg", "gray-cells-histeq", "pairs-10")


def _row(
    defence: str, name: str, defences: tuple[str, ...] = (), more: Mapping[str, Any] | None = None
) -> Row:
    training = TRAINING | dict(more or {})
    protection = "random-noise" if defence in OWN_ALONE else PROTECTIONS[name]  # of which nothing is used
    row = Row(f"{NAME}/{defence}/{name}", None, DATASET, protection, "resnet8", defences, training)
    return replace(row, pretraining=PRETRAINING) if defence in FINE_TUNED else row


PAPER = Paper(
    NAME,
    "the worst published and the worst adaptive defence; "
    "adversarial training (at-linf, at-l2, dat) takes 3 steps of ascent",
    (
        *(_row(each, name, defences) for each, defences in DEFENCES.items() for name in PROTECTIONS),
        *(_row(each, name, defences) for each, defences in FINE_TUNED.items() for name in PROTECTIONS),
        *(_row(each, name, (), more) for each, more in OWN_IMAGES.items() for name in PROTECTED),
        *(_row(each, "none", (), more) for each, more in OWN_ALONE.items()),
        *(
            Row(f"{NAME}/{where}/{each}/{name}", None, data, PROTECTIONS[name], net, DEFENCES[each], TRAINING)
            for where, (data, net) in ELSEWHERE.items()
            for each in TRIED_ELSEWHERE
            for name in ("none", "zeros", "balanced")
        ),
    ),
)
