"""Whether a Parquet file is plain, by its footer, read without pyarrow.

pyarrow ends the whole process where a column that it is asked about has a type, a compression or statistics
that cannot be. The footer, FileMetaData of the Parquet format, is a struct in Thrift's compact protocol.
"""

from typing import Any

_TAIL = 8  # bytes behind the footer: its length, and PAR1
_DEEPEST = 16  # structs and lists within one another; the format has seven
# Fields of FileMetaData, of RowGroup, of ColumnChunk and of ColumnMetaData.
_ROWS, _GROUPS = 3, 4
_COLUMNS = 1
_METADATA = 3
_CODEC, _VALUES, _DICTIONARY = 4, 5, 11


def is_plain(data: bytes) -> bool:
    """Whether nothing that a Parquet file says of itself makes it larger when it is read.

    That is, it has one row group, whose columns have a value for each row, no compression and no dictionary.
    """
    end = len(data) - _TAIL
    start = end - int.from_bytes(data[end : end + 4], "little")
    if not 0 <= start < end:
        return False
    try:
        footer = _Reader(data[start:end]).struct(0)
        [group] = footer[_GROUPS]
        columns = [chunk[_METADATA] for chunk in group[_COLUMNS]]
        return all(
            (column[_CODEC], column[_VALUES]) == (0, footer[_ROWS]) and _DICTIONARY not in column
            for column in columns
        )
    except (IndexError, KeyError, TypeError, ValueError):  # not the structs of the format
        return False


class _Reader:
    """Goes through bytes; IndexError where they end, ValueError where they are no values of the protocol."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Fields by number."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            # Which of two counts, and what a larger number becomes, is not the same for all readers.
            if number in fields or not 0 < number < 2**15:
                raise ValueError(f"field {number}, again or out of range")
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("too deep")
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == 12:
            return self.struct(depth)
        raise ValueError(f"a value of kind {kind}")  # maps, which the format does not have

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise IndexError
        self._at += size
        return self._data[self._at - size : self._at]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number of more than 64 bits")

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
