"""Checking a protected dataset against its manifest, and the manifest against a key."""

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from unlearnable_kernels.data.manifest_entries import part_name
from unlearnable_kernels.data.remote import (
    file_at,
    forget,
    is_remote,
    list_folder,
    refuse_misread_url,
    sha256_at,
    url_of,
)
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import resolved, sha256_of
from unlearnable_kernels.progress import Progress, no_progress
from unlearnable_kernels.protect.keys import Secret, is_signed_by
from unlearnable_kernels.protect.pipeline.executors.executor import Executor

_BATCH, _BATCH_BYTES = 256, 16 * 2**20  # of files that are handed out together; one at least
_AHEAD = 16  # batches that wait for a thread


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


@dataclass(frozen=True)
class Files:
    """Files that are checked together.

    Attributes:
        index: Number of the batch.
        listed: The path of each, relative to the dataset, and its SHA-256.
    """

    index: int
    listed: list[tuple[str, str]]

    @property
    def pictures(self) -> str:
        """What is in it, for messages."""
        return f"{len(self.listed)} files from {shown(self.listed[0][0])} on"


@dataclass(frozen=True)
class Check:
    """Compares files below ``folder`` with what is listed."""

    folder: Path

    def render(self, chunk: Files) -> tuple[int, list[str]]:
        """How many files were compared, and those with other bytes."""
        changed = [name for name, digest in chunk.listed if _digest(self.folder / name) != digest]
        return len(chunk.listed), changed


def verify_dataset(
    dst: Path,
    secret: Secret | None = None,
    progress: Progress = no_progress,
    executor: Executor | None = None,
) -> VerifyReport:
    """Compare the files in ``dst`` with its manifest, and with ``secret`` that it was this one.

    Without the secret, whoever can change the files can change the manifest too. Mismatches are reported,
    not raised.

    Args:
        dst: The protected dataset, here or in a remote store.
        secret: What it is to have been made with.
        progress: Takes progress.
        executor: Where files are read; by default in threads of this process.

    Raises:
        UserError: There is no readable manifest, a part of it is missing or is not what it lists, or it lists
            a file twice; or a remote store does not answer.
    """
    dst = Path(dst)
    refuse_misread_url(dst)
    if is_remote(dst):
        forget(dst)
    elif not resolved(dst).is_dir():
        raise UserError(f"{dst}: no such folder")
    manifest = read_manifest(dst)
    own = {MANIFEST_NAME, *map(part_name, range(len(manifest.get("parts", ()))))}
    present, missing, changed, checked = set(_list_files(dst)), set[str](), list[str](), 0
    total = len(present) - len(own & present)
    batches, check = _batches(manifest, present, missing), Check(dst)
    work = _in_threads(check, batches) if executor is None else executor.each(check, batches)
    with closing(work) as results:
        for count, found in results:
            changed += found
            checked += count
            progress("verifying", checked, total)
    return VerifyReport(
        checked=checked,
        missing=sorted(missing),
        extra=sorted(present - own),
        changed=sorted(changed),
        key="not checked" if secret is None else _verdict(manifest, secret),
        quality=manifest.get("picture_quality"),
    )


def _verdict(manifest: Manifest, secret: Secret) -> str:
    if manifest["key"].get("fingerprint") != secret.fingerprint:
        return "another key"
    return "matches" if is_signed_by(manifest, secret) else "manifest changed"


def _batches(manifest: Manifest, present: set[str], missing: set[str]) -> Iterator[Files]:
    """The files that are listed and there, in batches; they are taken out of ``present``."""
    batch: list[tuple[str, str]] = []
    number = size = 0
    for name, digest in manifest.digests():
        if name not in present:
            if name not in missing and not _is_file(manifest.folder / name):
                missing.add(name)
                continue
            path = url_of(manifest.folder / MANIFEST_NAME)
            raise UserError(f"{path}: damaged: it lists the file {name!r} twice")
        present.remove(name)
        added = _size(manifest.folder / name)
        if batch and (len(batch) == _BATCH or size + added > _BATCH_BYTES):
            yield Files(number, batch)
            batch, number, size = [], number + 1, 0
        batch.append((name, digest))
        size += added
    if batch:
        yield Files(number, batch)


def _in_threads(check: Check, batches: Iterator[Files]) -> Generator[tuple[int, list[str]], None, None]:
    with ThreadPoolExecutor() as pool:
        pending: deque[Future[tuple[int, list[str]]]] = deque()
        for batch in batches:
            pending.append(pool.submit(check.render, batch))
            if len(pending) == _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _list_files(folder: Path) -> Iterator[str]:
    """Everything but folders, relative to ``folder``; links are listed and not followed."""
    if is_remote(folder):
        folders, found = list_folder(folder, hidden=True)
        yield from (file.name for file in found)
        for inner in folders:
            yield from (f"{inner}/{name}" for name in _list_files(folder / inner))
        return
    for root, folders, files in os.walk(folder):
        base = os.path.relpath(root, folder)
        links = [name for name in folders if Path(root, name).is_symlink()]
        for name in (*files, *links):
            yield name if base == "." else f"{base}/{name}"


def _size(path: Path) -> int:
    if is_remote(path):
        found = file_at(path)
        return 0 if found is None else found.size
    try:
        return path.lstat().st_size
    except OSError:  # gone meanwhile, which is told later
        return 0


def _is_file(path: Path) -> bool:
    if is_remote(path):
        return file_at(path) is not None
    try:
        return path.is_symlink() or path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None where it is unreadable or behind a link, and so not the dataset's own."""
    if is_remote(path):
        return sha256_at(path)
    try:
        return None if path.is_symlink() or not path.is_file() else sha256_of(path)
    except OSError:
        return None
