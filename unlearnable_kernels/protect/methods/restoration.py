"""IRP (ECCV 2024): behind every class's filter a second one, which brings back what the first one blurred.

The second filter of a class is fitted by least squares to its images (docs/maths.md, equation F1); the two
are applied as one.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unlearnable_kernels.data.source import load_image
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.protect.methods.method import Task, Workspace

MAX_KERNEL_SIZE = 31
IMAGES = 100
"""Images of a class that a filter is fitted to, at most; of each the middle ``CROP`` × ``CROP`` pixels."""
CROP = 128
RIDGE = 1e-5
GRID = 2.0**12
"""Entries are rounded to multiples of 1 / GRID, in which the last bits of sums do not show."""


def restored(filters: Tensor, task: Task, assignment: Sequence[int], workspace: Workspace) -> Tensor:
    """Join the filter of each class with the second one that is fitted behind it.

    Args:
        filters: float32 [K, k, k].
        task: Whose images are fitted to.
        assignment: The class of every image that is protected, -1 of the others.
        workspace: For progress, and whether images that cannot be read are passed over.

    Returns:
        float32 [K, 2k-1, 2k-1].

    Raises:
        UserError: An image is smaller than 2k-1 pixels, or cannot be read.
    """
    fitted = _first_protected(assignment)
    total, done = sum(map(len, fitted.values())), 0
    joined = []
    for index, first in enumerate(filters.double()):
        k = first.shape[-1]
        gram = torch.zeros(k * k, k * k, dtype=torch.float64)
        target = torch.zeros(k * k, dtype=torch.float64)
        for position in fitted[index]:
            image = _load(task, position, workspace, 2 * k - 1)
            if image is not None:
                windows, centres = filtered_windows(image, first)
                gram += windows @ windows.T
                target += windows @ centres
            done += 1
            workspace.progress("fitting filters", done, total)
        joined.append(convolved(first, second_filter(gram, target)))
    return torch.stack(joined).float()


def filtered_windows(image: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """The windows of a filtered image that lie within it, and the clean pixels at their centres.

    Args:
        image: float64 [C, H, W].
        first: The filter, float64 [k, k].

    Returns:
        float64 [k², P] and [P], with P = C (H - 2k + 2) (W - 2k + 2).
    """
    k = first.shape[-1]
    windows = F.unfold(F.conv2d(image[:, None], first[None, None]), k)
    _, height, width = image.shape
    centres = image[:, k - 1 : height - k + 1, k - 1 : width - k + 1]
    return windows.permute(1, 0, 2).flatten(1), centres.flatten()


def second_filter(gram: Tensor, target: Tensor) -> Tensor:
    """Solve the least-squares problem, with a weak pull towards the filter that changes nothing.

    Args:
        gram: float64 [k², k²], the windows' products with one another.
        target: float64 [k²], their products with the clean pixels.

    Returns:
        float64 [k, k].
    """
    taps = len(gram)
    ridge = RIDGE * gram.diagonal().mean() + 1e-12
    unchanged = torch.zeros(taps, dtype=torch.float64)
    unchanged[taps // 2] = 1
    solved = torch.linalg.solve(
        gram + ridge * torch.eye(taps, dtype=torch.float64), target + ridge * unchanged
    )
    side = round(taps**0.5)
    second: torch.Tensor = (solved * GRID).round() / GRID
    return second.reshape(side, side)


def convolved(first: Tensor, second: Tensor) -> Tensor:
    """The one filter that does what two of [k, k] do one after the other, [2k-1, 2k-1]."""
    return F.conv2d(first[None, None], second.flip(0, 1)[None, None], padding=len(first) - 1)[0, 0]


def _first_protected(assignment: Sequence[int]) -> dict[int, list[int]]:
    """The positions of the first protected images of each class."""
    found: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(assignment):
        if label >= 0 and len(found[label]) < IMAGES:
            found[label].append(position)
    return found


def _load(task: Task, position: int, workspace: Workspace, least: int) -> Tensor | None:
    """The middle of an image, float64 [3, H, W] in [0, 1]; None for one that is passed over."""
    sample = task.source.samples[position]
    try:
        image = load_image(task.source, sample, task.resize)
    except ImageError:
        if not workspace.skip_bad:
            raise
        return None
    height, width, _ = image.shape
    if min(height, width) < least:
        raise UserError(
            f"{sample.name}: {width}x{height} pixels, but irp filters need {least}x{least}: "
            "choose a smaller kernel_size, or --resize"
        )
    top, left = max(height - CROP, 0) // 2, max(width - CROP, 0) // 2
    middle = np.ascontiguousarray(image[top : top + CROP, left : left + CROP])
    return torch.from_numpy(middle).permute(2, 0, 1).double() / 255
