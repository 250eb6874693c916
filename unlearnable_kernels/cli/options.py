"""What several commands share: the option --plugin, and help in groups that ends with what can be chosen."""

import json
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from unlearnable_kernels.registry import Registry

# What can be chosen by name in which command.
LISTED = {
    "check": ("methods", "writers"),
    "protect": ("methods", "writers"),
    "plan": ("methods", "writers"),
    "preview": ("methods",),
    "train": ("networks", "defences"),
    "sweep": ("networks", "defences"),
}


def _load(plugins: list[str]) -> list[str]:
    from unlearnable_kernels.plugins import load_plugin

    for plugin in plugins or ():
        load_plugin(plugin)
    return plugins


Plugin = Annotated[
    list[str] | None,
    # Eager: before --help, which then lists what it brings.
    typer.Option(
        metavar="MODULE",
        callback=_load,
        is_eager=True,
        help="Import this module or .py file first, for what it registers; repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="cpu|cuda|cuda:N",
        help="Where to compute.  [default: the first GPU, or the CPU]",
        rich_help_panel="Computing",
    ),
]


def print_json(value: dict[str, Any]) -> None:
    """One object on standard output, for programs; what is not ASCII is escaped."""
    print(json.dumps(value, indent=2, allow_nan=False))


class Command(TyperCommand):
    """A command whose help groups options by their panel, and lists what is registered."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            heading = "Arguments" if parameter.param_type_name == "argument" else "Options"
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        listings = [listing(registries()[kind]) for kind in LISTED.get(self.name or "", ())]
        # Click leaves the lines of a paragraph that begins with a backspace alone.
        self.epilog = "\n\n".join(f"\b\n{text}" for text in listings)
        super().format_epilog(ctx, formatter)


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
