"""What a few clean pictures beside their protected copies tell of how a class was protected.

    python examples/clean_pairs.py cifar10 --method spectral:intensity=strong

The attacker knows the family of ``spectral``, not the key: behind a tone curve of each channel stands a
matrix on the colours of each coefficient of the cosine transform, and behind that four factors of local
contrast, the same for all pictures of a class. From pairs of one class the way back is fitted by least
squares, curves, matrices and factors in turn, and tried on the other pictures of that class.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.quality import psnr
from unlearnable_kernels.defences.clean_pairs import WayBack
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.run import protect_dataset


def mean_psnr(images: np.ndarray, originals: np.ndarray) -> float:
    return float(np.mean([psnr(*pair) for pair in zip(originals, images, strict=True)]))


def main() -> None:
    """Protect pictures of one class with a fresh key; print what so many pairs give back of the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="a data set as for `unlearnable protect`, of one size")
    parser.add_argument("--method", default="spectral", help="as for `unlearnable protect`")
    parser.add_argument("--pairs", type=int, nargs="+", default=[1, 3, 10, 30, 100])
    parser.add_argument("--others", type=int, default=100, help="pictures to restore")
    given = parser.parse_args()
    source = Path(f"subset:{given.photos},classes=1,images={max(given.pairs) + given.others}")
    clean = load_arrays(source).images.numpy()
    if len(clean) < max(given.pairs) + given.others:
        sys.exit(f"a class has {len(clean)} pictures: fewer than --pairs and --others take together")
    with tempfile.TemporaryDirectory() as folder:
        published = Path(folder, "published")
        protect_dataset(
            source, published, secret=Key.generate(), method=METHODS.create(given.method), workers=0
        )
        protected = load_arrays(published).images.numpy()
    others = slice(len(clean) - given.others, None)
    print(f"as published: {mean_psnr(protected[others], clean[others]):.1f} dB")
    for count in given.pairs:
        way_back = WayBack(protected[:count], clean[:count])
        print(f"{count} pairs: {mean_psnr(way_back(protected[others]), clean[others]):.1f} dB")


if __name__ == "__main__":
    main()
