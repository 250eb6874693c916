"""Checking a protected dataset against its manifest, and the manifest against a key."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.manifest import MANIFEST_NAME, file_digests, read_manifest
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import resolved, sha256_of
from unlearnable_kernels.progress import Progress, no_progress
from unlearnable_kernels.protect.keys import Secret, is_signed_by

_BATCH = 256


@dataclass(frozen=True)
class VerifyReport:
    """What a check found. Paths are relative to the dataset.

    Attributes:
        checked: Number of files that were compared.
        missing: Files that the manifest lists and that are not there.
        extra: Files that are there and not listed.
        changed: Files with other bytes, or unreadable ones.
        key: "not checked", "matches", "another key" or "manifest changed" (the key's fingerprint is there,
            but it did not sign this).
        quality: The manifest's "picture_quality", of when the set was written; None in older sets.
    """

    checked: int
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    key: str = "not checked"
    quality: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether all is as the manifest says, and the key, if one was given, is the one."""
        mismatches = self.missing or self.extra or self.changed
        return not mismatches and self.key in ("not checked", "matches")


def verify_dataset(dst: Path, secret: Secret | None = None, progress: Progress = no_progress) -> VerifyReport:
    """Compare the files in ``dst`` with its manifest, and with ``secret`` that it was this one.

    Without the secret, whoever can change the files can change the manifest too. Mismatches are reported,
    not raised.

    Raises:
        UserError: There is no readable manifest.
    """
    dst = Path(dst)
    if not resolved(dst).is_dir():
        raise UserError(f"{dst}: no such folder")
    manifest = read_manifest(dst)
    digests = file_digests(manifest)
    present = set(_list_files(dst)) - {MANIFEST_NAME}
    shared = sorted(digests.keys() & present)
    changed: list[str] = []
    batches = [shared[start : start + _BATCH] for start in range(0, len(shared), _BATCH)]

    def check(batch: list[str]) -> list[str]:
        return [name for name in batch if _digest(dst / name) != digests[name]]

    with ThreadPoolExecutor() as pool:
        for number, found in enumerate(pool.map(check, batches), start=1):
            changed += found
            progress("verifying", min(number * _BATCH, len(shared)), len(shared))
    verdict = "not checked"
    if secret is not None:
        known = manifest["key"].get("fingerprint") == secret.fingerprint
        verdict = (
            "another key"
            if not known
            else "matches"
            if is_signed_by(manifest, secret)
            else "manifest changed"
        )
    return VerifyReport(
        checked=len(shared),
        missing=sorted(digests.keys() - present),
        extra=sorted(present - digests.keys()),
        changed=changed,
        key=verdict,
        quality=manifest.get("picture_quality"),
    )


def _list_files(folder: Path) -> list[str]:
    """Everything but folders, relative to ``folder``; links are listed and not followed."""
    names: list[str] = []
    for root, folders, files in os.walk(folder):
        base = Path(root).relative_to(folder).as_posix()
        links = [name for name in folders if Path(root, name).is_symlink()]
        names += [name if base == "." else f"{base}/{name}" for name in [*files, *links]]
    return names


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None where it is unreadable or behind a link, and so not the dataset's own."""
    try:
        return None if path.is_symlink() or not path.is_file() else sha256_of(path)
    except OSError:
        return None
