"""Errors that the caller can fix: one line that names the culprit and what is allowed."""


class UserError(ValueError):
    """Bad input. The command line prints the message alone and exits with status 2."""


class ImageError(UserError):
    """An image that cannot be processed as it is; ``--on-error skip`` lists it and goes on."""


class WriteError(UserError):
    """A file that cannot be written: a full disk, a read-only folder, no permission."""
