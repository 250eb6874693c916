"""The spectral method: spectrum, coupling of colours and tone of every image become those of its class."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_spectrum import classwise_spectrum
from unlearnable_kernels.protect.methods.class_spectra import (
    CELLS,
    COLOUR,
    PARTS,
    TONE,
    ClassSpectra,
    check_strengths,
    class_spectra,
)
from unlearnable_kernels.protect.methods.filters import NORMAL
from unlearnable_kernels.protect.methods.method import METHODS, Method, Perturbation, Task, Workspace
from unlearnable_kernels.protect.methods.selection import check_fraction, exact_subset

INTENSITIES = {
    "mild": {CELLS: 0.4, COLOUR: 0.43, TONE: 0.04},
    NORMAL: {CELLS: 0.55, COLOUR: 0.55, TONE: 0.055},
    "strong": {CELLS: 0.6, COLOUR: 0.6, TONE: 0.06},
}
_LARGEST_ODD = 4096  # the transform's tables grow with the square of a side's odd part
_WEIGHTS = 1 << 26  # bytes of matrices at a time, and kept


@dataclass(frozen=True)
class SpectralMarks:
    """Gives each image the gains, the colour mixings and the tone curves of the class that it is assigned.

    Attributes:
        spectra: The parameters of all classes.
        outcome: Nothing.
    """

    spectra: ClassSpectra
    outcome: dict[str, Any] = field(default_factory=dict)
    _kept: dict[tuple[bytes, int, int], torch.Tensor] = field(default_factory=dict, repr=False, compare=False)
    """Weights by classes and size, those used last at the end: pictures of a class mostly come together."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": {}}

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        height, width = images.shape[1:3]
        if max(side // (side & -side) for side in (height, width)) > _LARGEST_ODD:
            raise UserError(
                f"spectral cannot take a picture of {width}x{height}: halved as often as that goes, a side "
                f"must be at most {_LARGEST_ODD} px; give --resize"
            )
        given = np.array(assignment)
        out[given < 0] = images[given < 0]
        for classes, weights in self._in_groups(np.unique(given[given >= 0]), *images.shape[1:3]):
            rows = np.isin(given, classes)
            marked = classwise_spectrum(
                torch.from_numpy(images[rows]).permute(0, 3, 1, 2),
                torch.from_numpy(np.searchsorted(classes, given[rows])),
                weights,
                torch.from_numpy(self.spectra.curves[classes]),
            )
            out[rows] = marked.permute(0, 2, 3, 1).numpy()

    def _in_groups(
        self, classes: np.ndarray, height: int, width: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """So many classes at a time that their weights stay small, and these, float32 [k, H, W, 3, 3]."""
        size = max(1, _WEIGHTS // (height * width * 9 * 4))
        for start in range(0, len(classes), size):
            some = classes[start : start + size]
            key = (some.tobytes(), height, width)
            weights = self._kept.pop(key, None)
            if weights is None:
                weights = self.spectra.weights(some, height, width)
            self._kept[key] = weights
            while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > _WEIGHTS:
                self._kept.pop(next(iter(self._kept)))
            yield some, weights


@METHODS.register("spectral", "gives the images of a class a private spectrum, colour coupling and tone")
@dataclass(frozen=True)
class Spectral(Method):
    """Gains on the cells of the cosine transform, colour mixings by ring and tone curves, docs/spectral.md.

    Attributes:
        parts: Which of ``PARTS``, joined by "+".
        intensity: The strengths that are not given, one of ``INTENSITIES``.
        cells: Largest part by which a uniform gain differs from 1.
        colour: Frobenius norm of what is added to the identity.
        tone: Sum of the waves' amplitudes, images being in [0, 1].
    """

    parts: str = "+".join(PARTS)
    intensity: str = NORMAL
    cells: float | None = None
    colour: float | None = None
    tone: float | None = None

    def check(self) -> None:
        chosen = self.parts.split("+")
        if not set(chosen) <= set(PARTS) or len(set(chosen)) < len(chosen):
            raise UserError(f"parts must be some of {'+'.join(PARTS)}, not {self.parts!r}")
        if self.intensity not in INTENSITIES:
            raise UserError(f"intensity must be one of {', '.join(INTENSITIES)}, not {self.intensity!r}")
        for part in PARTS:
            if part not in chosen and getattr(self, part) is not None:
                raise UserError(f"{part} must be among the parts if it has a strength, not {self.parts!r}")
        check_strengths(self.strengths)

    @property
    def strengths(self) -> dict[str, float | None]:
        """The final value of each part's strength; None for those that are left out."""
        given = {part: getattr(self, part) for part in PARTS}
        return {
            part: (INTENSITIES[self.intensity][part] if given[part] is None else float(given[part]))
            if part in self.parts.split("+")
            else None
            for part in PARTS
        }

    def parameters(self, task: Task) -> dict[str, Any]:
        check_fraction(task.fraction)
        return {
            "parts": "+".join(part for part in PARTS if part in self.parts.split("+")),
            **self.strengths,
            "fraction": float(task.fraction),
            "resize": task.resize,
            "format": task.format,
            **task.format_settings,
        }

    def assignment(self, task: Task, parameters: dict[str, Any]) -> list[int]:
        chosen = exact_subset(task.secret, task.name, task.names, task.labels, task.fraction)
        assignment: list[int] = np.where(chosen, task.labels, -1).tolist()
        return assignment

    def perturbation(
        self, task: Task, parameters: dict[str, Any], assignment: list[int], workspace: Workspace
    ) -> Perturbation:
        strengths = {part: parameters[part] for part in PARTS}
        return SpectralMarks(class_spectra(task.secret, task.name, task.classes, strengths))

    @classmethod
    def growable(cls, parameters: dict[str, Any]) -> bool:
        return True

    @classmethod
    def heading(cls, parameters: dict[str, Any]) -> str:
        strengths = (f"{part} {parameters[part]:g}" for part in PARTS if parameters[part] is not None)
        return f"{cls.name}, {', '.join(strengths)}"
