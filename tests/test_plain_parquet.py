"""Files that pyarrow itself would end the process over, or make large, and others that are not plain."""

import io
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from unlearnable_kernels.data import plain_parquet  # noqa: E402 (skipped without pyarrow)


def is_plain(data: bytes) -> bool:
    return plain_parquet.is_plain(data, 2)


def parquet(rows: int = 1, **settings: Any) -> bytes:
    stream = io.BytesIO()
    table = pa.table({"a": ["x", "y", "y"] * rows, "b": [1, 2, 3] * rows})
    pq.write_table(table, stream, **{"compression": "none", "use_dictionary": False} | settings)
    return stream.getvalue()


def test_what_is_written_without_compression_and_dictionaries_is_plain() -> None:
    assert is_plain(parquet())
    assert is_plain(parquet(write_statistics=False, store_schema=False))
    assert is_plain(parquet(1000, data_page_size=100, write_batch_size=10))


@pytest.mark.parametrize(
    "settings",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"row_group_size": 2},
        {"data_page_version": "2.0"},
        {"column_encoding": {"b": "DELTA_BINARY_PACKED"}},
    ],
    ids=str,
)
def test_what_could_grow_is_not(settings: dict[str, Any]) -> None:
    assert not is_plain(parquet(**settings))


def test_other_columns_are_not_those_asked_for() -> None:
    assert not plain_parquet.is_plain(parquet(), 1)
    assert not plain_parquet.is_plain(parquet(), 3)


def test_a_row_group_has_the_rows_of_the_file() -> None:
    """pyarrow reads as many as the group says."""
    whole = bytearray(parquet())
    rows = whole.rindex(b"\x16\x06")  # field 3 of the group, 3
    whole[rows + 1] = 4
    assert not is_plain(bytes(whole))


def test_pages_have_the_values_of_the_rows() -> None:
    whole = bytearray(parquet())
    page = whole.index(b"\x2c\x15\x06")  # field 5 of the header, whose field 1 is 3
    whole[page + 2] = 4
    assert not is_plain(bytes(whole))


def test_a_list_holds_what_the_format_says_and_not_what_it_says_of_itself() -> None:
    """pyarrow goes by the format, and would find other fields behind it."""
    whole = bytearray(parquet())
    encodings = whole.rindex(b"\x19\x25")  # field 2 of a column, two numbers of 32 bits
    whole[encodings + 1] = 0x26
    assert not is_plain(bytes(whole))


def test_a_footer_is_small() -> None:
    """pyarrow takes 300 bytes for one of its own."""
    for size, expected in ((20_000, True), (40_000, False)):
        stream = io.BytesIO()
        table = pa.table({"a": ["x"], "b": [1]}).replace_schema_metadata({"k": "v" * size})
        pq.write_table(table, stream, compression="none", use_dictionary=False)  # it stands there twice
        assert is_plain(stream.getvalue()) == expected


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


def test_a_number_beyond_64_bits_is_none() -> None:
    whole = parquet()
    rows = whole.rindex(b"\x16\x06")
    longer = whole[: rows + 1] + b"\x86\x80\x80\x80\x80\x80\x80\x80\x80\x02" + whole[rows + 2 : -8]
    length = int.from_bytes(whole[-8:-4], "little") + 9
    assert not is_plain(longer + length.to_bytes(4, "little") + b"PAR1")


def test_bytes_in_a_struct_s_place_are_no_struct() -> None:
    """They could be indexed as its fields are."""
    read = plain_parquet._Reader(b"\x28\x02\x00\x03\x1c\x15\x06\x00\x00").struct(())
    assert read == {2: None, 3: {1: 3}}
