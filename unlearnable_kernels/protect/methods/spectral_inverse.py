"""Estimating originals from what ``spectral`` made of them: each of its parts undone, the last one first."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearnable_kernels.data.local_contrast import without_contrast
from unlearnable_kernels.ops.classwise_spectrum import classwise_spectrum
from unlearnable_kernels.protect.methods.class_spectra import ClassSpectra, as_bytes
from unlearnable_kernels.protect.methods.method import Perturbation

_STEPS = 4096  # of the grid on which a curve is searched, over −0.5 … 1.5
_DAMPING = 1e-3
_HARDLY = 2.0  # grey levels, root mean square: what is marked by less stays as it is


@dataclass(frozen=True)
class SpectralInverse:
    """For every byte the tone that the curve brings nearest to it, then matrices and contrasts undone.

    Attributes:
        spectra: The parameters of all classes.
        marks: What is undone.
        outcome: Nothing.
    """

    spectra: ClassSpectra
    marks: Perturbation
    outcome: dict[str, Any] = field(default_factory=dict)

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        """As ``Perturbation.apply``, from protected images to estimates of their originals."""
        given = np.array(assignment)
        out[given < 0] = images[given < 0]
        for one in np.unique(given[given >= 0]):
            rows = given == one
            tables = unbent(torch.from_numpy(self.spectra.curves[one]))
            pixels = torch.from_numpy(images[rows]).long()
            y = torch.stack([tables[c][pixels[..., c]] for c in range(3)], 1)
            weights = undone(self.spectra.weights(np.array([one]), *images.shape[1:3]))
            label = torch.zeros(len(y), dtype=torch.int64)
            x = classwise_spectrum(y, label, weights, torch.zeros(1, 3, 0, 2))
            factors = self.spectra.factors(given[rows], *images.shape[1:3])
            if factors is not None:
                x = torch.from_numpy(without_contrast(x.numpy(), factors))
            out[rows] = self._nearer(as_bytes(x.permute(0, 2, 3, 1).numpy()), images[rows], int(one))

    def _nearer(self, estimates: np.ndarray, published: np.ndarray, one: int) -> np.ndarray:
        """The estimates, but for images that the marks of the class hardly change, or change less than those.

        Such are black and white ones, which several originals would give.
        """
        again = np.empty_like(published)
        errors = []
        for candidates in (published, estimates):
            self.marks.apply(candidates, [one] * len(candidates), again)
            difference = again.astype(np.float64) - published
            errors.append(np.sqrt(np.square(difference).mean((1, 2, 3))))
        stays = (errors[0] < _HARDLY) | (errors[0] <= errors[1])
        return np.where(stays[:, None, None, None], published, estimates)


def unbent(curves: Tensor) -> Tensor:
    """Tones before a curve of each channel, [3, F, 2], for each byte behind it, float32 [3, 256].

    Where several tones give a byte, the mean of the lowest and the highest.
    """
    y = torch.linspace(-0.5, 1.5, 2 * _STEPS + 1)
    amplitudes, phases = curves[..., None].unbind(2)
    rates = 1.5 * torch.pi * torch.arange(1, curves.shape[1] + 1)[:, None]
    bent = y + (amplitudes * torch.sin(rates * y + phases)).sum(1)
    wanted = torch.arange(256)[:, None] / 255
    tables = []
    for channel in bent:
        distance = (channel - wanted).abs()
        near = distance <= distance.amin(1, keepdim=True) + 1 / _STEPS
        first, last = near.int().argmax(1), len(y) - 1 - near.flip(1).int().argmax(1)
        tables.append((y[first] + y[last]) / 2)
    return torch.stack(tables)


def undone(weights: Tensor) -> Tensor:
    """Inverses of matrices [..., C, C], damped: what was nearly taken out would come back as noise."""
    square = weights @ weights.mT
    damped = square + _DAMPING * torch.eye(weights.shape[-1])
    inverse: Tensor = torch.linalg.solve(damped, weights).mT.contiguous()
    return inverse
