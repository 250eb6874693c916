"""Errors that the caller can fix: one line that names the culprit and what is allowed."""


def shown(text: str) -> str:
    """``text`` as one printable line: control characters, line breaks and undecodable bytes are escaped.

    Whatever a file, an archive or a manifest calls something is written so, or a name could hold a line of
    its own, or what a terminal obeys.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    byte = ord(character) - 0xDC00  # a byte of a file's name that is not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


class UserError(ValueError):
    """Bad input. The command line prints the message alone and exits with status 2."""


class ImageError(UserError):
    """An image that cannot be processed as it is; ``--on-error skip`` lists it and goes on."""


class BusyError(UserError):
    """Another process is at work on the same; once it has ended, the same call goes on from there."""


class WriteError(UserError):
    """A file that cannot be written: a full disk, a read-only folder, no permission."""
