"""What lies at a remote destination, and what uploads from its staging folder put there."""

import hmac
from collections.abc import Collection
from pathlib import Path

from unlearnable_kernels.data.manifest import MANIFEST_NAME, canonical
from unlearnable_kernels.data.remote import MissingError, file_at, forget, list_folder, upload, url_of
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import parse_json, write_json
from unlearnable_kernels.protect.keys import Secret

UPLOADED_NAME = "uploaded.json"


def is_finished_there(dst: Path) -> bool:
    """Whether there is a manifest at a URL now. Raises UserError if the store cannot be asked."""
    forget(dst)
    return file_at(dst / MANIFEST_NAME) is not None


def refuse_taken(dst: Path, folder: Path, secret: Secret) -> set[str]:
    """Check that a set may be uploaded to a URL.

    Args:
        dst: The URL.
        folder: Its staging folder.
        secret: What signs there.

    Returns:
        The names of the files there, all by earlier uploads from ``folder``.

    Raises:
        UserError: A finished set or something else is there, or the store cannot be asked.
    """
    if is_finished_there(dst):
        raise UserError(
            f"{url_of(dst)} is there already: choose another name, or copy it to this machine and look at "
            "it with `unlearnable verify`"
        )
    try:
        folders, files = list_folder(dst)
    except MissingError:
        return set()
    there = {file.name for file in files}
    if foreign := sorted({*folders, *there - uploaded(dst, folder, secret)}):
        raise UserError(
            f"{url_of(dst)} holds something else (there is no {MANIFEST_NAME}), such as {shown(foreign[0])}; "
            "choose another name"
        )
    return there


def uploaded(dst: Path, folder: Path, secret: Secret) -> set[str]:
    """The names of the files that uploads from a staging folder put to ``dst``, or were about to."""
    try:
        found = parse_json((folder / UPLOADED_NAME).read_bytes())
        names = set(found["names"])
        return names if hmac.compare_digest(found["mac"], _mac(dst, names, secret)) else set()
    except (OSError, ValueError, LookupError, TypeError):  # not one of ours
        return set()


def upload_tree(dst: Path, folder: Path, secret: Secret) -> None:
    """Upload the tree in a staging folder, and delete what earlier uploads from there left besides it.

    Raises:
        UserError: As ``refuse_taken``.
        WriteError: A file cannot be written.
    """
    there = refuse_taken(dst, folder, secret)
    names = {path.name for path in (folder / "tree").iterdir()}
    told = names | uploaded(dst, folder, secret)
    write_json(folder / UPLOADED_NAME, {"names": sorted(told), "mac": _mac(dst, told, secret)})
    upload(folder / "tree", dst, MANIFEST_NAME, stale=there - names)


def _mac(dst: Path, names: Collection[str], secret: Secret) -> str:
    return secret.mac(b"uploaded" + canonical([str(dst), sorted(names)]))
