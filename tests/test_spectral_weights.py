"""The weights of ``spectral``, native and PyTorch alike to the bit; and that pieces change nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unlearnable_kernels.data import spectra
from unlearnable_kernels.ops.native import cpu_module
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods import spectral
from unlearnable_kernels.protect.methods.class_spectra import CONTRAST, ClassSpectra, Variant, class_spectra
from unlearnable_kernels.protect.methods.spectral import INTENSITIES, SpectralMarks

needs_native = pytest.mark.skipif(cpu_module is None, reason="needs the native module")
SIZES = [(1, 1), (1, 7), (8, 8), (32, 32), (33, 47), (64, 31), (224, 224), (3, 1000)]


def some_classes(edges: str, cell: int) -> ClassSpectra:
    names = ["cat", "dog", "eel"]
    return class_spectra(
        Key(bytes([cell] * 32)), "zoo", names, INTENSITIES["normal"], Variant(cell=cell, edges=edges)
    )


def bits(weights: Tensor) -> Tensor:
    return weights.view(torch.int32)


@needs_native
@pytest.mark.parametrize("edges", ["fixed", "keyed", "turned"])
@pytest.mark.parametrize("cell", [1, 2, 5, 16])
def test_native_is_pytorch_to_the_bit(edges: str, cell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = some_classes(edges, cell)
    native = [classes.weights(np.array([0, 2, 1]), *size) for size in SIZES]
    monkeypatch.setattr(spectra, "cpu_module", None)
    for size, weights in zip(SIZES, native, strict=True):
        assert torch.equal(bits(weights), bits(classes.weights(np.array([0, 2, 1]), *size)))


@needs_native
def test_other_numbers_of_channels_are_alike_too(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    cases = [
        (torch.randn(count, 11, 11, generator=generator), torch.randn(count, 4, c, c, generator=generator))
        for count, c in ((2, 1), (1, 4), (0, 3))
    ]
    native = [spectra.spectral_weights(*case, 40, 24) for case in cases]
    monkeypatch.setattr(spectra, "cpu_module", None)
    for case, weights in zip(cases, native, strict=True):
        assert torch.equal(bits(weights), bits(spectra.spectral_weights(*case, 40, 24)))


@needs_native
def test_threads_change_no_bit(with_threads: Callable[..., Tensor]) -> None:
    classes = some_classes("turned", 2)
    one, many = (with_threads(n, lambda: classes.weights(np.arange(3), 301, 203)) for n in (1, 4))
    assert torch.equal(bits(one), bits(many))


@needs_native
def test_native_refuses_what_it_would_misread() -> None:
    def floats(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    right: dict[str, Any] = {
        "gains": floats(2, 3, 5),
        "matrices": floats(2, 5, 9),
        "radii": floats(4),
        "rows": floats(3),
        "columns": floats(5),
    }
    assert cpu_module is not None
    out = floats(2, 8, 8, 9)
    cpu_module.spectral_weights(*right.values(), 1.0, 0.0, out)
    for name, wrong in {
        "gains": floats(2, 5, 3),
        "matrices": floats(2, 4, 9),
        "radii": floats(3),
        "rows": np.zeros(3),
        "columns": floats(10)[::2],
    }.items():
        with pytest.raises(ValueError, match=f"{name} is not contiguous, or of another shape or type"):
            cpu_module.spectral_weights(*(right | {name: wrong}).values(), 1.0, 0.0, out)
    for rows, to in ((floats(3), out[0]), (floats(0), out)):
        with pytest.raises(ValueError, match="out must be"):
            cpu_module.spectral_weights(*(right | {"rows": rows}).values(), 1.0, 0.0, to)


@pytest.mark.parametrize("contrast", [0.6, None])
def test_pieces_and_reversed_views_change_no_byte(
    contrast: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    strengths = INTENSITIES["normal"] | {CONTRAST: contrast}
    marks = SpectralMarks(class_spectra(Key(bytes(32)), "zoo", ["cat", "dog"], strengths))
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 3)).astype(np.uint8)
    given = [0, 0, 1, -1, 1, 1]
    whole, pieces, reversed_view = (np.empty_like(images) for _ in range(3))
    marks.apply(images, given, whole)
    monkeypatch.setattr(spectral, "_PIECE", 2 * 9 * 8 * 3)
    marks.apply(images, given, pieces)
    marks.apply(images[::-1].copy()[::-1], given, reversed_view)
    assert np.array_equal(pieces, whole)
    assert np.array_equal(reversed_view, whole)


def test_radii_are_rounded_correctly() -> None:
    """As on every machine, which PyTorch's own square roots are not."""
    rows = torch.arange(200, dtype=torch.float32) * 32 / 224
    radii = spectra._radii(rows, rows).numpy()
    squares = (rows[:, None] * rows[:, None] + rows * rows).numpy()
    assert np.array_equal(radii, np.sqrt(squares.astype(np.float64)).astype(np.float32))
