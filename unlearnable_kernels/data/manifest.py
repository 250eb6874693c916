"""manifest.json: what was done to a dataset, to which samples, under which key; enough to check it later.

It never holds the key or a seed, and nothing that differs between two runs (no time, no machine): a resumed
run writes the same bytes as an uninterrupted one. ``mac`` is an HMAC by the key over everything else.

A small set's manifest holds an entry for every file itself (schema 1). That of a set of more than
``PART_ENTRIES`` images has the hashes of the Parquet files beside it that hold them (schema 2).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from unlearnable_kernels.data import manifest_entries
from unlearnable_kernels.data.manifest_entries import Entry, is_entry, is_within, read_parts, write_parts
from unlearnable_kernels.data.named import parse
from unlearnable_kernels.data.remote import file_at, is_remote, read_file, url_of
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import parse_json, read_regular, write_file

MANIFEST_NAME = "manifest.json"
INLINE, IN_PARTS = 1, 2
"""Schemas: entries in the manifest itself, and in parts beside it."""
INCIDENTAL = ("schema", "versions")
"""Fields that a later version may write otherwise for the same set."""
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
    "side_files": dict,
    "mac": str,
}
_ENTRIES: dict[int, dict[str, type]] = {INLINE: {"files": dict}, IN_PARTS: {"entries": int, "parts": list}}


@dataclass(frozen=True)
class Manifest(Mapping[str, Any]):
    """A manifest as it was read, whose entries come as a stream: there may be millions.

    Attributes:
        folder: That of the protected set; no part of what it says.
        fields: The JSON object; as a mapping, a manifest has these.
    """

    folder: Path = field(compare=False)
    fields: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def entries(self) -> Iterator[Entry]:
        """What it says of each image, in the order of the dataset.

        Raises:
            UserError: A part is missing or damaged, or an image is listed twice within a file.
        """
        if self.fields["schema"] == INLINE:
            yield from _inline(self.fields["files"])
            return
        count, file, names = 0, "", set[str | None]()
        for entry in read_parts(self.folder, self.fields["parts"]):
            if entry.file != file:
                file, names = entry.file, set()
            if entry.name in names:
                raise UserError(f"{self._path}: damaged: it lists {entry.name or entry.file!r} twice")
            if not is_entry(entry, len(self.fields["classes"])):
                raise UserError(f"{self._path}: damaged: a part lists the file {entry.file!r}")
            names.add(entry.name)
            count += 1
            yield entry
        if count != self.fields["entries"]:
            raise UserError(
                f"{self._path}: damaged: it has {self.fields['entries']} entries, and its parts {count}"
            )

    def samples(self) -> Iterator[tuple[str, Entry]]:
        """The entries by the names of their samples, as ``open_source`` gives them for the protected set.

        They are relative to the split's folder, suffix included, and each is another one: readers make
        tables of them. Raises UserError as ``entries`` does, or where one is listed twice.
        """
        prefix, names = f"{self.fields['prefix']}/" if self.fields.get("prefix") else "", set[str]()
        for entry in self.entries():
            name = entry.file.removeprefix(prefix) if entry.name is None else entry.name
            if name in names:
                raise UserError(f"{self._path}: damaged: it lists {name!r} twice")
            names.add(name)
            yield name, entry

    def digests(self) -> Iterator[tuple[str, str]]:
        """Each file that it vouches for, relative to ``folder``, and its SHA-256; not itself and its parts.

        Raises UserError as ``entries`` does.
        """
        for key, _ in groupby(self.entries(), key=lambda entry: (entry.file, entry.sha256)):
            yield key
        yield from self.fields["side_files"].items()

    @property
    def _path(self) -> Path:
        return self.folder / MANIFEST_NAME


def schema_of(count: int) -> int:
    """The schema of a manifest for so many images."""
    return INLINE if count <= manifest_entries.PART_ENTRIES else IN_PARTS


def canonical(value: Any) -> bytes:
    """The one JSON text of ``value``: keys sorted, no spaces, UTF-8.

    Raises:
        ValueError: ``value`` has a NaN, an infinity or half a surrogate pair in it.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def write_manifest(
    folder: Path,
    fields: dict[str, Any],
    entries: Iterable[Entry],
    side_files: dict[str, str],
    sign: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Write a manifest, its parts first if its schema has them.

    Args:
        folder: That of the set.
        fields: All but the entries; "schema" says where these go.
        entries: Of every image.
        side_files: SHA-256 of every other file.
        sign: Adds "mac".

    Raises:
        UserError: There are parts to write, and pyarrow is not installed.
        WriteError: A file cannot be written.
    """
    listed: dict[str, Any]
    if fields["schema"] == INLINE:
        listed = {"files": _table(entries)}
    else:
        count, parts = write_parts(folder, entries)
        listed = {"entries": count, "parts": parts}
    signed = sign({**fields, **listed, "side_files": side_files})
    write_file(folder / MANIFEST_NAME, manifest_text(signed).encode())


def _table(entries: Iterable[Entry]) -> dict[str, Any]:
    files: dict[str, Any] = {}
    for entry in entries:
        facts = {"label": entry.label, "protected": entry.protected}
        if entry.name is None:
            files[entry.file] = {"sha256": entry.sha256, **facts}
        else:
            file = files.setdefault(entry.file, {"sha256": entry.sha256, "samples": {}})
            file["samples"][entry.name] = facts
    return files


def _inline(files: dict[str, Any]) -> Iterator[Entry]:
    for file, facts in files.items():
        if "samples" not in facts:
            yield Entry(file, facts["sha256"], facts["label"], facts["protected"])
            continue
        for name, each in facts["samples"].items():
            yield Entry(file, facts["sha256"], each["label"], each["protected"], name)


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


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the protected dataset in ``folder``.

    Raises:
        UserError: There is none, or it is damaged, of an unknown schema, or names files outside ``folder``.
    """
    return _checked(folder, _read_object(folder))


def _read_object(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_NAME
    try:
        text = read_file(path) if is_remote(path) else read_regular(path)
    except FileNotFoundError:
        raise UserError(f"{url_of(folder)}: not a protected dataset: it has no {MANIFEST_NAME}") from None
    except OSError as error:
        raise UserError(f"{url_of(path)}: cannot be read: {error.strerror}") from None
    try:
        manifest = parse_json(text)
        canonical(manifest)  # half a character was never written, and has no mac
    except UnicodeEncodeError:
        raise UserError(f"{url_of(path)}: damaged: not valid JSON") from None
    except ValueError as error:
        raise UserError(f"{url_of(path)}: damaged: {error}") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{url_of(path)}: not a manifest, which is a JSON object")
    return manifest


def _checked(folder: Path, manifest: dict[str, Any]) -> Manifest:
    path = folder / MANIFEST_NAME
    _check_fields(path, manifest)
    if (kinds := _ENTRIES.get(manifest["schema"])) is None:
        known = " and ".join(map(str, _ENTRIES))
        raise UserError(
            f"{url_of(path)}: manifest schema {manifest['schema']}, but this version reads {known}"
        )
    for name, kind in kinds.items():
        if not isinstance(manifest.get(name), kind):
            raise UserError(f"{url_of(path)}: damaged: {name!r} is missing or malformed")
    other = _ENTRIES[IN_PARTS if manifest["schema"] == INLINE else INLINE]
    if strange := [name for name in other if name in manifest]:
        raise UserError(f"{url_of(path)}: damaged: schema {manifest['schema']} has no {strange[0]!r}")
    _check_listed(path, manifest)
    return Manifest(folder, manifest)


def _check_fields(path: Path, manifest: dict[str, Any]) -> None:
    """Raise UserError unless what every manifest has is there, and of its kind."""
    for name, kind in _REQUIRED.items():
        if not isinstance(manifest.get(name), kind):
            raise UserError(f"{url_of(path)}: damaged: {name!r} is missing or malformed")
    if not all(isinstance(name, str) for name in manifest["classes"]):
        raise UserError(f"{url_of(path)}: damaged: 'classes' is missing or malformed")
    size = manifest["parameters"].get("resize")
    if size is not None and not (type(size) is int and 1 <= size <= 65535):
        raise UserError(f"{url_of(path)}: damaged: 'resize' is malformed")


def _check_listed(path: Path, manifest: dict[str, Any]) -> None:
    """Raise UserError unless all that a manifest itself lists can be taken for what it is."""
    classes, files = len(manifest["classes"]), manifest.get("files", {})
    for file in files:
        try:
            sound = all(is_entry(entry, classes) for entry in _inline({file: files[file]}))
        except (KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise UserError(f"{url_of(path)}: damaged: it lists the file {file!r}")
    for name, digest in manifest["side_files"].items():
        if not is_within(name) or not isinstance(digest, str):
            raise UserError(f"{url_of(path)}: damaged: it lists the file {name!r}")
    if not all(isinstance(digest, str) for digest in manifest.get("parts", ())):
        raise UserError(f"{url_of(path)}: damaged: 'parts' is missing or malformed")


def find_manifest(path: Path) -> Manifest | None:
    """Find the manifest of a protected dataset.

    Args:
        path: The dataset, as ``open_source`` takes it: its folder, or a file or the folder of the training
            images in that.

    Returns:
        The manifest; None for a dataset that ``protect`` did not write, also where another program's file
        has the manifest's name.

    Raises:
        UserError: The manifest is damaged.
    """
    path = parse(path).path
    if file_at(path / MANIFEST_NAME) is not None:
        return _own_manifest(path)
    within = path.name == "train" or file_at(path) is not None
    if within and file_at(path.parent / MANIFEST_NAME) is not None:
        manifest = _own_manifest(path.parent)
        if manifest is None:
            return None
        if path.name == manifest.get("prefix") or any(path.name == name for name, _ in manifest.digests()):
            return manifest
    return None


def _own_manifest(folder: Path) -> Manifest | None:
    """As ``read_manifest``; None for a JSON object that has nothing of a manifest."""
    fields = _read_object(folder)
    return _checked(folder, fields) if {"schema", "mac", "files"} & fields.keys() else None


def without_tables(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """How a dataset was protected: its manifest without what lists files, which is as long as itself."""
    left_out = (*_TABLES, "skipped", "entries", "parts")
    return {name: value for name, value in manifest.items() if name not in left_out}
