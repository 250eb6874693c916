"""What ``spectral`` does to the images of each class, derived from the secret (docs/spectral.md).

Every number is made by additions, products, quotients and square roots, which are rounded alike on all
machines; so a key gives the same bytes everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unlearnable_kernels.data.spectra import CELLS as SIDE
from unlearnable_kernels.data.spectra import RINGS, WAVES, rings_of_cells, spectral_weights
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Secret

CELLS, COLOUR, TONE = "cells", "colour", "tone"
PARTS = (CELLS, COLOUR, TONE)
LIMITS = {CELLS: 1.0, COLOUR: 1.0, TONE: 0.5}
_UNIFORMS = 12  # whose sum has variance 1


@dataclass(frozen=True)
class ClassSpectra:
    """The parameters of all K classes.

    Attributes:
        gains: float32 [K, 11, 11], by cell of the DCT plane; 1 where nothing is to change.
        mixings: float32 [K, 4, 3, 3], what is added to the identity in each ring, on the channel vector.
        curves: float32 [K, 3, 3, 2], amplitude and phase of each channel's waves 1 to 3.
    """

    gains: np.ndarray
    mixings: np.ndarray
    curves: np.ndarray

    def weights(self, classes: np.ndarray, height: int, width: int) -> torch.Tensor:
        """What ``spectral_weights`` gives for some of the classes, float32 [k, H, W, 3, 3]."""
        chosen = (torch.from_numpy(each[classes]) for each in (self.gains, self.mixings))
        return spectral_weights(*chosen, height, width)


def class_spectra(
    secret: Secret, dataset_name: str, classes: int | Sequence[str], strengths: dict[str, float | None]
) -> ClassSpectra:
    """The parameters of all classes of a dataset.

    Args:
        secret: Key or seed.
        dataset_name: Part of the derivation.
        classes: Names of the K classes, or their number, as for ``class_filters``.
        strengths: Of each of ``PARTS``; None leaves it out.

    Raises:
        UserError: A strength is out of range.
    """
    check_strengths(strengths)
    each: Sequence[str | int] = range(classes) if isinstance(classes, int) else classes
    made: dict[str, np.ndarray] = {}
    for part, derive in ((CELLS, _gains), (COLOUR, _mixings), (TONE, _curves)):
        strength = strengths[part]
        drawn = [
            derive(_Draw(secret, part, dataset_name, one, strength or 0.0), strength or 0.0) for one in each
        ]
        made[part] = np.stack(drawn).astype(np.float32)
    return ClassSpectra(made[CELLS], made[COLOUR], made[TONE])


def check_strengths(strengths: dict[str, float | None]) -> None:
    """Check the strengths that are given.

    Raises:
        UserError: One is out of range.
    """
    for part, strength in strengths.items():
        if strength is not None and not 0 < strength <= LIMITS[part]:
            raise UserError(f"{part} must be above 0 and at most {LIMITS[part]:g}, not {strength}")


@dataclass(frozen=True)
class _Draw:
    """Random numbers for one part and class."""

    secret: Secret
    part: str
    dataset_name: str
    one: str | int
    strength: float

    def uniform(self, what: str, *shape: int) -> np.ndarray:
        """float64, multiples of 2⁻⁵³ in [0, 1). ``what`` tells the draws of a part apart."""
        purpose = f"spectral {self.part} {what}"
        length = 8 * math.prod(shape)
        data = self.secret.derive(purpose, self.dataset_name, self.one, float(self.strength), length=length)
        words = np.frombuffer(data, dtype="<u8") >> np.uint64(11)
        return (words.astype(np.float64) * 2.0**-53).reshape(shape)

    def normal(self, what: str, *shape: int) -> np.ndarray:
        """float64, nearly N(0, 1): a sum of twelve uniform numbers, less its mean."""
        uniform = self.uniform(what, _UNIFORMS, *shape)
        return sum(uniform[1:], uniform[0]) - _UNIFORMS / 2


def _gains(draw: _Draw, strength: float) -> np.ndarray:
    """[11, 11]: 1 + strength · s, s uniform in [−1, 1] less its mean over the cells of a ring."""
    signs = 2 * draw.uniform("gains", SIDE, SIDE) - 1
    rings = rings_of_cells().numpy()
    for one in np.unique(rings):
        signs[rings == one] -= math.fsum(signs[rings == one]) / (rings == one).sum()
    return 1 + strength * signs


def _mixings(draw: _Draw, strength: float) -> np.ndarray:
    """[4, 3, 3], in each ring a random direction of Frobenius norm ``strength``."""
    matrices = draw.normal("mixings", len(RINGS), 3, 3)
    for matrix in matrices:
        matrix *= strength / math.sqrt(math.fsum((matrix * matrix).flat))
    return matrices


def _curves(draw: _Draw, strength: float) -> np.ndarray:
    """[3, 3, 2]: amplitudes whose sizes add up to ``strength`` in a channel, phases in [0, 2π)."""
    amplitudes = draw.normal("amplitudes", 3, WAVES)
    for row in amplitudes:
        row *= strength / math.fsum(abs(row))
    return np.stack([amplitudes, 2 * math.pi * draw.uniform("phases", 3, WAVES)], -1)
