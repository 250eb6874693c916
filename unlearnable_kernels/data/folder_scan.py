"""Walking folders of images: what is taken, in which order, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from unlearnable_kernels.data.images import IMAGE_SUFFIXES
from unlearnable_kernels.errors import UserError, shown

_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))  # in any case


class FoundFile(NamedTuple):
    """A file that a scan takes.

    Attributes:
        name: Posix path relative to the scan's base.
        size: In bytes.
        mtime_ns: When it was last changed, in nanoseconds since 1970.
    """

    name: str
    size: int
    mtime_ns: int


class Scan:
    """One pass over the folders under ``base``; all names are posix paths relative to it.

    Args:
        base: Where the scan begins.
        tree: Contains ``base``; symbolic links may lead to files within it, and nowhere else.
        on_error: "raise" ends at the first entry that cannot be taken, "skip" lists it in ``skipped``, "list"
            even those that would end any other scan.

    Attributes:
        skipped: (name, reason) of each entry that was not taken.
    """

    def __init__(self, base: Path, tree: Path, on_error: str) -> None:
        self.base = base
        self.tree = tree.resolve()
        self.on_error = on_error
        self.skipped: list[tuple[str, str]] = []

    def refuse(self, name: str, reason: str) -> None:
        """Raise UserError for the entry ``name``, or list it in ``skipped``, as ``on_error`` says."""
        if self.on_error == "raise":
            raise UserError(f"{shown(str(self.base / name))}: {reason}")
        self.skipped.append((shown(name), reason))

    def list_folder(self, name: str = "") -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
        """List one folder, without dot-files and litter.

        Args:
            name: The folder; "" is ``base`` itself.

        Returns:
            Its folders and its files, each sorted by name.

        Raises:
            UserError: The folder cannot be read, or has a symbolic link to a folder, out of the tree or to
                nothing.
        """
        folder = str(self.base / name)
        try:
            with os.scandir(folder) as entries:
                visible = [e for e in entries if not ignored(e.name)]
        except OSError as error:
            raise UserError(f"{shown(folder)}: {error.strerror}") from None
        folders, files = [], []
        for entry in sorted(visible, key=lambda e: e.name):
            if not is_utf8(entry.name):
                self.refuse(joined(name, entry.name), "its name is not UTF-8")
                continue
            if entry.is_symlink() and not self._may_follow(entry, joined(name, entry.name)):
                continue
            if entry.is_dir():
                folders.append(entry)
            elif entry.is_file():
                files.append(entry)
            else:
                self.refuse(joined(name, entry.name), "neither a file nor a folder")
        return folders, files

    def find_images(
        self, name: str, is_side_file: Callable[[str], bool] = lambda _: False
    ) -> tuple[list[FoundFile], list[str]]:
        """Find the images in a folder and below it.

        Args:
            name: The folder; "" is ``base`` itself.
            is_side_file: Tells the names of files that are not images but belong there.

        Returns:
            The images in torchvision's order, by folder and then by file name, and the side files.

        Raises:
            UserError: As ``list_folder``; with ``on_error`` "raise" also for a file that is neither.
        """
        images: list[FoundFile] = []
        side_files: list[str] = []
        pending = [name]
        by_folder: dict[str, list[os.DirEntry[str]]] = {}
        while pending:
            folder = pending.pop()
            folders, by_folder[folder] = self.list_folder(folder)
            pending.extend(joined(folder, entry.name) for entry in folders)
        for folder in sorted(by_folder):
            for entry in by_folder[folder]:
                path = joined(folder, entry.name)
                if has_image_suffix(entry.name):
                    facts = entry.stat()
                    images.append(FoundFile(path, facts.st_size, facts.st_mtime_ns))
                elif is_side_file(entry.name):
                    side_files.append(path)
                else:
                    self.refuse(path, f"not an image; images end in {' '.join(sorted(IMAGE_SUFFIXES))}")
        return images, side_files

    def takes(self, name: str) -> bool:
        """Whether a file that something else names is an image that can be taken; otherwise it is refused.

        Raises:
            UserError: As ``list_folder``, and as ``refuse``.
        """
        path = self.base / name
        try:
            for folder in path.relative_to(self.base).parents:
                if (self.base / folder).is_symlink() and folder.name:
                    return self._may_follow(self.base / folder, name)
            if path.is_symlink() and not self._may_follow(path, name):
                return False
        except OSError as error:  # such as a name that is too long
            self.refuse(name, f"{error.strerror}")
            return False
        if not has_image_suffix(name):
            self.refuse(name, f"not an image; images end in {' '.join(sorted(IMAGE_SUFFIXES))}")
        elif not path.is_file():
            self.refuse(name, "no such file")
        else:
            return True
        return False

    def refuse_twins(self, classes: list[str]) -> None:
        """Refuse classes that differ only by case, whatever ``on_error`` is but "list"."""
        try:
            refuse_case_twins(classes, self.base)
        except UserError as error:
            self._refuse_always("", str(error))

    def _refuse_always(self, name: str, reason: str) -> None:
        if self.on_error != "list":
            raise UserError(f"{shown(str(self.base / name))}: {reason}" if name else reason)
        self.skipped.append((shown(name), reason))

    def _may_follow(self, entry: os.DirEntry[str] | Path, name: str) -> bool:
        """Whether a symbolic link leads to a file of the tree; any other is refused."""
        path = Path(entry)  # unlike an entry, it raises nothing where a link leads to itself
        if path.is_dir():
            reason = "a symbolic link to a folder; such links are not followed"
        elif not path.is_file():
            reason = "a symbolic link that does not lead to a file"
        elif not path.resolve().is_relative_to(self.tree):
            reason = f"a symbolic link out of {self.tree}; only links within it are followed"
        else:
            return True
        self._refuse_always(name, reason)
        return False


def ignored(name: str) -> bool:
    """Whether a file or folder of this name is passed over: dot-files, and what systems leave in folders."""
    return name.startswith(".") or name.lower() in _LITTER


def is_ignored_path(name: str) -> bool:
    """Whether a relative path has a part that is passed over; what leads out of its folder is not ignored."""
    return any(ignored(part) for part in name.split("/") if part not in (".", ".."))


def refuse_case_twins(classes: list[str], where: Path) -> None:
    """Refuse two classes that some file systems, and some readers, take for one.

    Args:
        classes: Names of the classes.
        where: What messages name.

    Raises:
        UserError: Two names differ only by case.
    """
    seen: dict[str, str] = {}
    for name in classes:
        twin = seen.setdefault(name.casefold(), name)
        if twin != name:
            raise UserError(
                f"{shown(str(where))}: classes {twin!r} and {name!r} differ only by case; rename one"
            )


def has_image_suffix(name: str) -> bool:
    """Whether a file name has a suffix of ``IMAGE_SUFFIXES``, in either case, and something before it."""
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and dot + suffix.lower() in IMAGE_SUFFIXES


def joined(folder: str, name: str) -> str:
    """The path of ``name`` in ``folder``, where "" is the base."""
    return f"{folder}/{name}" if folder else name


def is_utf8(name: str) -> bool:
    """Whether a name that the operating system gave, undecodable bytes as surrogates, is UTF-8."""
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
