"""What ``spectral`` does to the images of each class, derived from the secret (docs/spectral.md).

Every number is made by additions, products, quotients and square roots, which are rounded alike on all
machines; so a key gives the same bytes everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from unlearnable_kernels.data.local_contrast import SCALES
from unlearnable_kernels.data.spectra import BANDS, CELL, RINGS, WAVES, Bands, largeness, spectral_weights
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.native import cpu_module
from unlearnable_kernels.protect.keys import Secret

CELLS, COLOUR, TONE, CONTRAST = "cells", "colour", "tone", "contrast"
PARTS = (CELLS, COLOUR, TONE)
ALL_PARTS = (*PARTS, CONTRAST)
LIMITS = {CELLS: 1.0, COLOUR: 1.0, TONE: 0.5, CONTRAST: 2.0}
FIXED, KEYED, TURNED = EDGES = ("fixed", "keyed", "turned")
RGB, OPPONENT = COLOURS = ("rgb", "opponent")
MOST_SECRETS = 64
MOST_ERASED = 0.5
_UNIFORMS = 12  # whose sum has variance 1
_TURNS = 0.13, 0.77  # tangents of half the least and the largest angle by which cells are turned: 15° to 75°
# Brightness and two oppositions of colours, orthonormal.
_AXES = [
    [size / math.sqrt(sum(each * each for each in row)) for size in row]
    for row in ((1, 1, 1), (1, -1, 0), (1, 1, -2))
]


@dataclass(frozen=True)
class Variant:
    """What of the method is not as in the first sets, whose manifests do not name it: these are the defaults.

    Attributes:
        cell: Side of the cells, in positions of an image of 32 px.
        edges: Whether cells and rings begin where everybody knows, or where the key says, and whether the
            cells are turned by an angle of the key's as well; one of ``EDGES``.
        colours: Coordinates of the mixings, one of ``COLOURS``.
        secrets: How many sets of parameters a class has.
        erased: Which share of the cells of each ring has gain 0, at most ``MOST_ERASED``.
        large_contrast: Which share of its contrast an image of 224 px or more gets.

    Raises:
        UserError: A value is out of range.
    """

    cell: int = CELL
    edges: str = FIXED
    colours: str = RGB
    secrets: int = 1
    erased: float = 0.0
    large_contrast: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.cell <= 16:
            raise UserError(f"cell must be 1 to 16, not {self.cell}")
        for name, known in (("edges", EDGES), ("colours", COLOURS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if not 1 <= self.secrets <= MOST_SECRETS:
            raise UserError(f"secrets must be 1 to {MOST_SECRETS}, not {self.secrets}")
        if not 0 <= self.erased <= MOST_ERASED:
            raise UserError(f"erased must be 0 to {MOST_ERASED:g}, not {self.erased}")
        if not 0 <= self.large_contrast <= 1:
            raise UserError(f"large_contrast must be 0 to 1, not {self.large_contrast}")

    @property
    def erased_cells(self) -> int:
        """How many cells are erased where edges are fixed, to the nearest whole number in each ring."""
        counts = np.bincount(Bands.of_cells(self.cell).rings_of_cells().flatten().numpy()[1:])
        return sum(round(self.erased * count) for count in counts.tolist())

    @property
    def unusual(self) -> dict[str, int | float | str]:
        """The values that are not the defaults, by name."""
        usual = vars(Variant())
        return {name: value for name, value in vars(self).items() if value != usual[name]}


@dataclass(frozen=True)
class ClassSpectra:
    """The parameters of K sets: one for each class or, where classes have several, those of each in turn.

    Attributes:
        gains: float32 [K, rows, columns], by cell of the DCT plane; 1 where nothing is to change.
        mixings: float32 [K, 4, 3, 3], what is added to the identity in each ring, on the channel vector.
        curves: float32 [K, 3, 3, 2], amplitude and phase of each channel's waves 1 to 3.
        contrasts: float32 [K, 2, 2], as ``with_contrast`` takes them in small images; None without that part.
        bands: The cells and rings.
        large_contrast: As in ``Variant``.
    """

    gains: np.ndarray
    mixings: np.ndarray
    curves: np.ndarray
    contrasts: np.ndarray | None = None
    bands: Bands = field(default=BANDS)
    large_contrast: float = 1.0

    def weights(self, sets: np.ndarray, height: int, width: int) -> torch.Tensor:
        """What ``spectral_weights`` gives for some of the sets, float32 [k, H, W, 3, 3]."""
        gains, mixings = (torch.from_numpy(each[sets]) for each in (self.gains, self.mixings))
        return spectral_weights(gains, mixings, height, width, self.bands)

    def factors(self, sets: np.ndarray, height: int, width: int) -> np.ndarray | None:
        """What ``with_contrast`` takes for images of this size, float32 [k, 2, 2]; None without contrast."""
        if self.contrasts is None:
            return None
        kept = 1 - (1 - self.large_contrast) * largeness(height, width)
        factors: np.ndarray = self.contrasts[sets] * np.float32(kept)
        return factors


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Images, float32 within ±10⁶, as bytes, rounded as the operator rounds; bytes as they are."""
    if images.dtype == np.uint8:
        return images
    if cpu_module is None:
        rounded: np.ndarray = np.rint(images.clip(0, 1) * np.float32(255))
        return rounded.astype(np.uint8)
    result = np.empty(images.shape, np.uint8)
    cpu_module.nearest_bytes(np.ascontiguousarray(images), result)
    return result


