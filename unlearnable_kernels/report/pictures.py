"""Pictures for the report: for every class a clean image, what protection changed, and the protected one."""

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unlearnable_kernels.data.images import encode, resize
from unlearnable_kernels.data.manifest import Manifest, find_manifest
from unlearnable_kernels.data.quality import protected_pairs
from unlearnable_kernels.data.source import Sample, Source, load_image, open_source
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.report.differences import amplification, amplified_difference

MAX_CLASSES = 20
MAX_SIDE = 256  # px; larger pictures are reduced for the page

# What a manifest with missing or malformed fields, or an unreadable image, raises.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError)


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one dataset, or of a clean and a protected one side by side.

    Attributes:
        heading: What is shown.
        columns: What each picture of a row is.
        rows: (class name, one data URI for each of ``columns``).
        classes: How many the dataset has, shown or not.
    """

    heading: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    classes: int


def picture_sets(paths: list[Path]) -> tuple[list[PictureSet], list[str]]:
    """Make the pictures of training sets.

    Every protected set is shown beside the first clean one that holds originals of its images; sets that
    have no such partner are shown alone. A damaged manifest or image costs only its own pictures.

    Args:
        paths: Where the training sets are.

    Returns:
        The pictures, and one line on each set that cannot be read.
    """
    sources: dict[Path, Source] = {}
    manifests: dict[Path, Manifest] = {}
    missing = []
    for path in paths:
        try:
            manifest = find_manifest(path)
            sources[path] = open_source(path, "train")
        except (UserError, OSError) as error:
            missing.append(f"No pictures of {path.name}: {error}")
        else:
            if manifest is not None:
                manifests[path] = manifest
    shown: list[PictureSet] = []
    paired: set[Path] = set()
    for path, manifest in manifests.items():
        for other in [path for path in sources if path not in manifests]:
            try:
                pictures = compare(sources[other], sources[path], manifest)
            except _DAMAGE as error:
                missing.append(f"No comparison of {path.name}: {_reason(error)}")
                break
            if pictures is not None:
                shown.append(pictures)
                paired |= {path, other}
                break
    for path, source in sources.items():
        if path in paired:
            continue
        try:
            shown.append(examples(source, path.name))
        except _DAMAGE as error:
            missing.append(f"No pictures of {path.name}: {_reason(error)}")
    return shown, missing


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, (UserError, OSError)) else "its manifest is damaged"


def compare(clean: Source, protected: Source, manifest: Manifest) -> PictureSet | None:
    """Show the clean image, the difference and the protected image for one sample of each class.

    The difference is protected minus clean, amplified as the heading of its column says, around mid-grey.

    Args:
        clean: A clean dataset.
        protected: A protected one.
        manifest: The whole manifest of ``protected``.

    Returns:
        The pictures; None if no image of ``protected`` has its original in ``clean``.
    """
    size = manifest["parameters"].get("resize")
    pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for original, sample in protected_pairs(clean, protected, manifest):
        if len(pairs) == MAX_CLASSES:
            break
        if sample.label in pairs:
            continue
        before, after = load_image(clean, original, size), load_image(protected, sample, None)
        if before.shape == after.shape:
            pairs[sample.label] = before, after
    if not pairs:
        return None
    factor = amplification(pairs.values())
    rows = [
        (
            protected.classes[label],
            [_uri(before), _uri(amplified_difference(before, after, factor)), _uri(after)],
        )
        for label, (before, after) in sorted(pairs.items())
    ]
    columns = ["clean", "difference" if factor == 1 else f"difference amplified {factor} times", "protected"]
    return PictureSet(f"{clean.name}, clean and protected", columns, rows, len(protected.classes))


def examples(source: Source, heading: str) -> PictureSet:
    """Show the first sample of each class of ``source`` under ``heading``."""
    first: dict[int, Sample] = {}
    for sample in source.samples:
        if len(first) == MAX_CLASSES:
            break
        first.setdefault(sample.label, sample)
    rows = [
        (source.classes[label], [_uri(load_image(source, sample, None))])
        for label, sample in sorted(first.items())
    ]
    return PictureSet(heading, ["first of its class"], rows, len(source.classes))


def _uri(image: np.ndarray) -> str:
    """``image``, uint8 [H, W, 3], as a data URI; large images are reduced."""
    if min(image.shape[:2]) > MAX_SIDE:
        image = resize(image, MAX_SIDE)
    return "data:image/png;base64," + base64.b64encode(encode(image, "png")).decode("ascii")
