"""Where a protected dataset grows until it is whole: DST.partial, its lock, its journal, its last step.

DST.partial/lock           held by whoever works here, and by their workers
DST.partial/plan.json      what is being made; another plan is refused
DST.partial/journal.jsonl  a line for each finished chunk, with the hashes of its files, signed by the key
DST.partial/tree/          becomes DST
DST.partial/parts/         what a format puts together in the end, such as the pixels of an .npz
DST.partial/work/          what a method needs before the first file, such as its optimised images
"""

import contextlib
import ctypes
import errno
import fcntl
import hmac
import os
import shutil
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.manifest import MANIFEST_NAME, canonical
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import parse_json, write_all, write_json, writing
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.pipeline.chunk import Result

# Workers of a killed run let go of the lock within moments; a live run does not.
LOCK_WAIT = 5.0
_OWN = {"lock", "plan.json", "journal.jsonl", "tree", "parts", "work"}
# What a kill in the middle of replacing one of them leaves behind.
_TEMPORARY = ".tmp"
_CWD, _RENAME_EXCHANGE = -100, 2  # of renameat2


class Staging:
    """The staging folder of ``dst``, locked while this context manager is open.

    Args:
        dst: What it becomes.
        secret: Signs the journal: a chunk that another than its holder calls finished is done again.

    Raises:
        UserError: Another process is working there, it holds something else, or a symbolic link.
        WriteError: It cannot be written.
    """

    def __init__(self, dst: Path, secret: Secret) -> None:
        self.dst, self.secret = dst, secret
        self.digest = ""
        self.folder = staging_folder(dst)
        self.tree = self.folder / "tree"
        self.parts = self.folder / "parts"
        self.work = self.folder / "work"
        self._journal = -1
        self.lock = -1

    def __enter__(self) -> "Staging":
        try:
            with writing(self.folder):
                self._acquire()
                names = {entry.name for entry in self.folder.iterdir()}
            foreign = sorted(name for name in names - _OWN if not name.endswith(_TEMPORARY))
            if foreign:
                raise UserError(
                    f"{self.folder} is needed for {self.dst.name}, but holds {foreign[0]!r}; delete it if it "
                    "is an unfinished run of another version, or choose another name"
                )
            if (link := _find_link(self.folder)) is not None:
                raise UserError(
                    f"{shown(str(link))} is a symbolic link, which no run leaves there; "
                    f"delete {self.folder} to start over"
                )
        except UserError:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for descriptor in (self._journal, self.lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._journal = self.lock = -1

    def _acquire(self) -> None:
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.folder.is_symlink():
                raise UserError(f"{self.folder} is a symbolic link, which is not followed; delete it")
            try:
                self.lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held it may have finished and removed the folder.
                if os.path.samestat(os.fstat(self.lock), (self.folder / "lock").stat()):
                    return
            except (BlockingIOError, FileNotFoundError):
                pass
            self.close()
            if time.monotonic() > deadline:
                raise UserError(f"another process is working on {self.folder}; wait for it, or end it")
            time.sleep(0.05)

    def begin(self, digest: str, header: dict[str, Any]) -> bool:
        """Record the plan.

        Returns:
            Whether this very plan was begun here before.

        Raises:
            UserError: Another plan was begun here before.
        """
        self.digest = digest
        path = self.folder / "plan.json"
        if not path.exists():
            # What a run left that was killed while it tidied up is no part of this one.
            with writing(self.folder):
                self.clear()
            write_json(path, {"digest": digest, "header": header})
            return False
        try:
            begun = parse_json(path.read_bytes())
            same, before = begun["digest"] == digest, dict(begun["header"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path} is damaged; delete {self.folder} to start over") from None
        if same:
            return True
        changed = ", ".join(differences(before, header)) or "the source's files or the seed"
        raise UserError(
            f"{self.folder} holds an unfinished run that differs in {changed}; "
            "run that command again to finish it, or delete the folder to start over"
        )

    def drop_other(self, digest: str) -> None:
        """Clear what another plan than this one left: for a set that is finished, nothing of it is needed."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if parse_json((self.folder / "plan.json").read_bytes())["digest"] == digest:
                return
        with writing(self.folder):
            self.clear()

    def finished(self, is_whole: Callable[[Result], bool]) -> dict[int, Result]:
        """The results in the journal whose files are still what was written; the others are done again."""
        path = self.folder / "journal.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        results = [result for line in lines if (result := self._parse(line)) is not None]
        with ThreadPoolExecutor() as pool:
            kept = {
                r.index: r for r, whole in zip(results, pool.map(is_whole, results), strict=True) if whole
            }

        with writing(self.folder):
            temporary = path.with_suffix(_TEMPORARY)
            temporary.write_bytes(b"".join(map(self._line, kept.values())))
            temporary.replace(path)
            self._journal = os.open(path, os.O_WRONLY | os.O_APPEND)
        return kept

    def record(self, result: Result) -> None:
        """Add a finished chunk to the journal."""
        with writing(self.folder):
            write_all(self._journal, self._line(result))

    def _line(self, result: Result) -> bytes:
        record = [result.index, result.sha256, {str(key): why for key, why in result.skipped.items()}]
        return canonical([*record, self._mac(record)]) + b"\n"

    def _parse(self, line: bytes) -> Result | None:
        """None for a line that was cut short, never reached the disk, or was written without the key."""
        try:
            *record, mac = parse_json(line)
            if not hmac.compare_digest(mac, self._mac(record)):
                return None
            index, hashes, skipped = record
            return Result(index, hashes, {int(key): why for key, why in skipped.items()})
        except (ValueError, TypeError, AttributeError):
            return None

    def _mac(self, record: list[Any]) -> str:
        # Of this plan alone: a line of another run is as foreign as anybody's.
        return self.secret.mac(canonical(["journal", self.digest, record]))

    def publish(self, replacing: bool = False) -> None:
        """Flush the tree to disk, give it its final name, and delete the rest.

        Args:
            replacing: Whether a finished set has that name: the two change places in one step.
        """
        with writing(self.folder):
            _sync(self.tree)
            if replacing:
                self.tree.chmod(stat.S_IMODE(self.dst.stat().st_mode))
                _exchange(self.tree, self.dst)
            else:
                self.tree.rename(self.dst)
            _sync(self.dst.parent)
        self.remove()

    def clear(self, whatever_can_be: bool = False) -> None:
        """Forget what was begun here: the plan first, so that nothing of it can pass for another's work.

        Args:
            whatever_can_be: Whether to leave what cannot be deleted.

        Raises:
            OSError: Something cannot be deleted.
        """
        (self.folder / "plan.json").unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=whatever_can_be)
            elif path.name != "lock":
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the staging folder, the lock last: a process that waits for it may make the folder anew."""
        self.clear(whatever_can_be=True)
        with contextlib.suppress(OSError):
            (self.folder / "lock").unlink()
            self.folder.rmdir()


def staging_folder(dst: Path) -> Path:
    """Beside ``dst``, hence on its file system, where a rename is one step."""
    return dst.with_name(dst.name + ".partial")


def scheme_at(dst: Path) -> int:
    """``Task.scheme`` of what was begun or finished at ``dst``, to go on with; 2 where nothing was."""
    for path, field in ((dst / MANIFEST_NAME, None), (staging_folder(dst) / "plan.json", "header")):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            found = parse_json(path.read_bytes())
            return int((found if field is None else found[field]).get("scheme", 1))
    return 2


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two manifest headers, by name."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and name == "parameters":
            found += [
                f"{key} ({old.get(key)}, now {new.get(key)})" for key in new if old.get(key) != new[key]
            ]
        elif old != new:
            found.append({"source_listing_sha256": "the source's files", "key": "the key"}.get(name, name))
    return found


def _find_link(folder: Path) -> Path | None:
    """A symbolic link in a folder or below it, if there is one; none is followed."""
    paths = (Path(root, name) for root, folders, files in os.walk(folder) for name in (*folders, *files))
    return next((path for path in paths if path.is_symlink()), None)


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change names in one step, which not every file system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "this system cannot exchange two folders in one step")
    if rename(_CWD, os.fsencode(one), _CWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"two folders cannot be exchanged in one step here ({os.strerror(code)})")


def _sync(path: Path) -> None:
    """Flush the file system that holds ``path``."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)
