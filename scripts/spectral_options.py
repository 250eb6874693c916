"""What options of spectral do to pictures, at which strengths it is equally much, and what `restore` does.

python scripts/spectral_options.py OUT.json [--keys 2] [--per-class 50]

The first images of each class of CIFAR-10's training set, with the keys of `unlearnable reproduce`, which
everybody knows: PSNR, SSIM, CIEDE2000 and ST-LPIPS. Then, for some shapes of the method, the strength at
which mean SSIM is a given one. Nothing is trained. OUT.json is in the form that results/ holds. Needs
`pip install -e '.[quality]'`.
"""

import argparse
import functools
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perceptual import Pair, looks
from picture_quality import protected_on_trial, restoring

from unlearnable_kernels.data.quality import mean_quality
from unlearnable_kernels.environment import machine, versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import write_json
from unlearnable_kernels.progress import progress
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.class_spectra import TONE
from unlearnable_kernels.protect.methods.spectral import INTENSITIES

THREE, FOUR = "parts=cells+colour+tone", "parts=cells+colour+tone+contrast"
AT_FIRST = "cell=3,colours=rgb"  # the first defaults; three parts were, too
MILD = "cells=0.4,colour=0.43,tone=0.04"
NORMAL = "cells=0.55,colour=0.55,tone=0.055"
STRONG = "cells=0.6,colour=0.6,tone=0.06"
FINE = f"{FOUR},cell=2"
ERASED = "erased=0.1,cells=0.3,colour=0.6,tone=0.06,contrast=0.4"
STRUCTURE = "erased=0.1,cells=0.45,colour=0.4,tone=0.04,contrast=0.5"
BALANCED = "erased=0.06,cells=0.5,colour=0.55,tone=0.055,contrast=0.55"
BALANCED_STRONG = "erased=0.06,cells=0.55,colour=0.6,tone=0.06,contrast=0.6"
ALL = "edges=keyed,colours=opponent,secrets=4"
SETTINGS = [
    f"{THREE},{AT_FIRST},{MILD}",
    f"{THREE},{AT_FIRST},{NORMAL}",
    f"{THREE},{AT_FIRST},{STRONG}",
    f"{THREE},cell=2,colours=rgb,{STRONG}",
    f"{THREE},cell=1,colours=rgb,{STRONG}",
    f"{THREE},{AT_FIRST},edges=keyed,{STRONG}",
    f"{THREE},cell=3,colours=opponent,{STRONG}",
    f"{THREE},{AT_FIRST},secrets=4,{STRONG}",
    f"{FOUR},{AT_FIRST},{STRONG},contrast=0.6",
    f"parts=contrast,{AT_FIRST},contrast=0.6",
    f"{FINE},colours=rgb,{STRONG},contrast=0.6",
    f"{FINE},colours=opponent,{STRONG},contrast=0.6",
    f"{FINE},colours=opponent,edges=keyed,{STRONG},contrast=0.6",
    f"{FINE},colours=opponent,edges=turned,{STRONG},contrast=0.6",
    f"{FINE},colours=opponent,secrets=4,{STRONG},contrast=0.6",
    f"{FINE},colours=opponent,{ERASED}",
    f"{FINE},colours=opponent,{STRUCTURE}",
    f"{FINE},colours=opponent,{BALANCED}",
    f"{FINE},colours=opponent,{BALANCED_STRONG}",
    f"{FINE},{ALL},{STRONG},contrast=0.6",
    f"{FINE},{ALL},{NORMAL},contrast=0.55",
    f"{FINE},{ALL},{MILD},contrast=0.4",
]
SECOND = "cells=0.6,colour=0.6,tone=0.06,contrast=0.6"  # the second defaults
RESTORED = [
    *(("cifar10", f"{THREE},{AT_FIRST},{strengths}") for strengths in (MILD, NORMAL, STRONG)),
    ("imagenet-sample, 224 px", f"{THREE},{AT_FIRST},{NORMAL}"),
    *((name, f"{SECOND},large_contrast=1") for name in ("cifar10", "imagenet-sample, 224 px")),
    *((name, f"intensity={each}") for name in ("cifar10", "imagenet-sample, 224 px") for each in INTENSITIES),
]


