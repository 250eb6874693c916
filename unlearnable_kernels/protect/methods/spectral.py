"""The spectral method: spectrum, coupling of colours and tone of every image become those of its class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from unlearnable_kernels.data.local_contrast import with_contrast
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_spectrum import classwise_spectrum
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.methods.class_spectra import (
    ALL_PARTS,
    CELLS,
    COLOUR,
    CONTRAST,
    FIXED,
    OPPONENT,
    TONE,
    ClassSpectra,
    Variant,
    as_bytes,
    check_strengths,
    class_spectra,
)
from unlearnable_kernels.protect.methods.filters import NORMAL
from unlearnable_kernels.protect.methods.method import METHODS, Method, Perturbation, Task, Workspace
from unlearnable_kernels.protect.methods.selection import check_fraction, exact_subset
from unlearnable_kernels.protect.methods.spectral_inverse import SpectralInverse

INTENSITIES = {
    "mild": {CELLS: 0.3, COLOUR: 0.35, TONE: 0.035, CONTRAST: 0.33},
    NORMAL: {CELLS: 0.5, COLOUR: 0.55, TONE: 0.055, CONTRAST: 0.55},
    "strong": {CELLS: 0.55, COLOUR: 0.6, TONE: 0.06, CONTRAST: 0.6},
}
LARGE_CONTRAST = 0.5
ERASED = {"mild": 0.04, NORMAL: 0.06, "strong": 0.06}
_LARGEST_ODD = 4096  # the transform's tables grow with the square of a side's odd part
_PIECE = 1 << 19  # bytes of images at a time, that what is made of them stays in a cache
_GROUP = 1 << 22  # bytes of matrices at a time: fresh memory costs more than what is computed in it
_WEIGHTS = 1 << 26  # of them that are kept


@dataclass(frozen=True)
class SpectralMarks:
    """Gives each image the gains, colour mixings, tone curves and contrasts of the set that it is assigned.

    Attributes:
        spectra: The parameters of all sets.
        outcome: Nothing.
    """

    spectra: ClassSpectra
    outcome: dict[str, Any] = field(default_factory=dict)
    _kept: dict[tuple[bytes, int, int], torch.Tensor] = field(default_factory=dict, repr=False, compare=False)
    """Weights by classes and size, those used last at the end: pictures of a class mostly come together."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": {}}

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        _, height, width, channels = images.shape
        if max(side // (side & -side) for side in (height, width)) > _LARGEST_ODD:
            raise UserError(
                f"spectral cannot take a picture of {width}x{height}: halved as often as that goes, a side "
                f"must be at most {_LARGEST_ODD} px; give --resize"
            )
        given = np.array(assignment)
        size = max(1, _PIECE // max(1, height * width * channels))
        for start in range(0, len(images), size):
            some = slice(start, start + size)
            self._apply(images[some], given[some], out[some])

    def _apply(self, images: np.ndarray, given: np.ndarray, out: np.ndarray) -> None:
        out[given < 0] = images[given < 0]
        for classes, weights in self._in_groups(np.unique(given[given >= 0]), *images.shape[1:3]):
            chosen = np.isin(given, classes)
            rows = slice(None) if chosen.all() else chosen  # a slice copies nothing
            pixels = np.require(images[rows], requirements=["C", "W"])  # what torch takes without a warning
            factors = self.spectra.factors(given[rows], *images.shape[1:3])
            if factors is not None:
                pixels = with_contrast(pixels, factors)
            marked = classwise_spectrum(
                torch.from_numpy(pixels).permute(0, 3, 1, 2),
                torch.from_numpy(np.searchsorted(classes, given[rows])),
                weights,
                torch.from_numpy(self.spectra.curves[classes]),
            )
            out[rows] = as_bytes(marked.permute(0, 2, 3, 1).numpy())

    def _in_groups(
        self, classes: np.ndarray, height: int, width: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """So many classes at a time that their weights stay small, and these, float32 [k, H, W, 3, 3]."""
        size = max(1, _GROUP // (height * width * 9 * 4))
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


@METHODS.register("spectral", "gives each class a private spectrum, colour coupling, tone and local contrast")
@dataclass(frozen=True)
class Spectral(Method):
    """Gains on cells of the cosine transform, colour mixings by ring, tones, contrasts: docs/spectral.md.

    How the defaults were chosen, and what they miss, is in docs/hardening.md.

    Attributes:
        parts: Which of ``ALL_PARTS``, joined by "+".
        intensity: The strengths, and the share that is erased, that are not given; one of ``INTENSITIES``.
        cells: Largest part by which a uniform gain differs from 1.
        colour: Frobenius norm of what is added to the identity.
        tone: Sum of the waves' amplitudes, images being in [0, 1].
        contrast: Sum of the sizes of the factors on local differences.
        cell: As in ``Variant``, like the settings that follow; the defaults are others.
        edges: "fixed", "keyed" or "turned".
        colours: "rgb" or "opponent".
        secrets: How many sets of parameters a class has, of which the key chooses one for each image.
        erased: Share of the cells of each ring that are taken out; None takes that of the intensity where
            ``cells`` does so too, otherwise 0.
        large_contrast: Share of contrast that images of 224 px and more get, where it shows most; None takes
            ``LARGE_CONTRAST``.
    """

    parts: str = "+".join(ALL_PARTS)
    intensity: str = NORMAL
    cells: float | None = None
    colour: float | None = None
    tone: float | None = None
    contrast: float | None = None
    cell: int = 2
    edges: str = FIXED
    colours: str = OPPONENT
    secrets: int = 1
    erased: float | None = None
    large_contrast: float | None = None

    def check(self) -> None:
        chosen = self.parts.split("+")
        if not set(chosen) <= set(ALL_PARTS) or len(set(chosen)) < len(chosen):
            raise UserError(f"parts must be some of {'+'.join(ALL_PARTS)}, not {self.parts!r}")
        if self.intensity not in INTENSITIES:
            raise UserError(f"intensity must be one of {', '.join(INTENSITIES)}, not {self.intensity!r}")
        for part in ALL_PARTS:
            if part not in chosen and getattr(self, part) is not None:
                raise UserError(f"{part} must be among the parts if it has a strength, not {self.parts!r}")
        if self.erased and CELLS not in chosen:
            raise UserError(f"cells must be among the parts if some are erased, not {self.parts!r}")
        if self.large_contrast is not None and CONTRAST not in chosen:
            raise UserError(
                f"contrast must be among the parts if large_contrast is given, not {self.parts!r}"
            )
        check_strengths(self.strengths)
        variant = self.variant
        if self.erased and not variant.erased:
            raise UserError(f"erased must take out a cell, not {self.erased} with cells of {self.cell}")

    @property
    def variant(self) -> Variant:
        chosen = self.parts.split("+")
        large_contrast = LARGE_CONTRAST if self.large_contrast is None else float(self.large_contrast)
        if CONTRAST not in chosen:
            large_contrast = Variant.large_contrast
        usual = ERASED[self.intensity] if CELLS in chosen and self.cells is None else 0.0
        erased = usual if self.erased is None else float(self.erased)
        variant = Variant(self.cell, self.edges, self.colours, self.secrets, erased, large_contrast)
        return variant if variant.erased_cells else replace(variant, erased=0.0)

    @property
    def strengths(self) -> dict[str, float | None]:
        """The final value of each part's strength; None for those that are left out."""
        given = {part: getattr(self, part) for part in ALL_PARTS}
        return {
            part: (INTENSITIES[self.intensity][part] if given[part] is None else float(given[part]))
            if part in self.parts.split("+")
            else None
            for part in ALL_PARTS
        }

    def parameters(self, task: Task) -> dict[str, Any]:
        check_fraction(task.fraction)
        strengths = self.strengths
        # What the first sets had not is named only if it is used, so that their manifests stay as they are.
        if strengths[CONTRAST] is None:
            del strengths[CONTRAST]
        return {
            "parts": "+".join(part for part in ALL_PARTS if part in self.parts.split("+")),
            **strengths,
            **self.variant.unusual,
            "fraction": float(task.fraction),
            "resize": task.resize,
            "format": task.format,
            **task.format_settings,
        }

    def assignment(self, task: Task, parameters: dict[str, Any]) -> list[int]:
        chosen = exact_subset(task.secret, task.name, task.names, task.labels, task.fraction)
        sets = np.array(task.labels) * self.secrets + self._numbers(task)
        assignment: list[int] = np.where(chosen, sets, -1).tolist()
        return assignment

    def _numbers(self, task: Task) -> np.ndarray:
        """Which of its class's sets each image gets, from its name."""
        if self.secrets == 1:
            return np.zeros(len(task.names), np.int64)
        drawn = (task.secret.derive("spectral secret", task.name, each, length=8) for each in task.names)
        return np.array([int.from_bytes(each, "little") % self.secrets for each in drawn])

    def perturbation(
        self, task: Task, parameters: dict[str, Any], assignment: list[int], workspace: Workspace
    ) -> Perturbation:
        return SpectralMarks(_spectra(parameters, task.secret, task.name, task.classes))

    @classmethod
    def settings(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        settings = vars(Variant()) | super().settings(parameters)
        return settings if CONTRAST in parameters else settings | {"large_contrast": None}

    @classmethod
    def growable(cls, parameters: dict[str, Any]) -> bool:
        return "secrets" not in parameters  # an extension goes by labels alone

    @classmethod
    def inverse(
        cls, parameters: dict[str, Any], secret: Secret, name: str, classes: int | Sequence[str]
    ) -> Perturbation:
        if "secrets" in parameters:
            raise UserError(
                "several secrets a class cannot be undone yet: which one a picture got is not kept"
            )
        spectra = _spectra(parameters, secret, name, classes)
        return SpectralInverse(spectra, SpectralMarks(spectra))

    @classmethod
    def heading(cls, parameters: dict[str, Any]) -> str:
        strengths = (f"{part} {parameters[part]:g}" for part in ALL_PARTS if parameters.get(part) is not None)
        unusual = (f"{each} {parameters[each]}" for each in vars(Variant()) if each in parameters)
        return f"{cls.name}, {', '.join((*strengths, *unusual))}"


def _spectra(
    parameters: dict[str, Any], secret: Secret, name: str, classes: int | Sequence[str]
) -> ClassSpectra:
    """What a manifest's parameters stand for."""
    strengths = {part: parameters.get(part) for part in ALL_PARTS}
    variant = Variant(**{each: parameters[each] for each in vars(Variant()) if each in parameters})
    return class_spectra(secret, name, classes, strengths, variant)
