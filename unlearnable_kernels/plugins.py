"""Modules from outside: loaded by name or by file, and told apart by the hash of their source."""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.registry import MAIN, Registry

_given: list[str] = []


def load_plugin(plugin: str) -> None:
    """Import a module that registers things, before their names are looked up.

    Args:
        plugin: The name of a module, in the current directory or installed; or the path of a .py file, whose
            folder and name then say how others import it.

    Raises:
        UserError: It cannot be imported, or another module has its name.
    """
    path = Path(plugin).resolve() if plugin.endswith(".py") else None
    if path is not None and not path.is_file():
        raise UserError(f"plug-in {plugin}: no such file")
    name = plugin if path is None else path.stem
    folder = str(Path.cwd() if path is None else path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that no file of the user's hides an installed module
    try:
        module = import_module(name)
    # A script that is not kept from running ends in SystemExit.
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"plug-in {plugin} cannot be imported: {reason}") from error
    found = getattr(module, "__file__", None)
    if path is not None and (found is None or Path(found).resolve() != path):
        raise UserError(f"plug-in {plugin} has the name of another module, {found or name}: rename the file")
    if name not in _given:
        _given.append(name)


def describe_plugins(used: Iterable[tuple[Registry[Any], str]]) -> dict[str, dict[str, Any]]:
    """The modules from outside that things come from, for a record.

    Those that ``load_plugin`` imported count in any case: a module may change more than it registers.

    Args:
        used: A registry, and a name in it that is in use.

    Returns:
        By module, the names of its top-level packages: "sha256" of its source, or None where it has none, as
        in a notebook; and "provides", what is used of it, such as "network three-convs".
    """
    provided: dict[str, list[str]] = {_top(name): [] for name in _given}
    for registry, name in used:
        origin = registry.origin(name)
        if origin is not None:
            provided.setdefault(_top(origin), []).append(f"{registry.kind} {name}")
    return {
        module: {"sha256": source_digest(module), "provides": sorted(set(names))}
        for module, names in sorted(provided.items())
    }


def changed_plugin(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In what two results of ``describe_plugins`` differ, in a few words; None where they are the same."""
    for module in sorted({*before, *now}):
        if module not in now:
            return f"plug-in {module} was used then and is not now"
        if module not in before:
            return f"plug-in {module} was not used then"
        if now[module]["sha256"] is None:
            return f"plug-in {module} has no source file that could be compared"
        if before[module] != now[module]:
            return f"plug-in {module} has changed since"
    return None


def require_plugins(recorded: Mapping[str, Any], registries: Iterable[Registry[Any]], owner: str) -> None:
    """Check that what was used of plug-ins is there again.

    Args:
        recorded: A result of ``describe_plugins``.
        registries: Those that names were looked up in.
        owner: What messages say it was used for.

    Raises:
        UserError: A name is not there, or comes from another module; the message says which plug-in to give.
    """
    known = {registry.kind: registry for registry in registries}
    for module, plugin in recorded.items():
        for each in plugin["provides"]:
            kind, _, name = str(each).rpartition(" ")
            if kind not in known:
                raise UserError(f"{owner} is damaged: it says that the plug-in {module} provides {each!r}")
            if name in known[kind] and _top(known[kind].origin(name) or "") == module:
                continue
            raise UserError(
                f"{owner} used {each} of the plug-in {module}: "
                f"give --plugin {module}, or the path of its file"
            )


def source_digest(module: str) -> str | None:
    """SHA-256, in hex, of a loaded module's source files, by name: of a package all that is below it.

    Args:
        module: Its name, as in ``describe_plugins``.

    Returns:
        None if it has no file, as in a notebook.
    """
    loaded = _loaded(module)
    file = getattr(loaded, "__file__", None)
    folders = [Path(folder) for folder in getattr(loaded, "__path__", ())]
    files = [(path.relative_to(folder), path) for folder in folders for path in folder.rglob("*.py")]
    if not folders and file is not None and Path(file).is_file():
        files = [(Path(Path(file).name), Path(file))]
    digest = hashlib.sha256()
    for name, path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{name.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest() if files else None


def main_file() -> Path | None:
    """The script that runs in this process; None in a notebook or where commands are typed in."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return Path(file).resolve() if file is not None and Path(file).is_file() else None


def _top(module: str) -> str:
    """The top-level package; of a script, the name by which ``load_plugin`` would import it."""
    file = main_file()
    if module in MAIN and file is not None:
        return file.stem
    return module.partition(".")[0]


def _loaded(module: str) -> ModuleType | None:
    file = main_file()
    if module not in sys.modules and file is not None and file.stem == module:
        return sys.modules["__main__"]
    return sys.modules.get(module)
