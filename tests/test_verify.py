import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from unlearnable_kernels.data.manifest import MANIFEST_NAME, canonical, manifest_text, read_manifest
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key, Seed, is_signed_by, sign
from unlearnable_kernels.protect.verify import VerifyReport, verify_dataset

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))
CONTENT = {"cat/a.png": b"one", "cat/é.png": b"two", "dog/b.png": b"three", "words.txt": b"cat\ndog\n"}


def manifest_of(source: Key | Seed, **changes: Any) -> dict[str, Any]:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
    manifest = {
        "schema": 1,
        "method": "classwise-conv",
        "parameters": {"strength": 0.3},
        "dataset_name": "pets",
        "prefix": "",
        "key": {"kind": source.kind, "fingerprint": source.fingerprint},
        "classes": ["cat", "dog"],
        "files": {
            name: {"sha256": digest, "label": 0, "protected": True}
            for name, digest in digests.items()
            if name.endswith(".png")
        },
        "side_files": {"words.txt": digests["words.txt"]},
    }
    return sign({**manifest, **changes}, source)


def write_dataset(folder: Path, source: Key | Seed = KEY) -> Path:
    for name, data in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / MANIFEST_NAME).write_text(manifest_text(manifest_of(source)))
    return folder


def test_an_untouched_data_set_passes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = verify_dataset(write_dataset(tmp_path), KEY, lambda _, done, total: seen.append((done, total)))
    assert report == VerifyReport(checked=4, key="matches")
    assert report.ok
    assert seen == [(4, 4)]
    assert verify_dataset(tmp_path) == VerifyReport(checked=4, key="not checked")


def test_every_mismatch_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "cat/a.png").write_bytes(b"One")
    (tmp_path / "cat/é.png").unlink()
    (tmp_path / "cat/new.png").write_bytes(b"")
    (tmp_path / "dog/folder").symlink_to(tmp_path / "cat")
    report = verify_dataset(tmp_path, KEY)
    assert report.changed == ["cat/a.png"]
    assert report.missing == ["cat/é.png"]
    assert report.extra == ["cat/new.png", "dog/folder"]
    assert report.key == "matches"
    assert not report.ok


def test_a_link_to_the_right_bytes_is_no_file_of_the_data_set(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set")
    (tmp_path / "a.png").write_bytes(CONTENT["cat/a.png"])
    (tmp_path / "set/cat/a.png").unlink()
    (tmp_path / "set/cat/a.png").symlink_to(tmp_path / "a.png")
    assert verify_dataset(tmp_path / "set").changed == ["cat/a.png"]


@pytest.mark.filterwarnings("ignore:an integer seed")
def test_another_key_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    report = verify_dataset(tmp_path, OTHER)
    assert report.key == "another key"
    assert not report.ok
    assert verify_dataset(tmp_path, Seed(5)).key == "another key"
    write_dataset(tmp_path, Seed(5))
    assert verify_dataset(tmp_path, Seed(5)).ok


def test_a_changed_manifest_is_told(tmp_path: Path) -> None:
    path = write_dataset(tmp_path) / MANIFEST_NAME
    path.write_text(path.read_text().replace("0.3", "0.4"))
    report = verify_dataset(tmp_path, KEY)
    assert report.key == "manifest changed"
    assert not report.ok
    assert verify_dataset(tmp_path).ok


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (manifest_text(manifest_of(KEY)).replace("0.3", "NaN"), "not valid JSON"),
        (manifest_text(manifest_of(KEY)).replace("0.3", "1e999"), "not valid JSON"),
        (
            manifest_text({**manifest_of(KEY), "mac": ""}).replace('"mac": ""', r'"mac": "\ud800"'),
            "not valid JSON",
        ),
        (manifest_text(manifest_of(KEY)).replace("{", '{"mac": "", ', 1), "it gives 'mac' twice"),
        (manifest_text(manifest_of(KEY)).replace("0.3", "Infinity"), "not valid JSON"),
        ("[]", "JSON object"),
        ("{}", "'schema' is missing"),
        (manifest_text(manifest_of(KEY, parameters={"resize": [32]})), "damaged: 'resize' is malformed$"),
        (manifest_text(manifest_of(KEY, parameters={"resize": 0})), "damaged: 'resize' is malformed$"),
        (manifest_text(manifest_of(KEY, schema=3)), "schema 3, but this version reads 1 and 2$"),
        (manifest_text(manifest_of(KEY, side_files={"../up": "00"})), "'../up'"),
        (manifest_text(manifest_of(KEY, side_files={"/etc/passwd": "00"})), "'/etc/passwd'"),
        (manifest_text(manifest_of(KEY, files={"a": 3})), "'a'"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(UserError, match=message):
        verify_dataset(tmp_path, KEY)


def test_what_was_never_protected_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json"):
        verify_dataset(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        verify_dataset(tmp_path / "absent")
    with pytest.raises(UserError, match="File name too long"):
        verify_dataset(tmp_path / ("x" * 300))


def test_manifest_text_is_the_manifest_line_by_line(tmp_path: Path) -> None:
    manifest = manifest_of(KEY)
    text = manifest_text(manifest)
    assert json.loads(text) == manifest
    assert list(json.loads(text)) == list(manifest)
    assert sum('"protected": true' in line for line in text.splitlines()) == 3
    (tmp_path / MANIFEST_NAME).write_text(text)
    assert is_signed_by(read_manifest(tmp_path), KEY)


def test_canonical_text_is_independent_of_order() -> None:
    assert canonical({"b": 1.0, "a": ["é"]}) == '{"a":["é"],"b":1.0}'.encode()
