import hashlib
import os
import pickle
import stat
from pathlib import Path

import pytest

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import VERSION_LINE, Key, create_key_file, read_key_file

FIXED = Key(bytes(range(32)))
DIGITS = bytes(range(32)).hex()


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_key_file_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "my.key"
    previous = os.umask(0)
    try:
        key = create_key_file(path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == f"{VERSION_LINE}\n{key.material.hex()}\n"
    assert read_key_file(path) == key
    assert create_key_file(tmp_path / "other.key") != key


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "my.key"
    create_key_file(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"my\.key.*never overwritten"):
        create_key_file(path)
    (tmp_path / "link.key").symlink_to(tmp_path / "target.key")
    with pytest.raises(UserError, match="never overwritten"):
        create_key_file(tmp_path / "link.key")
    assert path.read_bytes() == before
    assert not (tmp_path / "target.key").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*absent/my\.key: No such file"):
        create_key_file(tmp_path / "absent" / "my.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "open.key", f"{VERSION_LINE}\n{DIGITS}\n".encode(), mode)
    with pytest.raises(UserError, match=rf"open\.key.*{mode:04o}.*chmod 600"):
        read_key_file(path)
    assert read_key_file(path, insecure_permissions=True) == FIXED


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "first line"),
        (f"{DIGITS}\n".encode(), "first line"),
        (f"unlearnable-key-v2\n{DIGITS}\n".encode(), "first line"),
        (f"{VERSION_LINE}\n".encode(), "2 lines, it has 1"),
        (f"{VERSION_LINE}\n{DIGITS}\n{DIGITS}\n".encode(), "2 lines, it has 3"),
        (f"{VERSION_LINE}\n{DIGITS[:-2]}\n".encode(), "64 hexadecimal"),
        (f"{VERSION_LINE}\n{DIGITS[:-1]}g\n".encode(), "64 hexadecimal"),
        (f"{VERSION_LINE}\n{DIGITS[:-2]} 1\n".encode(), "64 hexadecimal"),
        (f"{VERSION_LINE}\n".encode() + b"\xff" * 64, "not ASCII text"),
    ],
)
def test_a_malformed_key_is_refused_without_showing_it(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        read_key_file(write(tmp_path / "bad.key", content))
    assert "bad.key" in str(caught.value)
    assert DIGITS[:8] not in str(caught.value)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.key.*No such file"):
        read_key_file(tmp_path / "absent.key")
    with pytest.raises(UserError, match="Is a directory"):
        read_key_file(tmp_path)
    os.mkfifo(tmp_path / "pipe.key", 0o600)
    with pytest.raises(UserError, match="regular file"):
        read_key_file(tmp_path / "pipe.key")


def test_windows_line_ends_and_capitals_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "my.key", f"{VERSION_LINE}\r\n{DIGITS.upper()}\r\n".encode())
    assert read_key_file(path) == FIXED


def test_a_key_does_not_show_itself() -> None:
    shown = f"{FIXED!r} {FIXED} {FIXED.fingerprint}"
    assert DIGITS not in shown
    assert str(bytes(range(32))) not in shown
    assert pickle.loads(pickle.dumps(FIXED)) == FIXED


def test_derivation_is_shake256_over_typed_and_counted_parts() -> None:
    def part(tag: bytes, body: bytes) -> bytes:
        return tag + len(body).to_bytes(8, "big") + body

    message = (
        part(b"b", b"unlearnable_kernels.key.v1")
        + part(b"b", bytes(range(32)))
        + part(b"s", b"purpose")
        + part(b"i", b"5")
        + part(b"s", "é".encode())
        + part(b"i", b"-3")
        + part(b"f", bytes.fromhex("3fe0000000000000"))
    )
    assert FIXED.derive("purpose", "é", -3, 0.5, length=5) == hashlib.shake_256(message).digest(5)


def test_no_two_argument_lists_share_bytes() -> None:
    results = [
        FIXED.derive("a", "bc", length=16),
        FIXED.derive("ab", "c", length=16),
        FIXED.derive("a", "b", "c", length=16),
        FIXED.derive("a", b"bc", length=16),
        FIXED.derive("a", 1, length=16),
        FIXED.derive("a", 1.0, length=16),
        FIXED.derive("a", "1", length=16),
        FIXED.derive("a", "bc", length=32)[:16],
        Key(bytes(32)).derive("a", "bc", length=16),
    ]
    assert len(set(results)) == len(results)


def test_golden_fingerprint_and_mac() -> None:
    assert FIXED.fingerprint == "9d99acf094cafb40b87f305a46953b82"
    assert FIXED.mac(b"x") == "73639263a77004f518fdc99511193ff38de1f77d1e8f9cbaabb87c3f786d1807"


def test_a_key_has_256_bits() -> None:
    with pytest.raises(UserError, match="32 bytes, not 31"):
        Key(bytes(31))
