"""The option --config: a TOML file with a table for each command, of what is typed every time.

    [protect]
    key-file = "my.key"
    method = "classwise-conv:centred=true"
    workers = 4

    [verify]
    key-file = "my.key"

What is given on the command line comes first, and what does not go with it is left aside.
"""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.files import read_regular

_running: typer.Context | None = None  # Typer's own function for it has another home in each version


def read_config(
    path: Path, command: str, options: dict[str, Any], commands: Collection[str]
) -> dict[str, Any]:
    """The values that a file gives to the options of one command.

    Args:
        path: The file.
        command: Its name.
        options: Of the command, by their names without dashes in front; Click's.
        commands: The names of all commands.

    Returns:
        Values by the options' parameters.

    Raises:
        UserError: The file cannot be read, is not TOML, or has a key or a value that does not fit.
    """
    toml = extra_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        tables = toml.loads(read_regular(path).decode())
    except OSError as error:
        raise UserError(f"{shown(str(path))}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(str(path))}: not TOML: {shown(str(error))}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{shown(str(path))}: {shown(name)} must stand below [{command}], or the like")
        if name not in commands:
            raise UserError(f"{shown(str(path))}: [{shown(name)}] is no command")
    values = {}
    for name, value in tables.get(command, {}).items():
        place = f"{shown(str(path))}: [{command}] {shown(name)}"
        if name not in options:
            raise UserError(f"{place}: no such option; there are {', '.join(sorted(options))}")
        option = options[name]
        values[option.name] = _checked(place, value, option)
    return values


def _checked(place: str, value: Any, option: Any) -> Any:
    """The value as Click takes it: text as on the command line, unless it is a flag."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise UserError(f"{place} must be true or false, not {value!r}")
        return value
    several = value if option.multiple and isinstance(value, list) else [value]
    for each in several:
        if isinstance(each, bool) or not isinstance(each, str | int | float):
            raise UserError(f"{place} must be text or a number, not {each!r}")
    try:
        texts = [str(each) for each in several]
    except ValueError:
        raise UserError(f"{place} is a number of too many digits") from None
    return texts if option.multiple else texts[0]


def typed(*names: str) -> bool:
    """Whether one of these parameters of the command that runs was given on the command line."""
    sources = [] if _running is None else [_running.get_parameter_source(name) for name in names]
    return any(source is not None and source.name == "COMMANDLINE" for source in sources)


def _apply(context: typer.Context, path: Path | None) -> Path | None:
    global _running
    _running = context
    if path is not None:
        command = context.command
        options = {
            name.lstrip("-"): each
            for each in command.params
            if each.param_type_name == "option" and each.name != "config"
            for name in each.opts
        }
        group: Any = context.find_root().command
        context.default_map = read_config(path, str(command.name), options, group.commands)
    return path


Config = Annotated[
    Path | None,
    # Eager: before the options that it gives values to.
    typer.Option(
        metavar="FILE",
        callback=_apply,
        is_eager=True,
        help="TOML with a table for each command, such as [protect], of options and their values.",
    ),
]