def class_spectra(
    secret: Secret,
    dataset_name: str,
    classes: int | Sequence[str],
    strengths: dict[str, float | None],
    variant: Variant = Variant(),
) -> ClassSpectra:
    """The parameters of all classes of a dataset.

    Args:
        secret: Key or seed.
        dataset_name: Part of the derivation.
        classes: Names of the K classes, or their number, as for ``class_filters``.
        strengths: Of each of ``PARTS``, and of contrast if there is any; None leaves one out.
        variant: What is not as usual.

    Raises:
        UserError: A strength is out of range.
    """
    check_strengths(strengths)
    names: Sequence[str | int] = range(classes) if isinstance(classes, int) else classes
    each = [(name, number) for name in names for number in range(variant.secrets)]
    bands = Bands.of_cells(variant.cell)
    if variant.edges != FIXED:
        bands = _keyed_bands(secret, dataset_name, variant.cell, variant.edges == TURNED)

    def drawn(part: str, *further: str | float) -> list[_Draw]:
        tags = [tag for tag in further if tag not in (FIXED, RGB)]
        strength = strengths.get(part) or 0.0
        return [
            _Draw(secret, part, dataset_name, name, strength, (*tags, *([number] * (variant.secrets > 1))))
            for name, number in each
        ]

    holes = [float(variant.erased)] if variant.erased else []
    gains = [_gains(draw, bands, variant.erased) for draw in drawn(CELLS, variant.edges, *holes)]
    mixings = [_mixings(draw, variant.colours) for draw in drawn(COLOUR, variant.edges, variant.colours)]
    curves = [_curves(draw) for draw in drawn(TONE)]
    contrasts = [_contrasts(draw) for draw in drawn(CONTRAST)] if strengths.get(CONTRAST) else None
    given = None if contrasts is None else _stacked(contrasts)
    return ClassSpectra(
        _stacked(gains), _stacked(mixings), _stacked(curves), given, bands, variant.large_contrast
    )


def _stacked(some: list[np.ndarray]) -> np.ndarray:
    return np.stack(some).astype(np.float32)


