"""How different pictures look to people: CIEDE2000, and a network trained on what people said of pairs.

Needs `pip install -e '.[quality]'`, which brings the weights along.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import interpolate

from unlearnable_kernels.data.quality import mean_quality
from unlearnable_kernels.extras import extra_module

PATCH = 64
"""Side in pixels of the pictures that the network was trained on; smaller ones are enlarged to it."""

GRID = 64
"""Pixels a side of a large picture of which colours are compared."""

Pair = tuple[np.ndarray, np.ndarray]
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def looks(pairs: Sequence[Pair], shown: int) -> dict[str, float | int | None]:
    """Means over pictures and their originals.

    Args:
        pairs: (original, protected), uint8 [H, W, 3] both.
        shown: How many of these the network judges, at even distances.

    Returns:
        "psnr" and "ssim" as ``mean_quality`` has them; "delta_e" and "delta_e_95", what ``colour_difference``
        gives of all pictures together; "st_lpips", of ``distance``, None where ``shown`` is 0; "pictures" and
        "st_lpips_pictures", how many.
    """
    quality = mean_quality(pairs)
    mean, high = colour_difference(
        *(np.concatenate([on_a_grid(each) for each in part]) for part in zip(*pairs, strict=True))
    )
    chosen = [pairs[len(pairs) * index // shown] for index in range(min(shown, len(pairs)))]
    seen = [distance(*pair, shift_tolerant_lpips()) for pair in chosen]
    return {
        "psnr": quality["psnr"],
        "ssim": quality["ssim"],
        "delta_e": mean,
        "delta_e_95": high,
        "st_lpips": float(np.mean(seen)) if seen else None,
        "pictures": len(pairs),
        "st_lpips_pictures": len(seen),
    }


def on_a_grid(image: np.ndarray) -> np.ndarray:
    """Pixels of an image, uint8 [H, W, 3]: all or, at even distances, at most ``GRID`` a side, as [n, 3]."""
    step = -(-max(image.shape[:2]) // GRID)
    return image[::step, ::step].reshape(-1, 3)


def colour_difference(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Difference of colours by CIEDE2000 (CIE 142:2001), about 1 where it can just be seen side by side.

    Args:
        before: uint8 [n, 3], pixels.
        after: uint8 [n, 3].

    Returns:
        Mean and 95th percentile over the pixels.
    """
    colour = extra_module("skimage.color")
    pixels = colour.deltaE_ciede2000(*(colour.rgb2lab(each) for each in (before, after)))
    return float(pixels.mean()), float(np.percentile(pixels, 95))


@functools.cache
def shift_tolerant_lpips() -> Network:
    """ST-LPIPS (Ghildyal and Liu, ECCV 2022, arXiv 2207.13686) with AlexNet, on [N, 3, H, W] in [-1, 1]."""
    made: Network = extra_module("stlpips_pytorch.stlpips").LPIPS(
        net="alex", variant="shift_tolerant", verbose=False
    )
    return made


def distance(before: np.ndarray, after: np.ndarray, network: Network) -> float:
    """What the network says of two pictures: 0 for equal ones, more the more they differ.

    Args:
        before: uint8 [H, W, 3].
        after: uint8 [H, W, 3].
        network: As ``shift_tolerant_lpips`` gives it.
    """
    pair = torch.from_numpy(np.stack([before, after])).permute(0, 3, 1, 2) / 127.5 - 1
    if min(pair.shape[2:]) < PATCH:
        scale = PATCH / min(pair.shape[2:])
        pair = interpolate(pair, scale_factor=scale, mode="bicubic").clamp(-1, 1)
    with torch.no_grad():
        return float(network(pair[:1], pair[1:]))
