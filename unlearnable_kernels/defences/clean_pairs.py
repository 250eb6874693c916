"""A fit of what ``spectral`` does to a class, from pictures of it that somebody has as they were, too."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.local_contrast import SCALES, with_contrast, without_contrast
from unlearnable_kernels.data.named import resolve
from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Defence
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module

NODES, ROUNDS, CELL = 17, 8, 4
AT_ONCE = 1 << 20  # values that are restored at a time
STIFFNESS = 0.02  # what holds a coefficient's matrix to its cell's, and the curves to no curve


def transformed(images: np.ndarray) -> np.ndarray:
    """Cosine transform of images [n, H, W, ...], orthonormal, over the two axes."""
    result: np.ndarray = extra_module("scipy.fft").dctn(images, axes=(1, 2), norm="ortho")
    return result


class WayBack:
    """From protected to clean pictures of one class, fitted to pairs.

    Attributes:
        curves: float64 [3, NODES], tones before the curve at equal distances of those behind it.
        matrices: float64 [H, W, 3, 3], by coefficient.
        contrasts: float32 [2, 2], as ``with_contrast`` takes them; undone last, since it is done first.
        lost: float64 [H, W, 3, 3], a root of the covariance of what did not come back, by coefficient.
    """

    def __init__(self, protected: np.ndarray, clean: np.ndarray) -> None:
        """Of uint8 [n, H, W, 3] each."""
        height, width = clean.shape[1:3]
        self.curves = np.tile(np.linspace(0, 1, NODES), (3, 1))
        self.matrices = np.broadcast_to(np.eye(3), (height, width, 3, 3))
        self.contrasts = np.zeros((len(SCALES), 2), np.float32)
        plain, terms = transformed(clean / 255), transformed(self._contrast_terms(clean))
        wanted = plain
        hats = self._hats(protected)
        for _ in range(ROUNDS):
            self._fit_matrices(transformed(self._bent(hats)), wanted)
            self._fit_curves(transformed(hats), wanted)
            self._fit_contrasts(transformed(self._bent(hats)), plain, terms)
            wanted = plain + terms @ self.contrasts.ravel()
        error = wanted - np.einsum("hwij,nhwj->nhwi", self.matrices, transformed(self._bent(hats)))
        covariance = np.einsum("nhwi,nhwj->hwij", error, error) / len(clean)
        sizes, axes = np.linalg.eigh(covariance)
        self.lost = axes * np.sqrt(sizes.clip(0))[..., None, :]

    @staticmethod
    def _hats(images: np.ndarray) -> np.ndarray:
        """float64 [n, H, W, 3, NODES]: each byte as a mean of its two nodes."""
        place = images / 255 * (NODES - 1)
        hats: np.ndarray = np.maximum(0, 1 - np.abs(place[..., None] - np.arange(NODES)))
        return hats

    def _bent(self, hats: np.ndarray) -> np.ndarray:
        bent: np.ndarray = np.einsum("nhwcb,cb->nhwc", hats, self.curves)
        return bent

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

    def _contrast_terms(self, images: np.ndarray) -> np.ndarray:
        """What each factor adds to images, uint8 [n, H, W, 3], where it is 1: float64 [n, H, W, 3, 4]."""
        units = np.eye(self.contrasts.size, dtype=np.float32).reshape(-1, *self.contrasts.shape)
        each = (np.broadcast_to(unit, (len(images), *unit.shape)) for unit in units)
        return np.stack([with_contrast(images, factors) - images / 255 for factors in each], -1)

    def _fit_contrasts(self, seen: np.ndarray, plain: np.ndarray, terms: np.ndarray) -> None:
        added = np.einsum("hwij,nhwj->nhwi", self.matrices, seen) - plain
        design = terms.reshape(-1, terms.shape[-1])
        normal = design.T @ design
        stiff = STIFFNESS * np.trace(normal) / len(normal)
        found = np.linalg.solve(normal + stiff * np.eye(len(normal)), design.T @ added.ravel())
        self.contrasts = found.astype(np.float32).reshape(self.contrasts.shape)

    def __call__(self, protected: np.ndarray, noise: torch.Generator | None = None) -> np.ndarray:
        """Estimates of the originals, uint8 [n, H, W, 3]; with ``noise`` plus as much of it as was lost."""
        result = np.empty_like(protected)
        size = max(1, AT_ONCE // protected[0].size)
        for start in range(0, len(protected), size):
            some = slice(start, start + size)
            seen = transformed(self._bent(self._hats(protected[some])))
            wanted = np.einsum("hwij,nhwj->nhwi", self.matrices, seen)
            if noise is not None:
                drawn = torch.randn(wanted.shape, generator=noise, dtype=torch.float64).numpy()
                wanted += np.einsum("hwij,nhwj->nhwi", self.lost, drawn)
            bent = extra_module("scipy.fft").idctn(wanted, axes=(1, 2), norm="ortho").transpose(0, 3, 1, 2)
            factors = np.broadcast_to(self.contrasts, (len(bent), *self.contrasts.shape))
            clean = without_contrast(bent.astype(np.float32), factors).transpose(0, 2, 3, 1)
            result[some] = np.clip(np.rint(255 * clean), 0, 255)
        return result


@DEFENCES.register("clean-pairs", "undoes what pairs of clean and protected images of a class tell of it")
@dataclass(frozen=True)
class CleanPairs(Defence):
    """Each class's way back is fitted to its first pairs, and restores its other images.

    Attributes:
        pairs: How many of each class; their clean images are trained on.
        fill: Whether to add noise to coefficients that pairs show to be lost: what is missing does not
            tell the class.
        clean: The data set as it was, with the same images in the same order; its path is made absolute.

    Raises:
        UserError: ``pairs`` is out of range.
    """

    pairs: int = 10
    clean: str | None = None
    fill: bool = False

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise UserError(f"pairs must be at least 1, not {self.pairs}")
        if self.clean is not None:
            object.__setattr__(self, "clean", resolve(self.clean))

    def prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Restored images, and the labels as they are.

        Raises:
            UserError: ``clean`` is missing, cannot be read, or has other images.
        """
        if self.clean is None:
            raise UserError("defence clean-pairs: needs the data set as it was: clean=PATH")
        height, width = images.shape[1:3]
        size = height if height == width else None
        most = int(labels.bincount().max())
        before = load_arrays(Path(self.clean), image_size=size, limit_per_class=most)
        if before.images.shape != images.shape or not torch.equal(before.labels, labels):
            raise UserError(
                f"defence clean-pairs: {self.clean} must have the training set's images, in the same order"
            )
        seen, clean, restored = images.numpy(), before.images.numpy(), images.numpy().copy()
        for label in labels.unique():
            rows = (labels == label).nonzero()[:, 0].numpy()
            known, others = rows[: self.pairs], rows[self.pairs :]
            restored[known] = clean[known]
            if len(others):
                way_back = WayBack(seen[known], clean[known])
                restored[others] = way_back(seen[others], generator if self.fill else None)
        return torch.from_numpy(restored), labels

    def describe(self) -> str:
        """Such as "10 pairs a class"."""
        return f"{self.pairs} pairs a class{', filled with noise' if self.fill else ''}"
