"""Two releases of the same pictures under two filters give both filters away, without one clean picture.

    python examples/two_releases.py cifar10

Scheme 1, which ``protect`` had before, numbered filters by the place of a class: whoever published a data
set, added a class that comes earlier in the alphabet and published again, had every later class under two
filters. This script does that and then attacks it; and it does the same with filters that belong to a class's
name, grown by ``--extend``, where the two releases of a picture are the same bytes.

The attack: y1 = x * f1 and y2 = x * f2 mean y1 * f2 = y2 * f1 (the cross-relation of blind channel
identification), linear in both filters. Images are divided by their means first, which takes out each one's
unknown scale; then both filters are found by least squares, all entries at least 0 and each filter of sum 1.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.images import encode
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.protect.extend import extend_dataset
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.filters import class_filters
from unlearnable_kernels.protect.run import protect_dataset

K, STRENGTH = 3, 0.3


def estimate_filters(first: np.ndarray, second: np.ndarray, k: int = K) -> tuple[np.ndarray, np.ndarray]:
    """Both filters, up to scale, from two releases of the same pictures.

    Args:
        first: uint8 [N, H, W, 3], the pictures under one filter.
        second: uint8 [N, H, W, 3], the same under another.
        k: Side of the filters.

    Returns:
        Two float64 [k, k], each of sum 1.
    """
    normal = np.zeros((2 * k * k, 2 * k * k))
    for one, other in zip(first, second, strict=True):
        windows = [_windows(image / image.mean(), k) for image in (one, other)]
        rows = np.concatenate([-windows[1], windows[0]], axis=1)  # · (f1, f2) = 0
        normal += rows.T @ rows
    scale = np.trace(normal)
    sums = np.kron(np.eye(2), np.ones(k * k)) * 1e3
    root = np.linalg.cholesky(normal / scale + 1e-12 * np.eye(len(normal))).T
    found, _ = nnls(np.vstack([root, sums]), np.concatenate([np.zeros(len(normal)), [1e3, 1e3]]))
    return found[: k * k].reshape(k, k), found[k * k :].reshape(k, k)


def _windows(image: np.ndarray, k: int) -> np.ndarray:
    """float64 [pixels, k²]: what surrounds each pixel of each channel, but for those at the border."""
    seen = np.lib.stride_tricks.sliding_window_view(image, (k, k), axis=(0, 1))
    return seen.reshape(-1, k * k)


def restore(protected: np.ndarray, estimate: np.ndarray, noise: float = 3e-3) -> np.ndarray:
    """The picture before the filter, uint8 [H, W, 3], by Wiener's inverse of an estimated filter."""
    height, width, _ = protected.shape
    pad = [(height, height), (width, width), (0, 0)]
    around = np.pad(protected / 255.0, pad, mode="symmetric")
    kernel = np.zeros(around.shape[:2])
    k = len(estimate)
    kernel[:k, :k] = estimate[::-1, ::-1]
    kernel = np.roll(kernel, (-(k // 2), -(k // 2)), axis=(0, 1))
    response = np.fft.fft2(kernel)[..., None]
    spectrum = np.fft.fft2(around, axes=(0, 1)) * response.conj() / (np.abs(response) ** 2 + noise)
    clean = np.fft.ifft2(spectrum, axes=(0, 1)).real[height : 2 * height, width : 2 * width]
    return np.clip(np.rint(255 * clean), 0, 255).astype(np.uint8)


def psnr(pictures: np.ndarray, originals: np.ndarray) -> float:
    """Mean over pictures, in dB, each brought to the original's mean brightness first."""
    scores = []
    for picture, original in zip(pictures / 255.0, originals / 255.0, strict=True):
        error = ((picture * (original.mean() / picture.mean()) - original) ** 2).mean()
        scores.append(-10 * np.log10(error))
    return float(np.mean(scores))


def correlation(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Of two filters' entries, in [-1, 1]."""
    return float(np.corrcoef(estimate.ravel(), truth.ravel())[0, 1])


def attack(first: np.ndarray, second: np.ndarray, originals: np.ndarray, truths: np.ndarray) -> None:
    """Estimate, restore, and print how near that comes to the truth."""
    estimates = estimate_filters(first, second)
    restored = np.stack([restore(picture, estimates[0]) for picture in first])
    found = [correlation(each, truth) for each, truth in zip(estimates, truths, strict=True)]
    before, after = psnr(first, originals), psnr(restored, originals)
    print(f"  correlation of the estimated filters with the true ones: {found[0]:.2f}, {found[1]:.2f}")
    print(f"  pictures as published {before:.1f} dB, restored {after:.1f} dB")


def filtered(images: np.ndarray, taps: torch.Tensor) -> np.ndarray:
    """uint8 [N, H, W, 3] under one filter [k, k]."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2)
    return classwise_conv(channels_first, labels, taps[None], "reflect").permute(0, 2, 3, 1).numpy()


def by_place(originals: np.ndarray, key: Key) -> None:
    """Scheme 1: the class is the first one, and then the second one."""
    filters = class_filters(key, "photos", 2, K, STRENGTH)
    releases = [filtered(originals, each) for each in filters]
    attack(*releases, originals, filters.numpy())


def by_name(originals: np.ndarray, key: Key, folder: Path) -> None:
    """Scheme 2 with ``--extend``: another class comes first, and nothing else changes."""
    source, published = folder / "photos", folder / "published"
    releases = []
    for name in ("cat", "ant"):
        (source / name).mkdir(parents=True)
        for number, image in enumerate(originals):
            (source / name / f"{number:04}.png").write_bytes(encode(image, "png"))
        if name == "cat":
            protect_dataset(source, published, secret=key, workers=0, kernel_size=K, strength=STRENGTH)
        else:
            extend_dataset(source, published, secret=key, workers=0)
        everything = load_arrays(published)
        chosen = everything.labels == everything.classes.index("cat")
        releases.append(everything.images[chosen].numpy())
    same = np.array_equal(*releases)
    print(f"  the two releases are {'the same bytes' if same else 'NOT the same'}")
    truth = class_filters(key, "photos", ["cat"], K, STRENGTH).numpy()
    attack(*releases, originals, np.concatenate([truth, truth]))


def main() -> None:
    """Attack both schemes with pictures of one class."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="a data set as for `unlearnable protect`, of one size")
    parser.add_argument("--pictures", type=int, default=100)
    given = parser.parse_args()
    originals = load_arrays(Path(f"subset:{given.photos},classes=1,images={given.pictures}")).images.numpy()
    key, folder = Key.generate(), Path(tempfile.mkdtemp())
    try:
        print("filters by place (scheme 1), a class added before:")
        by_place(originals, key)
        print("filters by name, the set grown by --extend:")
        by_name(originals, key, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