SHAPES = {
    "opponent": f"{FINE},colours=opponent",
    "without contrast": f"{THREE},cell=2,colours=opponent",
    "edges=keyed": f"{FINE},colours=opponent,edges=keyed",
    "edges=turned": f"{FINE},colours=opponent,edges=turned",
    "secrets=4": f"{FINE},colours=opponent,secrets=4",
    "erased=0.06": f"{FINE},colours=opponent,erased=0.06",
}
TARGETS = (0.8, 0.85, 0.9, 0.95)
SHOWN = 25  # images that the network of ST-LPIPS sees
KEYS, FEW = 8, 30  # another strength draws other parameters, so that means of few keys say little of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--keys", type=int, default=2)
    parser.add_argument("--per-class", type=int, default=50)
    options = parser.parse_args()
    source = f"subset:cifar10,images={options.per_class}"
    keys = [Key(hashlib.sha256(f"unlearnable reproduce {n}".encode()).digest()) for n in range(KEYS)]
    cases = [(number, settings) for number in range(options.keys) for settings in SETTINGS]
    found: list[dict[str, Any]] = []
    equal: list[dict[str, Any]] = []
    with progress() as report:
        for done, (number, settings) in enumerate(cases):
            report("protections", done, len(cases))
            pairs = on_trial(source, f"spectral:{settings}", keys[number], 10 * options.per_class)
            found.append({"dataset": "cifar10", "method": f"spectral:{settings}", "key": number})
            found[-1] |= looks(pairs, SHOWN)
        for done, (name, shape) in enumerate(SHAPES.items()):
            report("strengths", done, len(SHAPES))
            equal += [{"shape": name, **each} for each in at_equal_ssim(source, shape, keys)]
    what = f"What spectral with its options does to pictures, {options.keys} keys; protection not measured"
    record = {"what": what, "machine": machine(), "versions": versions()}
    restored = [restoring(name, f"spectral:{settings}", keys[0]) for name, settings in RESTORED]
    write_json(options.out, record | {"pictures": found, "equal_ssim": equal, "restored": restored})


def on_trial(source: str, method: str, key: Key, most: int) -> list[Pair]:
    return protected_on_trial(source, None, method, key, most, dataset_name="sample")


def at_equal_ssim(source: str, shape: str, keys: Sequence[Key]) -> list[dict[str, Any]]:
    """For each of ``TARGETS`` the hundredths at which a shape's mean SSIM over all keys comes nearest."""

    @functools.cache
    def quality(hundredths: int) -> dict[str, Any]:
        method = f"spectral:{shape},{strengths(shape, hundredths)}"
        return mean_quality(pair for key in keys for pair in on_trial(source, method, key, FEW))

    found = []
    for target in TARGETS:
        best = nearest(target, lambda hundredths: quality(hundredths)["ssim"])
        reached = {name: quality(best)[name] for name in ("psnr", "ssim")}
        found.append({"target": target, "strengths": strengths(shape, best), "keys": len(keys)} | reached)
    return found


def strengths(shape: str, hundredths: int) -> str:
    """All strengths of a shape equal, so many hundredths, but for tone, which gets a tenth of that."""
    parts = shape.partition(",")[0].removeprefix("parts=").split("+")
    return ",".join(f"{part}={hundredths / (1000 if part == TONE else 100):g}" for part in parts)


def nearest(target: float, ssim: Callable[[int], float]) -> int:
    """Where in 1 to 100 a function that falls, but for chance, comes nearest to ``target``: by bisection."""
    low, high = 1, 100
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ssim(middle) > target else (low, middle)
    return min(low, high, key=lambda hundredths: abs(ssim(hundredths) - target))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"spectral_options: {error}")
