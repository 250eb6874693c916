"""What a few clean pictures beside their protected copies tell of how a class was protected.

    python examples/clean_pairs.py cifar10 --method spectral:intensity=strong

The attacker knows the family of ``spectral``, not the key: behind a tone curve of each channel stands a
matrix on the colours of each coefficient of the cosine transform, the same for all pictures of a class. From
pairs of one class the way back is fitted by least squares, curves and matrices in turn, and tried on the
other pictures of that class. Local contrast, which depends on a pixel's surroundings, is no part of the fit.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.fft import dctn, idctn

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.quality import psnr
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.run import protect_dataset

NODES, ROUNDS, CELL = 17, 8, 4
STIFFNESS = 0.02  # what holds a coefficient's matrix to its cell's, and the curves to no curve


def transformed(images: np.ndarray) -> np.ndarray:
    """Cosine transform of images [n, H, W, ...], orthonormal, over the two axes."""
    result: np.ndarray = dctn(images, axes=(1, 2), norm="ortho")
    return result


class WayBack:
    """From protected to clean pictures of one class, fitted to pairs.

    Attributes:
        curves: float64 [3, NODES], tones before the curve at equal distances of those behind it.
        matrices: float64 [H, W, 3, 3], by coefficient.
    """

    def __init__(self, protected: np.ndarray, clean: np.ndarray) -> None:
        """Of uint8 [n, H, W, 3] each."""
        height, width = clean.shape[1:3]
        self.curves = np.tile(np.linspace(0, 1, NODES), (3, 1))
        self.matrices = np.broadcast_to(np.eye(3), (height, width, 3, 3))
        wanted = transformed(clean / 255)
        hats = self._hats(protected)
        for _ in range(ROUNDS):
            self._fit_matrices(transformed(self._bent(hats)), wanted)
            self._fit_curves(transformed(hats), wanted)

    @staticmethod
    def _hats(images: np.ndarray) -> np.ndarray:
        """float64 [n, H, W, 3, NODES]: each byte as a mean of its two nodes."""
        place = images / 255 * (NODES - 1)
        return np.maximum(0, 1 - np.abs(place[..., None] - np.arange(NODES)))

    def _bent(self, hats: np.ndarray) -> np.ndarray:
        return np.einsum("nhwcb,cb->nhwc", hats, self.curves)

    def _fit_matrices(self, seen: np.ndarray, wanted: np.ndarray) -> None:
        """Least squares for each cell, towards no change, and then for each coefficient, towards its cell."""
        cross = np.einsum("nhwi,nhwj->hwij", wanted, seen)
        square = np.einsum("nhwi,nhwj->hwij", seen, seen)
        height, width = square.shape[:2]
        cells = np.add.outer(np.arange(height) // CELL * width, np.arange(width) // CELL).ravel()
        flat = [each.reshape(-1, 3, 3) for each in (cross, square)]
        sums = [np.zeros((cells.max() + 1, 3, 3)) for _ in flat]
        for total, each in zip(sums, flat, strict=True):
            np.add.at(total, cells, each)
        scale = np.trace(sums[1], axis1=1, axis2=2).mean() / 3 / CELL**2
        eye = STIFFNESS * scale * np.eye(3)
        of_cells = np.linalg.solve(sums[1] + eye, np.swapaxes(sums[0] + eye, 1, 2))
        near = np.einsum("ij,fjk->fik", eye, of_cells[cells])
        found = np.linalg.solve(flat[1] + eye, np.swapaxes(flat[0], 1, 2) + near)
        self.matrices = np.swapaxes(found, 1, 2).reshape(height, width, 3, 3)

    def _fit_curves(self, hats: np.ndarray, wanted: np.ndarray) -> None:
        design = np.einsum("hwic,nhwcb->nhwicb", self.matrices, hats).reshape(-1, 3 * NODES)
        start = np.tile(np.linspace(0, 1, NODES), 3)
        normal = design.T @ design
        stiff = STIFFNESS * np.trace(normal) / len(normal)
        right = design.T @ wanted.reshape(-1) + stiff * start
        self.curves = np.linalg.solve(normal + stiff * np.eye(len(normal)), right).reshape(3, NODES)

    def __call__(self, protected: np.ndarray) -> np.ndarray:
        """Estimates of the originals, uint8 [n, H, W, 3]."""
        seen = transformed(self._bent(self._hats(protected)))
        clean = idctn(np.einsum("hwij,nhwj->nhwi", self.matrices, seen), axes=(1, 2), norm="ortho")
        result: np.ndarray = np.clip(np.rint(255 * clean), 0, 255).astype(np.uint8)
        return result


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
