"""A part of CIFAR-10 as train.npz and test.npz, for a machine that has no decoder and takes few bytes.

python scripts/cifar10_npz.py SRC DST --per-class N [--test-per-class M]
"""

import argparse
import sys
from pathlib import Path

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.formats.npz import write_npz
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import replacing


def write_part(src: Path, dst: Path, split: str, per_class: int) -> None:
    """Write the first ``per_class`` images of each class of a split, in name order."""
    data = load_arrays(src, split, limit_per_class=per_class)
    pixels = (image.numpy().tobytes() for image in data.images)
    with replacing(dst / f"{split}.npz") as temporary:
        write_npz(
            temporary, pixels, tuple(data.images.shape[1:]), data.labels.tolist(), data.classes, data.names
        )
    print(f"{split}: {len(data):,} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("src", type=Path)
    parser.add_argument("dst", type=Path)
    parser.add_argument("--per-class", type=int, required=True)
    parser.add_argument("--test-per-class", type=int, default=200)
    arguments = parser.parse_args()
    arguments.dst.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", arguments.per_class), ("test", arguments.test_per_class)):
        write_part(arguments.src, arguments.dst, split, count)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"cifar10_npz: {error}")
