"""The command line, ``unlearnable``: each command turns its options into one call of a public function."""

import os
import sys
import textwrap
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

import unlearnable_kernels
from unlearnable_kernels.cli.evaluate_commands import demo, evaluate, report
from unlearnable_kernels.cli.protect_commands import keygen, preview, protect, verify
from unlearnable_kernels.cli.reproduce_commands import reproduce
from unlearnable_kernels.cli.theory_commands import theory
from unlearnable_kernels.cli.train_commands import sweep, train
from unlearnable_kernels.errors import UserError

if TYPE_CHECKING:
    from unlearnable_kernels.registry import Registry

app = typer.Typer(
    name="unlearnable",
    help="Publish image datasets that models cannot learn from without your consent.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
UsageError: Any = typer.BadParameter.__base__


def info() -> None:
    """Print versions, the machine, which kernels are in use, and everything that can be chosen by name.

    Example: unlearnable info
    """
    from unlearnable_kernels.environment import machine, versions
    from unlearnable_kernels.ops.native import cpu_backend, cuda_backend

    print(f"cpu kernels: {cpu_backend()}")
    print(f"cuda kernels: {cuda_backend()}")
    for name, value in (versions() | machine()).items():
        print(f"{name}: {value}")
    for registry in registries().values():
        print(f"\n{listing(registry)}")


# In the order of --help.
COMMANDS: tuple[Callable[..., None], ...] = (
    keygen,
    protect,
    verify,
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
# What can be chosen by name in which command.
LISTED = {
    "protect": ("methods", "writers"),
    "preview": ("methods",),
    "train": ("networks", "defences"),
    "sweep": ("networks", "defences"),
}
for command in COMMANDS:
    app.command()(command)


def registries() -> "dict[str, Registry[Any]]":
    """Everything that can be chosen by name."""
    from unlearnable_kernels.data.formats import FORMATS, WRITERS
    from unlearnable_kernels.defences import DEFENCES
    from unlearnable_kernels.networks import NETWORKS
    from unlearnable_kernels.protect.methods.method import METHODS

    return {
        "methods": METHODS,
        "networks": NETWORKS,
        "defences": DEFENCES,
        "formats": FORMATS,
        "writers": WRITERS,
    }


def listing(registry: "Registry[Any]") -> str:
    """What is registered, for people: names with descriptions, papers and settings."""
    lines = [f"{registry.kind[0].upper()}{registry.kind[1:]}s:"]
    for entry in registry.entries():
        settings = registry.settings(entry.name)
        text = entry.description + (f" ({entry.paper})" if entry.paper else "")
        text += f"; settings: {', '.join(settings)}" if settings else ""
        lines += textwrap.wrap(f"  {entry.name}: {text}", 78, subsequent_indent="      ")
    return "\n".join(lines)


def add_listings(command: Any) -> None:
    """End the help of every command that takes a registered name with what is registered."""
    for name, kinds in LISTED.items():
        # Click leaves the lines of a paragraph that begins with a backspace alone.
        command.commands[name].epilog = "\n\n".join(f"\b\n{listing(registries()[kind])}" for kind in kinds)


def _say(message: object) -> None:
    if os.environ.get("RANK", "0") == "0":  # one line, however many processes torchrun started
        print(f"unlearnable: {message}", file=sys.stderr)


def main() -> None:
    """Entry point: exit status 0, 1 for a failed check, 2 for bad input with one line, 130 if interrupted."""
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
    try:
        unlearnable_kernels.cpu_capability()  # an instruction set that there is not is found now
        command = typer.main.get_command(app)
        if "--help" in sys.argv:
            add_listings(command)
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
