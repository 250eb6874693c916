"""Whether a Parquet file is plain, by its footer and the headers of its pages, read without pyarrow.

pyarrow ends the whole process where a column that it is asked about has a type, a compression or statistics
that cannot be, and reads as many rows as a row group says that it has, from pages that a few bytes can make
of any size. Footer and headers are structs in Thrift's compact protocol.
"""

from typing import Any

_TAIL = 8  # bytes behind the footer: its length, and PAR1
_DEEPEST = 16  # structs and lists within one another; the format has seven
_LARGEST = 2**16  # bytes of a footer: ours have 900, and pyarrow takes 300 for one of them
_HEADER = 2**12  # bytes in which a page's header ends
# What the lists of the format hold, by the fields that lead to them. pyarrow reads that, whatever a list says
# of itself, and would find other fields behind it.
_LISTS = dict.fromkeys([(2,), (4,), (5,), (7,), (4, 1), (4, 4), (4, 1, 3, 8), (4, 1, 3, 13)], 12)
_LISTS |= {(4, 1, 3, 2): 5, (4, 1, 3, 3): 8, (4, 1, 3, 16, 2): 6, (4, 1, 3, 16, 3): 6}
# Fields of FileMetaData, of RowGroup, of ColumnChunk and of ColumnMetaData.
_SCHEMA, _ROWS, _GROUPS = 2, 3, 4
_COLUMNS, _GROUP_ROWS = 1, 3
_METADATA = 3
_CODEC, _VALUES, _SIZE, _START, _DICTIONARY = 4, 5, 7, 9, 11
# Of PageHeader, and of DataPageHeader.
_KIND, _PAGE_SIZE, _PAGE = 1, 3, 5
_PAGE_VALUES, _ENCODING = 1, 2
_DATA_PAGE, _PLAIN, _UNCOMPRESSED = 0, 0, 0


def is_plain(data: bytes, columns: int) -> bool:
    """Whether nothing that a Parquet file says of itself makes it larger when it is read.

    That is, it has one row group and so many columns, none within another, with a value for each row, no
    compression and no dictionary.
    """
    end = len(data) - _TAIL
    start = end - int.from_bytes(data[end : end + 4], "little")
    if not 0 <= start < end <= start + _LARGEST:
        return False
    try:
        footer = _Reader(data[start:end]).struct(())
        [group], rows = footer[_GROUPS], footer[_ROWS]
        chunks = [chunk[_METADATA] for chunk in group[_COLUMNS]]
        counts = len(footer[_SCHEMA]), len(chunks), group[_GROUP_ROWS]
        return counts == (1 + columns, columns, rows) and all(_are_plain(data, each, rows) for each in chunks)
    except (IndexError, KeyError, TypeError, ValueError):  # not the structs of the format
        return False


def _are_plain(data: bytes, column: dict[int, Any], rows: int) -> bool:
    """Whether the pages of a column, given by its metadata, hold a value for each row, and no dictionary."""
    start, end = column[_START], column[_START] + column[_SIZE]
    if (column[_CODEC], column[_VALUES]) != (_UNCOMPRESSED, rows) or _DICTIONARY in column or start < 0:
        return False
    while start < end and rows > 0:
        reader = _Reader(data[start : min(start + _HEADER, end)])
        header = reader.struct(())
        page, size = header[_PAGE], header[_PAGE_SIZE]
        if (header[_KIND], page[_ENCODING]) != (_DATA_PAGE, _PLAIN) or page[_PAGE_VALUES] < 1 or size < 0:
            return False
        start += reader.at + size
        rows -= page[_PAGE_VALUES]
    return rows == 0 and start == end <= len(data)


class _Reader:
    """Goes through bytes; IndexError where they end, ValueError where they are no values of the protocol."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def struct(self, path: tuple[int, ...]) -> dict[int, Any]:
        """Fields by number."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            # Which of two counts, and what a larger number becomes, is not the same for all readers.
            if number in fields or not 0 < number < 2**15:
                raise ValueError(f"field {number}, again or out of range")
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, (*path, number))
        return fields

    def _value(self, kind: int, path: tuple[int, ...]) -> Any:
        if len(path) > _DEEPEST:
            raise ValueError("too deep")
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            return self._skip(8)
        if kind == 8:
            return self._skip(self._varint())
        if kind == 9:
            head = self._byte()
            if head & 15 != _LISTS.get(path):
                raise ValueError(f"a list of kind {head & 15}")
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._value(head & 15, path) for _ in range(count)]
        if kind == 12:
            return self.struct(path)
        raise ValueError(f"a value of kind {kind}")  # maps, which the format does not have

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _skip(self, size: int) -> None:
        """What nobody asks for: no bytes are returned, which could be taken for a struct's fields."""
        if size > len(self._data) - self.at:
            raise IndexError
        self.at += size

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                break
        if byte > 127 or value >> 64:
            raise ValueError("a number of more than 64 bits")
        return value

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
