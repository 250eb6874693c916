"""IRP's second filter: that it is the least-squares one, what it does to pictures, sets made with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_images import photo
from small_runs import write_tree

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.filters import class_filters
from unlearnable_kernels.protect.methods.restoration import convolved, filtered_windows, second_filter
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.protect.verify import verify_dataset
from unlearnable_kernels.report.contact_sheet import write_preview

KEY = Key(bytes(range(32)))
SMALL: dict[str, Any] = {"kernel_size": 3, "strength": 0.3}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "zoo"
    write_tree(root, ["cat", "dog"], 4, seed=0)
    return root


def protected(tree: Path, out: Path, **settings: Any) -> torch.Tensor:
    protect_dataset(tree, out, secret=KEY, filters="irp", workers=0, **(SMALL | settings))
    return load_arrays(out).images


def windowed(images: torch.Tensor, k: int, first: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What the second filter sees around each pixel of filtered images, and the clean pixel, one by one."""
    rows, centres = [], []
    for image in images.double().numpy() / 255:
        for u in range(k - 1, image.shape[0] - k + 1):
            for v in range(k - 1, image.shape[1] - k + 1):
                around = image[u - k + 1 : u + k, v - k + 1 : v + k]
                seen = [
                    np.tensordot(first.numpy(), around[i : i + k, j : j + k], ((0, 1), (0, 1)))
                    for i in range(k)
                    for j in range(k)
                ]
                rows += [list(channel) for channel in np.array(seen).T]
                centres += list(image[u, v])
    return np.array(rows), np.array(centres)


def test_the_second_filter_is_the_least_squares_one(tree: Path, tmp_path: Path) -> None:
    """The bytes are those of the joined filters, the second from explicit windows and numpy's solver."""
    clean, got = load_arrays(tree), protected(tree, tmp_path / "out")
    firsts = class_filters(KEY, "zoo", ["cat", "dog"], 3, 0.3, "irp").double()
    for label, first in enumerate(firsts):
        images = clean.images[clean.labels == label]
        rows, centres = windowed(images, 3, first)
        second, *_ = np.linalg.lstsq(rows, centres, rcond=None)
        joined = np.zeros((5, 5))
        for (i, j), weight in np.ndenumerate(second.reshape(3, 3)):
            joined[i : i + 3, j : j + 3] += weight * first.numpy()
        expected = classwise_conv(
            images.permute(0, 3, 1, 2),
            torch.zeros(len(images), dtype=torch.int64),
            torch.tensor(joined[None]).float(),
            "reflect",
        )
        difference = got[clean.labels == label].int() - expected.permute(0, 2, 3, 1).int()
        # The pull towards no change, and the rounding of entries, move few bytes, by one.
        assert difference.abs().max() <= 1
        assert (difference != 0).float().mean() < 0.2


def test_windows_are_those_of_the_filtered_image() -> None:
    image = torch.from_numpy(photo(9, 11)).permute(2, 0, 1).double() / 255
    first = torch.rand(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    windows, centres = filtered_windows(image, first)
    expected, middle = windowed(torch.from_numpy(photo(9, 11))[None], 3, first)
    # Ours go through one channel after the other.
    order = np.argsort(np.arange(len(middle)) % 3, kind="stable")
    np.testing.assert_allclose(windows.T.numpy(), expected[order])
    np.testing.assert_allclose(centres.numpy(), middle[order])


def test_flat_and_missing_images_leave_the_first_filter_alone() -> None:
    unchanged = second_filter(torch.zeros(9, 9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64))
    first = torch.rand(3, 3, dtype=torch.float64)
    assert torch.equal(convolved(first, unchanged)[1:-1, 1:-1], first)


def test_pictures_are_sharper_and_still_filtered(tree: Path, tmp_path: Path) -> None:
    clean = load_arrays(tree).images.double()

    def error(images: torch.Tensor) -> float:
        return float((images.double() - clean).square().mean())

    protect_dataset(tree, tmp_path / "plain", secret=KEY, workers=0, **SMALL)
    plain, irp = error(load_arrays(tmp_path / "plain").images), error(protected(tree, tmp_path / "irp"))
    assert 1 < irp < 0.7 * plain


def test_it_is_protected_verified_and_previewed_as_ever(tree: Path, tmp_path: Path) -> None:
    events: list[str] = []
    half = protected(tree, tmp_path / "out", fraction=0.5, progress=lambda what, *_: events.append(what))
    assert "fitting filters" in events
    assert (half == load_arrays(tree).images).flatten(1).all(1).sum() == 4
    assert verify_dataset(tmp_path / "out", KEY).ok
    again = protected(tree, tmp_path / "again", fraction=0.5)
    assert torch.equal(half, again)
    assert write_preview(tree, tmp_path / "sheet.png", KEY, filters="irp", **SMALL).is_file()


def test_what_does_not_fit_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"irp filters need 17x17: choose a smaller kernel_size, or --resize"):
        protected(tree, tmp_path / "out", kernel_size=9)
    with pytest.raises(UserError, match="kernel size must be at most 31 with irp filters, not 33"):
        protected(tree, tmp_path / "out", kernel_size=33)
    with pytest.raises(UserError, match=r"filters must be one of square, .*, irp, not 'round'"):
        protect_dataset(tree, tmp_path / "out", secret=KEY, filters="round")
