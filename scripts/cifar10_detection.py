"""Whether edge-pixel detection (EPD) tells protected CIFAR-10 images from clean ones, for every padding.

python scripts/cifar10_detection.py OUT.json [--images 200 --keys 10 --splits 3]

Class-wise convolution with its other settings at their defaults, on the first so many images of every class,
with keys that everybody knows (those of `unlearnable reproduce`). Each set is compared with the clean images
as `unlearnable evaluate --detect` does it, over several splits into halves. OUT.json is in the form that
results/ holds.
"""

import argparse
import dataclasses
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, get_num_threads

from unlearnable_kernels.environment import commit, machine, versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import write_json
from unlearnable_kernels.ops.classwise_conv import PADDINGS
from unlearnable_kernels.progress import progress
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.training.detection import detect, edge_features, halves


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=200, help="of each class")
    parser.add_argument("--keys", type=int, default=10)
    parser.add_argument("--splits", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    options = parse()
    source = Path(f"subset:cifar10,images={options.images}")
    clean = edge_features(source)
    found: list[dict[str, Any]] = []
    with progress() as report:
        for number in range(options.keys):
            for padding in PADDINGS:
                names, features = zip(clean, protected_features(source, number, padding), strict=True)
                for split in range(options.splits):
                    result = detect(features, halves(names, split))
                    where = {"padding": padding, "key": number, "split": split}
                    found.append(where | dataclasses.asdict(result))
            report("detecting", number + 1, options.keys)
    what = (
        f"EPD on CIFAR-10, {len(clean[0]):,} clean images and the same protected by classwise_conv, "
        f"{options.keys} keys, {options.splits} splits each"
    )
    made_by = {"machine": machine(), "versions": versions(), "commit": commit(), "threads": get_num_threads()}
    write_json(options.out, {"what": what, **made_by, "detections": found})


def protected_features(source: Path, number: int, padding: str) -> tuple[list[str], Tensor]:
    """As ``edge_features``, of the images protected with one of the known keys."""
    key = Key(hashlib.sha256(f"unlearnable reproduce {number}".encode()).digest())
    with tempfile.TemporaryDirectory() as folder:
        protected = Path(folder) / "protected"
        protect_dataset(source, protected, secret=key, padding=padding, format="npz")
        return edge_features(protected)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"cifar10_detection: {error}")
