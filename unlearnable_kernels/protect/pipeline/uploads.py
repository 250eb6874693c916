"""What lies at a remote destination, and what uploads from its staging folder put there."""

import hmac
import secrets
from collections.abc import Callable, Collection
from pathlib import Path

from unlearnable_kernels.data.manifest import MANIFEST_NAME, canonical
from unlearnable_kernels.data.remote import (
    MissingError,
    file_at,
    forget,
    list_folder,
    put,
    remove,
    upload,
    url_of,
)
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import parse_json, read_regular, write_json
from unlearnable_kernels.protect.keys import Secret

UPLOADED_NAME = "uploaded.json"
_CLAIM = "uploading-"


def is_finished_there(dst: Path) -> bool:
    """Whether there is a manifest at a URL now. Raises UserError if the store cannot be asked."""
    forget(dst)
    return file_at(dst / MANIFEST_NAME) is not None


def refuse_taken(dst: Path, folder: Path, secret: Secret) -> None:
    """Check that a set may be uploaded to a URL.

    Args:
        dst: The URL.
        folder: Its staging folder.
        secret: What signs there.

    Raises:
        UserError: Anything but what was uploaded from ``folder`` is there, or the store cannot be asked.
    """
    _found_there(dst, uploaded(dst, folder, secret))


def _found_there(dst: Path, own: Collection[str]) -> set[str]:
    """The names of the files at a URL. Raises UserError as ``refuse_taken`` where one is not of ``own``."""
    if is_finished_there(dst):
        raise UserError(
            f"{url_of(dst)} is there already: choose another name, or look at it with `unlearnable verify`"
        )
    try:
        folders, files = list_folder(dst, hidden=True)
    except MissingError:
        return set()
    there = {file.name for file in files}
    if foreign := sorted({*folders, *there} - set(own)):
        if any(name.startswith(_CLAIM) for name in foreign):
            raise UserError(
                f"{url_of(dst)} is being written by another run; choose another name, or, if that run is no "
                "more, delete what it left there"
            )
        raise UserError(
            f"{url_of(dst)} holds something else (there is no {MANIFEST_NAME}), such as {shown(foreign[0])}; "
            "choose another name"
        )
    return there


def uploaded(dst: Path, folder: Path, secret: Secret) -> set[str]:
    """The names of the files that uploads from a staging folder put to ``dst``, or were about to."""
    try:
        found = parse_json(read_regular(folder / UPLOADED_NAME))
        names = set(found["names"])
        return names if hmac.compare_digest(found["mac"], _mac(dst, names, secret)) else set()
    except (OSError, ValueError, LookupError, TypeError):  # not one of ours
        return set()


def upload_tree(dst: Path, folder: Path, secret: Secret, tell: Callable[[int, int], None]) -> None:
    """Upload the tree in a staging folder, and delete what earlier uploads from there left besides it.

    Of runs that upload to one URL at once all but one are refused, or all: each first puts a file of its own
    there and then looks for those of others. It is gone when the manifest comes, but until then one or
    the other keeps others away. ``tell`` is told (bytes that are there, of how many).

    Raises:
        UserError: As ``refuse_taken``.
        WriteError: A file cannot be written.
    """
    names, before = {path.name for path in (folder / "tree").iterdir()}, uploaded(dst, folder, secret)
    _found_there(dst, before)
    claim = next((name for name in before if name.startswith(_CLAIM)), _CLAIM + secrets.token_hex(8))
    own = before | {claim}
    _note(dst, folder, own, secret)
    put(dst / claim, b"of an unfinished upload\n")
    try:
        there = _found_there(dst, own)
    except UserError:
        remove(dst / claim)
        raise
    # Not sooner: until now, files of these names there are another's.
    _note(dst, folder, own | names, secret)
    upload(folder / "tree", dst, MANIFEST_NAME, tell, stale=there - names)


def _note(dst: Path, folder: Path, names: set[str], secret: Secret) -> None:
    write_json(folder / UPLOADED_NAME, {"names": sorted(names), "mac": _mac(dst, names, secret)})


def _mac(dst: Path, names: Collection[str], secret: Secret) -> str:
    return secret.mac(b"uploaded" + canonical([str(dst), sorted(names)]))
