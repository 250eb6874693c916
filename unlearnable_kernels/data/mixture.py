"""Clean and protected forms of the same images, mixed into one training set."""

import hashlib
import math
from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from unlearnable_kernels.data.arrays import LabelledImages
from unlearnable_kernels.data.originals import match_originals, stem
from unlearnable_kernels.errors import UserError


def mix(
    protected: LabelledImages, clean: LabelledImages, fraction: float, only_clean: bool
) -> LabelledImages:
    """Take ⌊fraction·n + ½⌋ of every class's n images from ``protected``, the others from ``clean``.

    Images that the manifest of ``protected`` calls protected are ranked by a hash of their name, so a larger
    fraction contains the smaller one.

    Args:
        protected: The protected images, uint8 [N, H, W, 3].
        clean: Their originals, uint8 [M, H, W, 3], in any order; classes and names agree but for suffixes.
        fraction: Part of each class to take in protected form, in [0, 1].
        only_clean: Leave the protected images out.

    Returns:
        The images in the order of ``protected``: uint8 [N, H, W, 3], fewer with ``only_clean``.

    Raises:
        UserError: An image lacks its original, sizes differ, too few images are protected, or none is left.
    """
    originals = _rows_of_originals(protected, clean)
    if protected.images.shape[1:] != clean.images.shape[1:]:
        raise UserError(
            f"protected images are {_size(protected)} px and clean ones {_size(clean)} px: give an image size"
        )
    taken = protected_share(protected, fraction)
    if not only_clean:
        images = clean.images[originals]
        images[taken] = protected.images[taken]
        return replace(protected, images=images)
    kept = (~taken).nonzero()[:, 0]
    if len(kept) == 0:
        raise UserError(f"protected_fraction is {fraction}: no clean image is left to train on")
    names = [protected.names[row] for row in kept.tolist()]
    return replace(
        protected,
        images=clean.images[originals[kept]],
        labels=protected.labels[kept],
        names=names,
        manifest=None,
    )


def _rows_of_originals(protected: LabelledImages, clean: LabelledImages) -> Tensor:
    """Int64 [N]: for each protected image the row of its original."""
    found = []
    rows = match_originals(protected.names, clean.names)
    for name, label, row in zip(protected.names, protected.labels.tolist(), rows, strict=True):
        if row is None or clean.classes[clean.labels[row]] != protected.classes[label]:
            raise UserError(
                f"the clean images do not include the original of {name}: give those that were protected"
            )
        found.append(row)
    return torch.tensor(found)


def _size(data: LabelledImages) -> str:
    return f"{data.images.shape[2]}x{data.images.shape[1]}"


def protected_share(protected: LabelledImages, fraction: float) -> Tensor:
    """Which images a mixture takes in their protected form.

    Args:
        protected: What ``mix`` is given, or the mixture that it returned.
        fraction: Part of each class, in [0, 1].

    Returns:
        bool [N].

    Raises:
        UserError: Too few images are protected.
    """
    flagged = protected.protected_flags()
    by_class: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
    sizes = torch.bincount(protected.labels).tolist()
    for row, (name, label) in enumerate(zip(protected.names, protected.labels.tolist(), strict=True)):
        if flagged[row]:
            by_class[label].append((hashlib.sha256(stem(name).encode()).digest(), row))
    taken = torch.zeros(len(protected), dtype=torch.bool)
    for label, size in enumerate(sizes):
        wanted, members = math.floor(fraction * size + 0.5), sorted(by_class[label])
        if len(members) < wanted:
            raise UserError(
                f"protected_fraction is {fraction}, but only {len(members)} of the {size} images of "
                f"{protected.classes[label]!r} are protected"
            )
        taken[[row for _, row in members[:wanted]]] = True
    return taken
