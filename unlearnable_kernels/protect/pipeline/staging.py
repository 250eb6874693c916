"""Where a protected dataset grows until it is whole: DST.partial, its locks, its last step.

DST.partial/lock        held by whoever works here and by their workers: by one run, or by ranks that render
DST.partial/rendering   held by workers on other machines
DST.partial/plan.jsonl  what is being made; another plan is refused
DST.partial/restores    instead of a plan: what `restore` undoes here, signed by the key
DST.partial/records/    a file for each finished chunk, with the hashes of its files, signed by the key
DST.partial/tree/       becomes DST
DST.partial/parts/      what a format puts together in the end, such as the pixels of an .npz
DST.partial/work/       what a method needs before the first file, such as its optimised images
DST.partial/uploaded.json  the names of what was uploaded from here, signed by the key
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.manifest import MANIFEST_NAME
from unlearnable_kernels.data.remote import is_remote, refuse_misread_url, url_of
from unlearnable_kernels.errors import BusyError, UserError, shown
from unlearnable_kernels.files import parse_json, read_regular, resolved, writing
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.pipeline.plan_file import PLAN_NAME, read_head
from unlearnable_kernels.protect.pipeline.records import Records
from unlearnable_kernels.protect.pipeline.uploads import UPLOADED_NAME, upload_tree

# Workers of a killed run let go of the lock within moments; a live run does not.
LOCK_WAIT = 5.0
_LOCKS = ("lock", "rendering")
RESTORES_NAME = "restores"
_OWN = {*_LOCKS, PLAN_NAME, RESTORES_NAME, "records", "tree", "parts", "work", UPLOADED_NAME}
# What a kill in the middle of replacing one of them leaves behind.
_TEMPORARY = ".tmp"
# What exchanges two folders on Linux and on macOS, and what the current folder is to it.
_EXCHANGES = (("renameat2", -100), ("renameatx_np", -2))
_RENAME_EXCHANGE = 2


class Staging:
    """The staging folder of ``dst``, locked while this context manager is open.

    Args:
        dst: What it becomes.
        secret: Signs what is recorded there.
        planned: Whether it must be there already.
        shared: Whether others may work there in the same way: ranks, which render what is planned.

    Raises:
        BusyError: Another process is working there.
        UserError: It holds something else or a symbolic link, or is not there although it must be.
        WriteError: It cannot be written.
    """

    def __init__(self, dst: Path, secret: Secret, planned: bool = False, shared: bool = False) -> None:
        self.dst, self.secret, self.planned, self.shared = dst, secret, planned, shared
        self.folder = staging_folder(dst)
        self.tree = self.folder / "tree"
        self.parts = self.folder / "parts"
        self.work = self.folder / "work"
        self.records = Records(self.folder / "records", secret)
        self.lock = -1
        self._made: list[Path] = []

    def __enter__(self) -> "Staging":
        try:
            with writing(self.folder):
                self._acquire()
                self._refuse_foreign()
        except UserError:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, UserError) and self._is_empty:
            self.remove()
        self.close()

    def close(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
        self.lock = -1

    def _acquire(self) -> None:
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            self._refuse_no_folder()
            if self.planned and not self.folder.exists():
                raise UserError(
                    f"{self.folder} is not there: make a plan with `unlearnable plan`, unless "
                    f"{url_of(self.dst) if is_remote(self.dst) else self.dst.name} is finished"
                )
            self._made += [path for path in self.folder.parents if not path.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in (self.folder / name for name in _LOCKS):
                if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
                    raise self._strange(path)
            try:
                self.lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
                fcntl.flock(self.lock, (fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                # Whoever held it may have finished and removed the folder.
                if os.path.samestat(os.fstat(self.lock), (self.folder / "lock").stat()):
                    if not self.shared:
                        self._refuse_while_others_render()
                    return
            except (BlockingIOError, FileNotFoundError):
                pass
            self.close()
            if time.monotonic() > deadline:
                raise BusyError(f"another process is working on {self.folder}; wait for it, or end it")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise UserError, as entering it does, where nothing can be begun here; write nothing."""
        above = next(path for path in self.folder.parents if os.path.lexists(path))
        if not above.is_dir():
            raise UserError(f"{above} is not a folder; choose another name")
        self._refuse_no_folder()
        if self.folder.exists():
            with writing(self.folder):
                self._refuse_foreign()

    def _refuse_no_folder(self) -> None:
        if os.path.lexists(self.folder) and (self.folder.is_symlink() or not self.folder.is_dir()):
            what = "a symbolic link, which is not followed" if self.folder.is_symlink() else "not a folder"
            raise UserError(f"{self.folder} is {what}; delete it, or choose another name")

    def _refuse_foreign(self) -> None:
        names = {entry.name for entry in self.folder.iterdir()}
        foreign = sorted(name for name in names - _OWN if not name.endswith(_TEMPORARY))
        if foreign:
            raise UserError(
                f"{self.folder} is needed for {self.dst.name}, but holds {foreign[0]!r}; delete it if it "
                "is an unfinished run of another version, or choose another name"
            )
        if (strange := _find_strange(self.folder)) is not None:
            raise self._strange(strange)

    def _strange(self, path: Path) -> UserError:
        what = "a symbolic link" if path.is_symlink() else "a folder" if path.is_dir() else "not a file"
        return UserError(
            f"{shown(str(path))} is {what}, which no run leaves there; delete {self.folder} to start over"
        )

    def _refuse_while_others_render(self) -> None:
        """Raise BlockingIOError while workers on other machines, of a run that ended, still live."""
        if (self.folder / "rendering").exists():
            with holding(self.folder / "rendering", fcntl.LOCK_EX | fcntl.LOCK_NB):
                pass

    def refuse_run(self, name: str) -> None:
        """Raise UserError where another run, one that leaves a file of this name, has begun."""
        if (self.folder / name).exists():
            whose = "restoration" if name == RESTORES_NAME else "run of `unlearnable protect`"
            raise UserError(
                f"{self.folder} holds another unfinished {whose}; choose another name, or delete the folder"
            )

    @property
    def _is_empty(self) -> bool:
        """Whether nothing but the locks is here. A folder that is gone is not."""
        with contextlib.suppress(OSError):
            return {path.name for path in self.folder.iterdir()} <= set(_LOCKS)
        return False

    @property
    def is_bare(self) -> bool:
        """Whether nothing that took work is here yet."""
        done = (self.folder / "records", self.work)
        return not any(folder.is_dir() and any(folder.iterdir()) for folder in done)

    def keep_only(self, files: Collection[str]) -> None:
        """Delete what lies in the tree and the parts besides these files. Raises OSError."""
        for top in (self.tree, self.parts):
            for root, folders, names in os.walk(top, topdown=False):
                for path in (Path(root, name) for name in names):
                    if str(path) not in files:
                        path.unlink()
                for path in (Path(root, name) for name in folders):
                    if not any(path.iterdir()):
                        path.rmdir()

    def publish(
        self, replacing: bool = False, tell: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Flush the tree to disk, give it its final name, and delete the rest; or upload it.

        Args:
            replacing: Whether a finished set has that name: the two change places in one step.
            tell: Takes the progress of an upload.
        """
        if is_remote(self.dst):
            upload_tree(self.dst, self.folder, self.secret, tell)
            self.remove()
            return
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
        (self.folder / PLAN_NAME).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=whatever_can_be)
            elif path.name not in (*_LOCKS, RESTORES_NAME):
                path.unlink(missing_ok=True)
        # Last: estimates have no manifest that tells, when this is killed, that they are whole.
        (self.folder / RESTORES_NAME).unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the staging folder, the lock last: a process that waits for it may make the folder anew."""
        self.clear(whatever_can_be=True)
        with contextlib.suppress(OSError):
            for name in reversed(_LOCKS):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()
            for path in self._made:
                path.rmdir()  # where nothing came of it; a folder that holds something stays


def staging_folder(dst: Path) -> Path:
    """Beside ``dst``, hence on its file system, where a rename is one step; of a remote one, here.

    That of a URL is named after all of it: what was made for one place is not published at another.
    """
    if is_remote(dst):
        digest = hashlib.sha256(os.fsencode(url_of(dst))).hexdigest()
        return Path.cwd() / f"{dst.name}-{digest[:8]}.partial"
    return dst.with_name(dst.name + ".partial")


@contextlib.contextmanager
def holding(path: Path, how: int) -> Iterator[None]:
    """Hold the lock of a file, which is made where it is missing. Raises BlockingIOError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def destination(dst: Path) -> Path:
    """``dst`` as it is named from anywhere. Raises UserError as ``resolved`` and ``refuse_misread_url``."""
    refuse_misread_url(dst)
    return dst if is_remote(dst) else resolved(dst)


def scheme_at(dst: Path) -> int:
    """``Task.scheme`` of what was begun or finished at ``dst``, to go on with; 2 where nothing was."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        return int(parse_json(read_regular(dst / MANIFEST_NAME)).get("scheme", 1))
    with contextlib.suppress(UserError, ValueError, TypeError):
        head = read_head(staging_folder(dst))
        return 2 if head is None else int(head.header.get("scheme", 1))
    return 2


def differences(before: dict[str, Any], after: dict[str, Any], but: Collection[str] = ()) -> list[str]:
    """What differs between two manifest headers, by name, leaving out some names."""
    found = []
    for name in sorted((before.keys() | after.keys()) - set(but)):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and name == "parameters":
            each = {key: (old.get(key), new.get(key)) for key in (*new, *old)}
            found += [f"{key} ({was}, now {now})" for key, (was, now) in each.items() if was != now]
        elif old != new:
            found.append({"source_listing_sha256": "the source's files", "key": "the key"}.get(name, name))
    return found


def _find_strange(folder: Path) -> Path | None:
    """A symbolic link, pipe or the like in a folder or below it, if there is one; none is followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                return Path(entry.path)
            # Other ranks are at work: what was listed may be gone.
            if entry.is_dir():
                with contextlib.suppress(FileNotFoundError):
                    if (found := _find_strange(Path(entry.path))) is not None:
                        return found
            elif not entry.is_file() and os.path.lexists(entry.path):
                return Path(entry.path)
    return None


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change names in one step, which not every file system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = [(getattr(libc, name), here) for name, here in _EXCHANGES if hasattr(libc, name)]
    if not found:
        raise OSError(errno.ENOSYS, "this system cannot exchange two folders in one step")
    [(rename, here), *_] = found
    if rename(here, os.fsencode(one), here, os.fsencode(other), _RENAME_EXCHANGE) != 0:
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
