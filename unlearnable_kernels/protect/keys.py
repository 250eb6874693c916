"""The secret behind a protection, a private key or an integer seed, and everything derived from it.

Derivation is SHAKE-256 over an unambiguous encoding (every part carries its type and its length, the
purpose and the wanted length are parts too), so that no two uses of a key ever share bytes and each value
can be computed without the others.
"""

import hashlib
import hmac
import os
import secrets
import stat
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from unlearnable_kernels.data.manifest import canonical
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import writing

VERSION_LINE = "unlearnable-key-v1"
KEY_BYTES = 32
_DOMAIN = b"unlearnable_kernels.key.v1"
_FILE_LIMIT = 4096
SEED_WARNING = (
    "an integer seed is not a secret: anyone can try out all 2^32 of them; "
    "use seed compatibility to reproduce published data, and a key to protect your own"
)


@dataclass(frozen=True)
class Key:
    """256 secret bits (``material``, 32 bytes). ``repr`` does not show them."""

    material: bytes = field(repr=False)
    kind: ClassVar[str] = "key"

    def __post_init__(self) -> None:
        if len(self.material) != KEY_BYTES:
            raise UserError(f"a key has {KEY_BYTES} bytes, not {len(self.material)}")

    @classmethod
    def generate(cls) -> "Key":
        """A fresh key from the operating system's generator."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def derive(self, purpose: str, *context: str | bytes | int | float, length: int) -> bytes:
        """``length`` bytes that only the holder of the key can compute.

        Args:
            purpose: What they are for.
            *context: Further parts; bytes for different purposes or parts are independent.
            length: How many.
        """
        return derived(_DOMAIN, self.material, purpose, *context, length=length)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits by which a key is recognised; nothing leads back from them to the key."""
        return self.derive("fingerprint", length=16).hex()

    def mac(self, message: bytes) -> str:
        """HMAC-SHA256 of ``message`` under a derived key, as 64 hexadecimal digits."""
        return hmac.new(self.derive("mac", length=32), message, hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Seed:
    """An integer seed, no secret, which gives the released program's filters and subset bit for bit.

    It serves wherever a ``Key`` does. What it derives for the manifest is slow to compute (scrypt), but
    anyone can try it out, like the seed itself.

    Args:
        seed: From 0 to 2³² - 1.

    Raises:
        UserError: The seed is out of range.
    """

    seed: int = field(repr=False)
    kind: ClassVar[str] = "seed-compat"

    def __post_init__(self) -> None:
        check_seed(self.seed)
        warnings.warn(SEED_WARNING, stacklevel=3)

    @cached_property
    def _stretched(self) -> bytes:
        salt = b"unlearnable_kernels.seed-compat.v1"
        return hashlib.scrypt(
            str(int(self.seed)).encode(), salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32
        )

    def derive(self, purpose: str, *context: str | bytes | int | float, length: int) -> bytes:
        """As ``Key.derive``, for what the released program does not define."""
        domain = b"unlearnable_kernels.seed-compat.derived.v1"
        return derived(domain, self._stretched, purpose, *context, length=length)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits by which the seed is recognised."""
        return self.mac(b"fingerprint")[:32]

    def mac(self, message: bytes) -> str:
        """HMAC-SHA256 of ``message``, as 64 hexadecimal digits."""
        return hmac.new(self._stretched, message, hashlib.sha256).hexdigest()


Secret = Key | Seed


def derived(
    domain: bytes, secret: bytes, purpose: str, *context: str | bytes | int | float, length: int
) -> bytes:
    """SHAKE-256 over the parts, each with its type and its length: the derivation of docs/maths.md."""
    parts = (domain, secret, purpose, length, *context)
    return hashlib.shake_256(b"".join(map(_encode, parts))).digest(length)


def _encode(part: str | bytes | int | float) -> bytes:
    if isinstance(part, str):
        tag, body = b"s", part.encode()
    elif isinstance(part, bytes):
        tag, body = b"b", part
    elif isinstance(part, int):
        tag, body = b"i", str(int(part)).encode()
    else:
        tag, body = b"f", struct.pack(">d", part)
    return tag + len(body).to_bytes(8, "big") + body


def create_key_file(path: Path) -> Key:
    """Write a fresh key to ``path``, readable by its owner alone.

    Raises:
        UserError: ``path`` exists already: an overwritten key could not be recovered.
        WriteError: It cannot be written.
    """
    key = Key.generate()
    text = f"{VERSION_LINE}\n{key.material.hex()}\n".encode()
    with writing(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise UserError(
                f"{path}: exists already, and a key is never overwritten; choose another name"
            ) from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return key


def read_key_file(path: Path, *, insecure_permissions: bool = False) -> Key:
    """The key in ``path``. No message repeats what the file holds.

    Args:
        path: A file that ``create_key_file`` wrote.
        insecure_permissions: Accept a file on which its group or others have a permission.

    Raises:
        UserError: The file is missing or malformed, or others may use it.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_FILE_LIMIT) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise UserError(f"{path}: the key file cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: a key is a regular file, this is not one")
    if mode & 0o077 and not insecure_permissions:
        raise UserError(
            f"{path}: others may use this key (mode {stat.S_IMODE(mode):04o}); "
            f"run `chmod 600 {path}`, or allow it with --insecure-key-permissions"
        )
    return Key(_parse(data, path))


def _open_at_once(path: str, flags: int) -> int:
    # A named pipe is to be refused, not waited for.
    return os.open(path, flags | os.O_NONBLOCK)


def _parse(data: bytes, path: Path) -> bytes:
    try:
        lines = data.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a key file (it is not ASCII text)") from None
    if not lines or lines[0] != VERSION_LINE:
        raise UserError(f"{path}: not a key file: its first line must be {VERSION_LINE!r}")
    if len(lines) != 2:
        raise UserError(f"{path}: malformed key file: it must have 2 lines, it has {len(lines)}")
    digits = lines[1]
    if len(digits) != 2 * KEY_BYTES or set(digits) - set("0123456789abcdefABCDEF"):
        raise UserError(f"{path}: malformed key file: line 2 must be {2 * KEY_BYTES} hexadecimal digits")
    return bytes.fromhex(digits)


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed must be in [0, 2^32), not {seed}")


def sign(manifest: dict[str, Any], secret: Secret) -> dict[str, Any]:
    """``manifest`` with its ``mac``, an HMAC-SHA256 of the rest under ``secret``."""
    return {**manifest, "mac": secret.mac(canonical(manifest))}


def is_signed_by(manifest: Mapping[str, Any], secret: Secret) -> bool:
    """Whether ``secret`` signed exactly this manifest."""
    unsigned = {name: value for name, value in manifest.items() if name != "mac"}
    return hmac.compare_digest(manifest["mac"].encode(), secret.mac(canonical(unsigned)).encode())
