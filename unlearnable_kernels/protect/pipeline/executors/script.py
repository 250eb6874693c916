"""What worker processes need of a script that defines a method itself: pickles name its classes __main__."""

import io
import pickle
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.plugins import main_file
from unlearnable_kernels.registry import MAIN

_importing: list[str] = []


def pickled(value: Any) -> tuple[bytes, str | None]:
    """Pickle what goes to worker processes.

    Returns:
        The bytes, and the script that must be imported before they are unpickled, if any.

    Raises:
        UserError: They need what was typed in, which no other process can import, or cannot be pickled.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    try:
        pickler.dump(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"worker processes cannot be sent the method or format ({error}): "
            "define it at the top of a module, or give workers=0"
        ) from error
    if not pickler.of_main:
        return stream.getvalue(), None
    script = main_file()
    if script is None:
        raise UserError(
            f"{pickler.of_main} was typed in, which worker processes cannot import: "
            "put it into a file, or give workers=0"
        )
    return stream.getvalue(), str(script)


class _Pickler(pickle.Pickler):
    """Notes a class or function of the script that runs, by its name."""

    of_main = ""

    def reducer_override(self, value: Any) -> Any:
        if getattr(value, "__module__", None) in MAIN:
            self.of_main = getattr(value, "__qualname__", type(value).__qualname__)
        return NotImplemented


def import_script(script: str) -> None:
    """In a worker process, import the script as ``__main__``, without what it guards.

    Raises:
        UserError: It protects a dataset when it is imported.
    """
    loader = SourceFileLoader(MAIN[1], script)
    spec = spec_from_loader(MAIN[1], loader)
    assert spec is not None
    main = module_from_spec(spec)
    sys.modules.update(dict.fromkeys(MAIN, main))
    _importing.append(script)
    try:
        loader.exec_module(main)
    finally:
        _importing.pop()


def imported_script() -> str | None:
    """The script that a worker process is importing, in whichever of its threads."""
    return _importing[-1] if _importing else None
