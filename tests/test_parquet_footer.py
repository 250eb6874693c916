"""Footers that pyarrow itself would end the process over, and those of files that are not plain."""

import io
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from unlearnable_kernels.data.parquet_footer import is_plain  # noqa: E402 (skipped without pyarrow)


def parquet(**settings: Any) -> bytes:
    stream = io.BytesIO()
    table = pa.table({"a": ["x", "y", "y"], "b": [1, 2, 3]})
    pq.write_table(table, stream, **{"compression": "none", "use_dictionary": False} | settings)
    return stream.getvalue()


def test_what_is_written_without_compression_and_dictionaries_is_plain() -> None:
    assert is_plain(parquet())
    assert is_plain(parquet(write_statistics=False, store_schema=False))


@pytest.mark.parametrize(
    "settings", [{"compression": "zstd"}, {"use_dictionary": True}, {"row_group_size": 2}]
)
def test_what_could_grow_is_not(settings: dict[str, Any]) -> None:
    assert not is_plain(parquet(**settings))


def test_a_compression_that_there_is_not_is_not_asked_of_pyarrow() -> None:
    whole = bytearray(parquet())
    codec = whole.rindex(b"\x15\x00\x16\x06")  # field 4 is 0, and field 5, the number of values, 3
    whole[codec + 1] = 0x7F
    assert not is_plain(bytes(whole))


@pytest.mark.parametrize(
    "again",
    [b"\x04\x08\x00", b"\x05\x08\x0c", b"\x05\x88\x80\x08\x0c"],
    ids=["short", "as 32 bits", "as 65,540"],
)
def test_a_compression_given_twice_is_not_plain(again: bytes) -> None:
    """Whichever a reader takes: 0 the first time, then 0 in 16 bits, or 6, which is Zstandard."""
    whole = parquet()
    codec = whole.rindex(b"\x15\x00\x16\x06")
    length = int.from_bytes(whole[-8:-4], "little") + len(again) + 1
    # The next field's number is spelled out, since it counts from the one before.
    changed = whole[: codec + 2] + again + b"\x06\x0a" + whole[codec + 3 : -8]
    assert not is_plain(changed + length.to_bytes(4, "little") + b"PAR1")
    without = whole[: codec + 2] + b"\x06\x0a" + whole[codec + 3 : -8]
    assert is_plain(without + (length - len(again)).to_bytes(4, "little") + b"PAR1")


@pytest.mark.parametrize(
    "footer",
    [
        b"",
        b"\x00",
        b"\x4c" * 5000,
        b"\x49\xfc\xff\xff\xff\xff\x0f",
        b"\x15" + b"\xff" * 5000,
        b"\x4b\x11\x00",
    ],
    ids=["none", "empty", "deep", "long", "wide", "map"],
)
def test_what_is_no_footer(footer: bytes) -> None:
    assert not is_plain(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert not is_plain(footer)
