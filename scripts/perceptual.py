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

GRID = 128

Pair = tuple[np.ndarray, np.ndarray]
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def looks(pairs: Sequence[Pair], shown: int) -> dict[str, float | int | None]:
    """Means over pictures and their originals.

    Args:
        pairs: (original, protected), uint8 [H, W, 3] both.
        shown: How many of these the network judges, at even distances.

    Returns:
        "psnr" and "ssim" as ``mean_quality`` has them; "delta_e" and "delta_e_95", means of what
        ``colour_difference`` gives; "st_lpips", of ``distance``, None where ``shown`` is 0; "pictures" and
        "st_lpips_pictures", how many.
    """
    quality = mean_quality(pairs)
    colours = np.mean([colour_difference(*pair) for pair in pairs], axis=0)
    chosen = [pairs[len(pairs) * index // shown] for index in range(min(shown, len(pairs)))]
    seen = [distance(*pair, shift_tolerant_lpips()) for pair in chosen]
    return {
        "psnr": quality["psnr"],
        "ssim": quality["ssim"],
        "delta_e": float(colours[0]),
        "delta_e_95": float(colours[1]),
        "st_lpips": float(np.mean(seen)) if seen else None,
        "pictures": len(pairs),
        "st_lpips_pictures": len(seen),
    }


def colour_difference(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Difference of colours by CIEDE2000 (CIE 142:2001), about 1 where it can just be seen side by side.

    Args:
        before: uint8 [H, W, 3].
        after: uint8 [H, W, 3].

    Returns:
        Mean and 95th percentile over the pixels, of large pictures over a grid of at most ``GRID`` a side.
    """
    colour = extra_module("skimage.color")
    step = -(-max(before.shape[:2]) // GRID)
    pixels = colour.deltaE_ciede2000(*(colour.rgb2lab(each[::step, ::step]) for each in (before, after)))
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
