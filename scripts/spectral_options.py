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
from unlearnable_kernels.protect.methods.filters import NORMAL
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.methods.spectral import INTENSITIES
from unlearnable_kernels.protect.run import protect_dataset

FOUR = "parts=cells+colour+tone+contrast"
SETTINGS = [
    "intensity=mild",
    "intensity=normal",
    "intensity=strong",
    *(
        f"intensity=strong,{option}"
        for option in (
            "cell=2",
            "cell=1",
            "edges=keyed",
            "colours=opponent",
            "secrets=4",
            FOUR,
            "parts=contrast",
            f"cell=2,{FOUR}",
            f"cell=2,edges=keyed,colours=opponent,secrets=4,{FOUR}",
        )
    ),
    f"cell=2,edges=keyed,colours=opponent,secrets=4,{FOUR}",
    f"intensity=mild,cell=2,edges=keyed,colours=opponent,secrets=4,{FOUR}",
]
RESTORED = [
    *(("cifar10", intensity) for intensity in INTENSITIES),
    ("imagenet-sample, 224 px", NORMAL),
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
    restored = [restoring(name, f"spectral:intensity={intensity}", common) for name, intensity in RESTORED]
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
