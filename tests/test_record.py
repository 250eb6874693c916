"""Records: files that are replaced whole or not at all, and what is said of the machine."""

import json
from pathlib import Path

import PIL
import pytest
import torch

from unlearnable_kernels.environment import machine, versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import append_jsonl, read_json, read_jsonl, replacing, write_json, write_jsonl


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


def test_not_a_number_is_no_json(tmp_path: Path) -> None:
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


def test_machine_and_versions_are_plain_json() -> None:
    told = json.loads(json.dumps([machine(), versions()]))
    assert told[0]["cores"] >= 1
    assert told[0]["memory_gib"] > 0
    assert told[0]["cpu"]
    assert (told[0]["gpu"] is None) == (not torch.cuda.is_available())
    codecs = {"pillow", "opencv-python-headless", "simplejpeg", "isal"}
    assert set(told[1]) == {"python", "torch", "torchvision", "numpy", "unlearnable_kernels"} | codecs
    assert told[1]["torch"] == torch.__version__
    assert told[1]["pillow"] == PIL.__version__


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
