"""manifest.json: what was done to a dataset, to which samples, under which key; enough to check it later.

It never holds the key or a seed, and nothing that differs between two runs (no time, no machine): a resumed
run writes the same bytes as an uninterrupted one. ``mac`` is an HMAC by the key over everything else.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from unlearnable_kernels.data.named import parse
from unlearnable_kernels.data.remote import file_at, is_remote, read_file
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import parse_json

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
# One line for each entry of these; they are as long as the dataset.
_TABLES = ("files", "side_files")
_REQUIRED = {
    "schema": int,
    "method": str,
    "parameters": dict,
    "dataset_name": str,
    "prefix": str,
    "key": dict,
    "classes": list,
    "files": dict,
    "side_files": dict,
    "mac": str,
}


def canonical(value: Any) -> bytes:
    """The one JSON text of ``value``: keys sorted, no spaces, UTF-8.

    Raises:
        ValueError: ``value`` has a NaN, an infinity or half a surrogate pair in it.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def manifest_text(manifest: dict[str, Any]) -> str:
    """JSON with a line for each file, for people and line-based tools."""
    fields = []
    for name, value in manifest.items():
        if name in _TABLES and value:
            rows = (f"    {_json(key)}: {_json(entry)}" for key, entry in value.items())
            body = "{\n" + ",\n".join(rows) + "\n  }"
        else:
            body = _json(value)
        fields.append(f"  {_json(name)}: {body}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the protected dataset in ``folder``.

    Raises:
        UserError: There is none, or it is damaged, of an unknown schema, or names files outside ``folder``.
    """
    path = folder / MANIFEST_NAME
    try:
        text = read_file(path) if is_remote(path) else path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{folder}: not a protected dataset: it has no {MANIFEST_NAME}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        manifest = parse_json(text)
        canonical(manifest)  # half a character was never written, and has no mac
    except UnicodeEncodeError:
        raise UserError(f"{path}: damaged: not valid JSON") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: not a manifest, which is a JSON object")
    for name, kind in _REQUIRED.items():
        if not isinstance(manifest.get(name), kind):
            raise UserError(f"{path}: damaged: {name!r} is missing or malformed")
    if not all(isinstance(name, str) for name in manifest["classes"]):
        raise UserError(f"{path}: damaged: 'classes' is missing or malformed")
    if manifest["schema"] != SCHEMA_VERSION:
        raise UserError(
            f"{path}: manifest schema {manifest['schema']}, but this version reads {SCHEMA_VERSION}"
        )
    for name, entry in manifest["files"].items():
        if isinstance(entry, dict) and not isinstance(entry.get("samples", {}), dict):
            raise UserError(f"{path}: damaged: the samples of {name!r} are malformed")
    for name, digest in file_digests(manifest).items():
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or not isinstance(digest, str):
            raise UserError(f"{path}: damaged: it lists the file {name!r}")
    return manifest


def find_manifest(path: Path) -> dict[str, Any] | None:
    """Find the manifest of a protected dataset.

    Args:
        path: The dataset, as ``open_source`` takes it: its folder, or a file or the folder of the training
            images in that.

    Returns:
        The manifest; None for a dataset that ``protect`` did not write.

    Raises:
        UserError: The manifest is damaged.
    """
    found = locate_manifest(path)
    return None if found is None else found[1]


def locate_manifest(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """As ``find_manifest``, with the folder that holds it."""
    path = parse(path).path
    if file_at(path / MANIFEST_NAME) is not None:
        return path, read_manifest(path)
    if (path.is_file() or path.name == "train") and (path.parent / MANIFEST_NAME).is_file():
        manifest = read_manifest(path.parent)
        if path.name in manifest["files"] or path.name == manifest.get("prefix"):
            return path.parent, manifest
    return None


def without_tables(manifest: dict[str, Any]) -> dict[str, Any]:
    """How a dataset was protected: its manifest without the tables of files, which are as long as itself."""
    return {name: value for name, value in manifest.items() if name not in (*_TABLES, "skipped")}


def sample_entries(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a manifest says about each image: {"label": int, "protected": bool, …} by the name of its sample.

    Args:
        manifest: The whole manifest, of a tree of files or of an array.

    Returns:
        Entries by sample name, as ``open_source`` gives it for the protected set: relative to the split's
        folder, suffix included.
    """
    prefix = f"{manifest['prefix']}/" if manifest["prefix"] else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, entry in manifest["files"].items():
        entries |= entry["samples"] if "samples" in entry else {path.removeprefix(prefix): entry}
    return entries


def file_digests(manifest: dict[str, Any]) -> dict[str, Any]:
    """SHA-256 (hexadecimal) of every file that a manifest vouches for, by its path relative to the folder."""
    digests = {
        name: entry.get("sha256") if isinstance(entry, dict) else None
        for name, entry in manifest["files"].items()
    }
    return {**digests, **manifest["side_files"]}
