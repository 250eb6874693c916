"""Datasets beside their manifests: of a protected set exactly what its manifest lists is taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unlearnable_kernels.data.manifest import Manifest, find_manifest
from unlearnable_kernels.data.named import parse
from unlearnable_kernels.data.remote import file_at, url_of
from unlearnable_kernels.data.source import Source, open_source
from unlearnable_kernels.errors import UserError, shown


@dataclass(frozen=True)
class Checked:
    """A split of a dataset, and what its manifest says of it.

    Attributes:
        source: The split, opened.
        manifest: None for a dataset that ``protect`` did not write.
        protected: For each of the source's samples whether it is protected; without a manifest none is.
    """

    source: Source
    manifest: Manifest | None
    protected: list[bool]


def open_checked(path: Path, split: str = "train") -> Checked:
    """Open a split, and compare a protected one with its manifest: the images' names and classes.

    Files are not read: ``verify_dataset`` compares bytes.

    Args:
        path: A dataset, as ``open_source`` takes it; of a protected set also one file, or a subset.
        split: "train" or "test".

    Raises:
        UserError: It cannot be opened, or differs from its manifest.
    """
    manifest = find_manifest(path)
    skipped = manifest is not None and manifest.get("skipped")
    source = open_source(path, split, "skip" if skipped else "raise")
    if manifest is not None:
        _refuse_new_faults(source, manifest)
    if manifest is None or split != "train":
        return Checked(source, manifest, [False] * len(source.samples))
    return Checked(source, manifest, _listed_flags(source, manifest, path))


def _refuse_new_faults(source: Source, manifest: Manifest) -> None:
    """What was skipped when a set was protected, such as an empty class, is no fault now; all else is.

    Raises:
        UserError: Something else cannot be taken, or the split is not the protected one.
    """
    known: set[str] = set()
    if source.prefix in ("", manifest.get("prefix")):
        listed = manifest.get("skipped")
        pairs = listed if isinstance(listed, list) else []
        known = {str(pair[0]) for pair in pairs if isinstance(pair, list) and pair} | set(manifest["classes"])
    for name, reason in source.skipped:
        if name not in known:
            raise UserError(f"{url_of(source.root / source.prefix)}/{name}: {reason}")


def _listed_flags(source: Source, manifest: Manifest, path: Path) -> list[bool]:
    """Whether each image is protected.

    Raises:
        UserError: The images are not those that the manifest lists, each of its class.
    """
    rows = {sample.name: row for row, sample in enumerate(source.samples)}
    flags: list[bool | None] = [None] * len(rows)
    reference = parse(path)
    taken = set(source.classes) if reference.subset else None
    file = reference.path.name if file_at(reference.path) is not None else None
    for name, entry in manifest.samples():
        listed = manifest["classes"][entry.label]
        row = rows.get(name)
        elsewhere = (taken is not None and listed not in taken) or (file is not None and entry.file != file)
        if row is None and (elsewhere or reference.images is not None):
            continue
        present = None if row is None else source.classes[source.samples[row].label]
        if row is None or present != listed:
            raise _differs(path, name, present, listed)
        flags[row] = entry.protected
    for row, flag in enumerate(flags):
        if flag is None:
            sample = source.samples[row]
            raise _differs(path, sample.name, source.classes[sample.label], None)
    return [flag is True for flag in flags]


def _differs(path: Path, name: str, present: str | None, listed: str | None) -> UserError:
    if present is None:
        what = "is missing"
    elif listed is None:
        what = "is not listed"
    else:
        what = f"is of class {present!r} here and {listed!r} there"
    return UserError(
        f"{url_of(path)} differs from its manifest: {shown(name)} {what}; bring it back as it was, or move "
        "the manifest away to take what is here"
    )
