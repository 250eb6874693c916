"""Files that are replaced whole or not at all, JSON, what may be overwritten, and what failure says."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from unlearnable_kernels.errors import UserError, WriteError
from unlearnable_kernels.files import (
    append_jsonl,
    read_json,
    read_jsonl,
    replacing,
    require_replaceable,
    resolved,
    resumable,
    sha256_of,
    write_file,
    write_json,
    write_jsonl,
    writing,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_half_way()
    assert json.loads(path.read_text()) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_final_name_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(b"whole")
        assert not path.exists()
        assert temporary.parent == tmp_path
    assert path.read_bytes() == b"whole"


def test_nan_is_not_valid_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_lines_come_back_and_a_torn_last_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_jsonl(path) == []
    append_jsonl(path, {"epoch": 1})
    append_jsonl(path, {"epoch": 2, "name": "Zoë"})
    with path.open("a") as file:
        file.write('{"epoch": 3')
    assert read_jsonl(path) == [{"epoch": 1}, {"epoch": 2, "name": "Zoë"}]
    write_jsonl(path, read_jsonl(path)[:1])
    assert path.read_text() == '{"epoch": 1}\n'


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.json"  # fails for root too, whom permissions do not stop
    for write in (write_json, append_jsonl, write_jsonl):
        with pytest.raises(UserError, match=rf"^cannot write {path}: Not a directory$"):
            write(path, [])


@pytest.mark.parametrize("junk", [b'{"epoch": 2\n', b"\xff\n", b"\n", b"[" * 100_000 + b"\n"])
def test_junk_is_named(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"epoch": 1}\n' + junk + b'{"epoch": 3')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2 is damaged"):
        read_jsonl(path)
    with pytest.raises(UserError, match=r"a\.jsonl is damaged: not valid JSON"):
        read_json(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)


def test_the_reason_of_a_failed_write_is_named_with_how_to_resume() -> None:
    reasons = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk full", errno.EACCES: "Permission denied"}
    for code, reason in reasons.items():
        with pytest.raises(WriteError, match=rf"^cannot write a\.png: {reason}$"), writing("a.png"):
            raise OSError(code, os.strerror(code))
    message = r"^cannot write a\.png: disk full; run the same command again to resume$"
    with pytest.raises(WriteError, match=message), resumable(), writing("a.png"):
        raise OSError(errno.ENOSPC, "x")
    with pytest.raises(ValueError, match=r"^other$"), resumable(), writing("a.png"):
        raise ValueError("other")


def test_a_file_is_written_over_an_older_one_but_not_through_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "a.bin", tmp_path / "link.bin"
    for content in (b"a longer one", b"short"):
        write_file(path, content)
        assert path.read_bytes() == content
    link.symlink_to(path)
    with pytest.raises(WriteError, match=rf"^cannot write {link}: "):
        write_file(link, b"new")
    assert path.read_bytes() == b"short"
    second, pipe = tmp_path / "second.bin", tmp_path / "pipe"
    second.hardlink_to(path)
    os.mkfifo(pipe)
    for planted in (second, pipe):
        write_file(planted, b"new")
        assert planted.read_bytes() == b"new"
    assert path.read_bytes() == b"short"


def test_only_a_file_of_the_same_kind_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    require_replaceable(path, b"GIF8", "a GIF file")
    for content in (b"GIF89a", b"gif8"):
        path.write_bytes(content)
        require_replaceable(path, b"GIF8", "a GIF file")
    for content in (b"a secret", b"GIF", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"^{path} exists and is not a GIF file: choose another name$"):
            require_replaceable(path, b"GIF8", "a GIF file")
    (tmp_path / "link.gif").symlink_to(path)
    for name in ("link.gif", "."):
        with pytest.raises(UserError, match="exists and is not a GIF file"):
            require_replaceable(tmp_path / name, b"GIF8", "a GIF file")
    with pytest.raises(WriteError, match=r"^cannot write .*: File name too long$"):
        require_replaceable(tmp_path / ("x" * 300), b"GIF8", "a GIF file")


def test_the_digest_is_of_the_whole_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192 + b"the end"  # more than two blocks
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_links_are_resolved_and_refused_in_a_loop(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolved(tmp_path / "link" / "new") == tmp_path.resolve() / "real" / "new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"loop: a symbolic link that leads back to itself$"):
        resolved(tmp_path / "loop")
    with pytest.raises(UserError, match=r"File name too long$"):
        resolved(tmp_path / ("x" * 300))
