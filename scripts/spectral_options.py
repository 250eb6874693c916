"""What options of spectral do to pictures, in PSNR and SSIM, and what `restore` brings back: no training.

python scripts/spectral_options.py OUT.json [--keys 2] [--per-class 50]

The first images of each class of CIFAR-10's training set, with the keys of `unlearnable reproduce`, which
everybody knows. OUT.json is in the form that results/ holds.
"""

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from picture_quality import restoring

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.quality import psnr, ssim
from unlearnable_kernels.environment import machine, versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import write_json
from unlearnable_kernels.progress import progress
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.run import protect_dataset

THREE, FOUR = "parts=cells+colour+tone", "parts=cells+colour+tone+contrast"
AT_FIRST = "cell=3,colours=rgb"  # the defaults when these were first measured, with three parts
MILD = "cells=0.4,colour=0.43,tone=0.04"
NORMAL = "cells=0.55,colour=0.55,tone=0.055"
STRONG = "cells=0.6,colour=0.6,tone=0.06"
FINE = f"{FOUR},cell=2"
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
    f"{FINE},{ALL},{STRONG},contrast=0.6",
    f"{FINE},{ALL},{NORMAL},contrast=0.55",
    f"{FINE},{ALL},{MILD},contrast=0.4",
]
RESTORED = [
    *(("cifar10", f"{THREE},{AT_FIRST},{strengths}") for strengths in (MILD, NORMAL, STRONG)),
    ("imagenet-sample, 224 px", f"{THREE},{AT_FIRST},{NORMAL}"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--keys", type=int, default=2)
    parser.add_argument("--per-class", type=int, default=50)
    options = parser.parse_args()
    source = Path(f"subset:cifar10,images={options.per_class}")
    before = load_arrays(source).images.numpy()
    cases = [(number, settings) for number in range(options.keys) for settings in SETTINGS]
    found: list[dict[str, Any]] = []
    with progress() as report:
        for done, (number, settings) in enumerate(cases):
            report("protections", done, len(cases))
            key = Key(hashlib.sha256(f"unlearnable reproduce {number}".encode()).digest())
            seen = measured(source, before, f"spectral:{settings}", key)
            found.append({"dataset": "cifar10", "method": f"spectral:{settings}", "key": number} | seen)
    what = f"PSNR in dB and SSIM of spectral with its options, {options.keys} keys; protection not measured"
    record = {"what": what, "machine": machine(), "versions": versions()}
    common = Key(hashlib.sha256(b"unlearnable reproduce 0").digest())
    restored = [restoring(name, f"spectral:{settings}", common) for name, settings in RESTORED]
    write_json(options.out, record | {"pictures": found, "restored": restored})


def measured(source: Path, before: np.ndarray, method: str, key: Key) -> dict[str, Any]:
    """Means over all pictures, as saved without loss and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        protected = Path(folder, "protected")
        chosen = METHODS.create(method)
        protect_dataset(source, protected, secret=key, method=chosen, dataset_name="sample", workers=0)
        after = load_arrays(protected).images.numpy()
    pairs = list(zip(before, after, strict=True))
    means = {each.__name__: float(np.mean([each(*pair) for pair in pairs])) for each in (psnr, ssim)}
    return means | {"pictures": len(pairs)}


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"spectral_options: {error}")
