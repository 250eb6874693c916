"""Pictures for the report: for every class a clean image, what protection changed, and the protected one."""

import base64
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unlearnable_kernels.data.arrays import find_manifest
from unlearnable_kernels.data.images import encode, resize
from unlearnable_kernels.data.manifest import sample_entries
from unlearnable_kernels.data.source import Sample, Source, load_image, open_source
from unlearnable_kernels.errors import UserError

MAX_CLASSES = 20
MAX_SIDE = 256  # px; larger pictures are reduced for the page

# What a manifest with missing or malformed fields, or an unreadable image, raises.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError)

Manifest = dict[str, Any]


@dataclass(frozen=True)
class PictureSet:
    """``rows``: (class name, one data URI for each of ``columns``)."""

    heading: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    classes: int


def picture_sets(paths: list[Path]) -> tuple[list[PictureSet], list[str]]:
    """Pictures of the training sets at ``paths``, and a line on each that cannot be read.

    Every protected set is shown beside the first clean one that it shares sample names with; sets that are
    in no such pair are shown alone. A damaged manifest or image costs its own pictures alone.
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
    """Clean, difference and protected for one sample of each class; None if no sample is in both sets.

    manifest: the whole manifest of ``protected``. The difference is protected minus clean, amplified as the
    heading of its column says, around mid-grey.
    """
    size = manifest["parameters"].get("resize")
    chosen = _protected_names(manifest)
    find = _Originals(clean)
    pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for sample in protected.samples:
        if len(pairs) == MAX_CLASSES:
            break
        if sample.label in pairs or sample.name not in chosen:
            continue
        original = find(sample.name)
        if original is None:
            continue
        before, after = load_image(clean, original, size), load_image(protected, sample, None)
        if before.shape == after.shape:
            pairs[sample.label] = before, after
    if not pairs:
        return None
    factor = amplification(list(pairs.values()))
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
    """The first sample of each class."""
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


class _Originals:
    """Finds a protected sample's source: the same name, the name with a suffix more, or another suffix."""

    def __init__(self, clean: Source) -> None:
        self._by_name = {sample.name: sample for sample in clean.samples}
        self._by_stem = {_without_suffix(sample.name): sample for sample in clean.samples}

    def __call__(self, name: str) -> Sample | None:
        stem = _without_suffix(name)
        return self._by_name.get(name) or self._by_name.get(stem) or self._by_stem.get(stem)


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _protected_names(manifest: Manifest) -> set[str]:
    """Names, relative to the split's root, of the samples that the filter acted on."""
    return {name for name, entry in sample_entries(manifest).items() if entry["protected"]}


def amplification(pairs: list[tuple[np.ndarray, np.ndarray]]) -> int:
    """The largest whole factor, up to 16, with which 99 % of all differences stay within the byte's range."""
    changes = [np.abs(after.astype(np.int16) - before).ravel() for before, after in pairs]
    typical = float(np.percentile(np.concatenate(changes), 99))
    return int(np.clip(127 // max(typical, 1.0), 1, 16))


def amplified_difference(before: np.ndarray, after: np.ndarray, factor: int) -> np.ndarray:
    change = after.astype(np.int32) - before.astype(np.int32)
    difference: np.ndarray = np.clip(128 + factor * change, 0, 255).astype(np.uint8)
    return difference


def _uri(image: np.ndarray) -> str:
    if min(image.shape[:2]) > MAX_SIDE:
        image = resize(image, MAX_SIDE)
    return "data:image/png;base64," + base64.b64encode(encode(image, "png")).decode("ascii")
