"""What spectral does to pictures, in PSNR and SSIM: by intensity and part, small and large pictures.

python scripts/spectral_pictures.py OUT.json [--keys 2]

CIFAR-10, and the ImageNet sample at 224 pixels; 48 pictures of each, as `unlearnable check` takes them, with
keys that everybody knows (those of `unlearnable reproduce`). OUT.json is in the form that results/ holds.
"""

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

from unlearnable_kernels.environment import machine, versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import write_json
from unlearnable_kernels.progress import progress
from unlearnable_kernels.protect.check import check_dataset
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.class_spectra import PARTS
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.methods.spectral import INTENSITIES
from unlearnable_kernels.protect.pipeline.plan import Options

SETS = {"cifar10": ("subset:cifar10,images=5", None), "imagenet-sample": ("imagenet-sample", 224)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--keys", type=int, default=2)
    options = parser.parse_args()
    methods = [f"spectral:intensity={name}" for name in INTENSITIES]
    methods += [f"spectral:parts={part}" for part in PARTS]
    methods += ["classwise-conv:padding=zeros", "classwise-conv:padding=reflect"]
    found: list[dict[str, Any]] = []
    with progress() as report:
        for number in range(options.keys):
            key = Key(hashlib.sha256(f"unlearnable reproduce {number}".encode()).digest())
            for name, (place, resize) in SETS.items():
                for method in methods:
                    checked = check_dataset(Path(place), Options(METHODS.create(method), resize=resize), key)
                    where = {"dataset": name, "resize": resize, "method": method, "key": number}
                    seen = {"psnr": checked.psnr, "ssim": checked.ssim, "pictures": checked.sampled}
                    found.append(where | seen)
            report("keys", number + 1, options.keys)
    what = f"PSNR in dB and SSIM of spectral and class-wise convolution, {options.keys} keys"
    write_json(options.out, {"what": what, "machine": machine(), "versions": versions(), "pictures": found})


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"spectral_pictures: {error}")
