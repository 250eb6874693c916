"""The command line, ``unlearnable``: each command turns its options into one call of a public function."""

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

import unlearnable_kernels
from unlearnable_kernels.cli.evaluate_commands import demo, evaluate, report
from unlearnable_kernels.cli.options import AsJson, Command, Plugin, listing, print_json, registries
from unlearnable_kernels.cli.protect_commands import check, keygen, preview, protect, verify
from unlearnable_kernels.cli.reproduce_commands import reproduce
from unlearnable_kernels.cli.restore_commands import restore
from unlearnable_kernels.cli.stages_commands import finish, plan, render
from unlearnable_kernels.cli.theory_commands import theory
from unlearnable_kernels.cli.train_commands import sweep, train
from unlearnable_kernels.data.remote import refuse_hostless
from unlearnable_kernels.errors import UserError, shown

app = typer.Typer(
    name="unlearnable",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
UsageError: Any = typer.BadParameter.__base__


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"unlearnable_kernels {unlearnable_kernels.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Publish image datasets that models cannot learn from without your consent."""


def info(json: AsJson = False, plugin: Plugin = None) -> None:
    """Print versions, the machine, which kernels are in use, and everything that can be chosen by name.

    Example: unlearnable info
    """
    from unlearnable_kernels.environment import machine, versions
    from unlearnable_kernels.ops.native import cpu_backend, cuda_backend

    here = {"cpu kernels": cpu_backend(), "cuda kernels": cuda_backend(), **versions(), **machine()}
    if json:
        print_json(here | {kind: list(registry) for kind, registry in registries().items()})
        return
    for name, value in here.items():
        print(f"{name}: {value}")
    for registry in registries().values():
        print(f"\n{listing(registry)}")


# In the order of --help.
COMMANDS: tuple[Callable[..., None], ...] = (
    keygen,
    check,
    protect,
    plan,
    render,
    finish,
    verify,
    restore,
    preview,
    train,
    sweep,
    evaluate,
    report,
    reproduce,
    theory,
    demo,
    info,
)
for command in COMMANDS:
    app.command(cls=Command)(command)


def _say(message: object) -> None:
    # One line, however many processes torchrun started; but the ranks of `render` each have their own.
    if os.environ.get("RANK", "0") == "0" or sys.argv[1:2] == ["render"]:
        print(f"unlearnable: {shown(str(message))}", file=sys.stderr)


def _terminate(*_: object) -> None:
    """On SIGTERM, work in progress ends as on Ctrl-C, and says how to resume."""
    sys.exit(128 + signal.SIGTERM)


def main() -> None:
    """Entry point.

    Exit status 0, 1 for a failed check, 2 for bad input with one line, 130 if interrupted, 143 if terminated.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files are not always UTF-8
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
    try:
        unlearnable_kernels.cpu_capability()  # an instruction set that there is not is found now
        for argument in sys.argv[1:]:
            refuse_hostless(argument)
        command = typer.main.get_command(app)
        sys.exit(command(sys.argv[1:] or ["--help"], standalone_mode=False))
    except UserError as error:
        _say(error)
    except UsageError as error:
        _say(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else error)
    sys.exit(2)
