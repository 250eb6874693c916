"""A small signed file for each finished chunk, after its data: what ranks share, and what is resumed from.

A record's name is the chunk's digest, so that what the source's change left as it was is found again, and
what belongs to no chunk of a plan is of no account.
"""

import hmac
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.manifest import canonical
from unlearnable_kernels.files import open_regular, parse_json, replacing, sha256_of, write_file, writing
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.pipeline.chunk import Chunk, Result

_LIMIT = 2**24  # bytes of a record


class Records:
    """The records in a folder.

    Args:
        folder: Where they lie; made where it is missing.
        secret: Signs them: a chunk that another than its holder calls finished is done again.
    """

    def __init__(self, folder: Path, secret: Secret) -> None:
        self.folder, self.secret = folder, secret

    def add(self, chunk: Chunk, result: Result) -> None:
        """Record a finished chunk, in one step.

        Raises:
            WriteError: It cannot be written.
        """
        skipped = {str(key): why for key, why in result.skipped.items()}
        record = [result.index, result.sha256, skipped, result.sizes]
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
        with replacing(self._path(chunk)) as temporary:
            write_file(temporary, canonical([*record, self._mac(chunk, record)]))

    def finished(self, chunks: Iterable[Chunk], is_whole: Callable[[Chunk, Result], bool]) -> set[int]:
        """The numbers of the chunks whose files are still what was written."""

        def is_finished(chunk: Chunk) -> bool:
            result = self.read(chunk)
            return result is not None and is_whole(chunk, result)

        chunks = list(chunks)
        with ThreadPoolExecutor() as pool:
            found = pool.map(is_finished, chunks)
            return {chunk.index for chunk, finished in zip(chunks, found, strict=True) if finished}

    def _path(self, chunk: Chunk) -> Path:
        return self.folder / f"{chunk.digest}.json"

    def read(self, chunk: Chunk) -> Result | None:
        """What became of a chunk; None without a record that is whole and signed by the key."""
        try:
            with open_regular(self._path(chunk), os.O_NOFOLLOW) as file:
                *record, mac = parse_json(file.read(_LIMIT))
            if not hmac.compare_digest(mac, self._mac(chunk, record)):
                return None
            _, hashes, skipped, sizes = record
            # The number may be another one now; its files tell whether that matters.
            return Result(chunk.index, hashes, {int(key): why for key, why in skipped.items()}, sizes)
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def _mac(self, chunk: Chunk, record: list[Any]) -> str:
        return self.secret.mac(canonical(["chunk", chunk.digest, record]))


def intact(files: Sequence[Path], result: Result, rehash: bool) -> bool:
    """Whether the files of a chunk have the sizes that its result says; ``rehash``: and the digests."""
    try:
        for file, digest, size in zip(files, result.sha256, result.sizes, strict=True):
            if digest is None:
                continue
            if file.lstat().st_size != size or (rehash and sha256_of(file) != digest):
                return False
    except (OSError, ValueError):  # or of another number of files
        return False
    return True