def _keyed_bands(secret: Secret, dataset_name: str, cell: int, turned: bool) -> Bands:
    """Cells between 1 and twice the usual side less 1 wide; rings from a quarter before to one behind."""
    usual = Bands.of_cells(cell)
    if turned:
        [part] = _uniform(secret.derive("spectral turn", dataset_name, cell, length=8)).tolist()
        tangent = _TURNS[0] + (_TURNS[1] - _TURNS[0]) * part
        whole = 1 + tangent * tangent
        usual = Bands.turned(cell, (1 - tangent * tangent) / whole, 2 * tangent / whole)
    count = len(usual.rows) + len(usual.columns) + len(RINGS)
    data = secret.derive("spectral edges", dataset_name, cell, length=8 * count)
    moves = iter((2 * _uniform(data) - 1).tolist())

    def moved(starts: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(start and start + next(moves) * (cell - 1) / 2 for start in starts)

    rows, columns = moved(usual.rows), moved(usual.columns)
    rings = (RINGS[0], *(radius * (1 + next(moves) / 4) for radius in RINGS[1:]))
    return Bands(rows, columns, rings, usual.turn)


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
    """Random numbers for one part and set."""

    secret: Secret
    part: str
    dataset_name: str
    one: str | int
    strength: float
    further: tuple[str | int | float, ...]

    def uniform(self, what: str, *shape: int) -> np.ndarray:
        """float64, multiples of 2⁻⁵³ in [0, 1). ``what`` tells the draws of a part apart."""
        context = (f"spectral {self.part} {what}", self.dataset_name, self.one, float(self.strength))
        data = self.secret.derive(*context, *self.further, length=8 * math.prod(shape))
        return _uniform(data).reshape(shape)

    def normal(self, what: str, *shape: int) -> np.ndarray:
        """float64, nearly N(0, 1): a sum of twelve uniform numbers, less its mean."""
        uniform = self.uniform(what, _UNIFORMS, *shape)
        total: np.ndarray = sum(uniform[1:], uniform[0])
        return total - _UNIFORMS / 2


def _uniform(data: bytes) -> np.ndarray:
    words = np.frombuffer(data, dtype="<u8") >> np.uint64(11)
    numbers: np.ndarray = words.astype(np.float64) * 2.0**-53
    return numbers


def _gains(draw: _Draw, bands: Bands, erased: float) -> np.ndarray:
    """[rows, columns]: 0, or 1 + strength · s, s uniform in [−1, 1] less its mean over a ring's kept cells.

    The first cell, which has the mean colour in it, stays.
    """
    rings = bands.rings_of_cells().numpy()
    signs = 2 * draw.uniform("gains", *rings.shape) - 1
    rings[bands.first], signs[bands.first] = -1, 0
    kept = np.ones_like(signs, dtype=bool)
    if erased:
        order = draw.uniform("erased", *rings.shape)
        for one in np.unique(rings[rings >= 0]):
            cells = np.flatnonzero(rings == one)
            drawn = cells[np.argsort(order.flat[cells], kind="stable")]
            kept.flat[drawn[: round(erased * len(cells))]] = False
    for one in np.unique(rings[rings >= 0]):
        some = (rings == one) & kept
        signs[some] -= math.fsum(signs[some]) / some.sum()
    return kept * (1 + draw.strength * signs)


def _mixings(draw: _Draw, colours: str) -> np.ndarray:
    """[4, 3, 3], in each ring a random direction of Frobenius norm ``strength``."""
    matrices = draw.normal("mixings", len(RINGS), 3, 3)
    if colours == OPPONENT:
        matrices = np.stack([_from_opponent(matrix) for matrix in matrices])
    for matrix in matrices:
        matrix *= draw.strength / math.sqrt(math.fsum((matrix * matrix).flat))
    return matrices


def _from_opponent(matrix: np.ndarray) -> np.ndarray:
    """On the channels, of one on the axes: without a change of brightness, and half from it to colours."""
    limited = matrix.copy()
    limited[0, 0] = 0
    limited[1:, 0] /= 2
    three = range(3)
    entries = [
        math.fsum(_AXES[a][i] * limited[a, b] * _AXES[b][j] for a in three for b in three)
        for i in three
        for j in three
    ]
    return np.array(entries).reshape(3, 3)


def _curves(draw: _Draw) -> np.ndarray:
    """[3, 3, 2]: amplitudes whose sizes add up to ``strength`` in a channel, phases in [0, 2π)."""
    amplitudes = draw.normal("amplitudes", 3, WAVES)
    for row in amplitudes:
        row *= draw.strength / math.fsum(abs(row))
    return np.stack([amplitudes, 2 * math.pi * draw.uniform("phases", 3, WAVES)], -1)


def _contrasts(draw: _Draw) -> np.ndarray:
    """[2, 2]: a and b of each scale, whose sizes add up to ``strength``."""
    numbers = draw.normal("contrasts", len(SCALES), 2)
    return numbers * (draw.strength / math.fsum(abs(numbers).flat))
