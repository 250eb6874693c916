"""Registries of named things: methods, networks, defences and data formats, ours and those of plug-ins."""

import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, get_type_hints

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.parsing import (
    SETTING_KINDS,
    check_setting,
    check_value,
    kinds_of,
    parse_settings,
    split_settings,
)

PLUGINS = "unlearnable_kernels.plugins"
"""The entry-point group of packages that register things of their own; each entry is a module to import."""

MAIN = ("__main__", "__mp_main__")  # the script in the first process, and in those that it starts

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered thing.

    Attributes:
        name: What users call it.
        item: The thing itself.
        description: One line for help texts.
        paper: Where it was published; empty if nowhere.
        module: The module that registered it.
    """

    name: str
    item: T
    description: str
    paper: str
    module: str = field(default="", compare=False)


class Registry(Generic[T]):
    """Things of one kind by name, which register themselves where they are defined.

    Args:
        kind: What a thing is called in messages, such as "network".
        package: Name of the package that has one module for each of our own. These, and plug-ins, are
            imported when the registry is first asked.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, Entry[T]] = {}
        self._loaded = False

    def register(self, name: str, description: str, paper: str = "") -> Callable[[S], S]:
        """Register a class or a function.

        Args:
            name: What users call it. A class also gets it as its attribute ``name``.
            description: One line for help texts.
            paper: Where it was published, such as "Madry et al., ICLR 2018".

        Returns:
            A decorator, which gives back what it is put on.

        Raises:
            ValueError: Another thing of this kind has the name, or the name cannot be written in an option.
                This, like the next, is raised when the decorator is applied.
            TypeError: A field of a dataclass cannot be a setting, or has no default.
        """
        # Not the item's own module: a plug-in may register what another package defines.
        module = str(sys._getframe(1).f_globals.get("__name__", ""))

        def decorate(item: S) -> S:
            if not f"{module}.".startswith(f"{self._package}."):
                self._load_own()  # so that a plug-in cannot take the name of one of ours
            if module in MAIN and self.origin(name) in MAIN:
                del self._entries[name]  # a cell that is run again, a script imported again
            self._check(name, item)
            if isinstance(item, type):
                item.name = name  # type: ignore[attr-defined]
            entry: Entry[Any] = Entry(name, item, description, paper, module)
            self._entries[name] = entry
            return item

        return decorate

    def _check(self, name: str, item: Any) -> None:
        """Refuse what could not be chosen, or not be given its settings, as "NAME:setting=value"."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"a {self.kind} cannot be named {name!r}: use a-z, 0-9, '.', '_' and '-'")
        if name in self._entries:
            raise ValueError(f"there is a {self.kind} named {name!r} already")
        for setting, kind in _settings(item).items():
            if setting == "name" or not set(kinds_of(kind)) <= SETTING_KINDS.keys():
                raise TypeError(
                    f"{self.kind} {name}: {setting} cannot be a setting: settings are bool, int, float or "
                    "str, or one of these and None, and none is called name"
                )
        for each in fields(item) if is_dataclass(item) else ():
            if each.init and each.default is MISSING and each.default_factory is MISSING:
                raise TypeError(f"{self.kind} {name}: the setting {each.name} needs a default")

    def __getitem__(self, name: str) -> T:
        """The thing called ``name``.

        Raises:
            UserError: There is none; the message lists the names.
        """
        self._load()
        if name not in self._entries:
            raise UserError(f"unknown {self.kind} {name!r}: choose one of {', '.join(self)}")
        return self._entries[name].item

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        self._load()
        return iter(sorted(self._entries))

    def create(self, text: str) -> Any:
        """The thing that "NAME:setting=value,…" describes, for registries of dataclasses.

        Args:
            text: A name, and after a colon values for some of the fields of its dataclass.

        Returns:
            An instance of the dataclass. Fields that are not given keep their defaults.

        Raises:
            UserError: The name or a setting is unknown, or a value does not fit.
        """
        name, settings = split_settings(text)
        return self.make(name, parse_settings(settings, self.settings(name), f"{self.kind} {name}"))

    def make(self, name: str, settings: Mapping[str, Any]) -> Any:
        """As ``create``, from values by the name of the setting."""
        kinds, owner = self.settings(name), f"{self.kind} {name}"
        for setting, value in settings.items():
            check_setting(setting, kinds, owner)
            check_value(f"{owner}: {setting}", value, kinds[setting])
        item: Any = self._entries[name].item
        try:
            return item(**settings)
        except UserError as error:
            raise UserError(f"{owner}: {error}") from None

    def settings(self, name: str) -> dict[str, Any]:
        """The type of each field of ``name``'s dataclass; none for what is not a dataclass."""
        return _settings(self[name])

    def origin(self, name: str) -> str | None:
        """The module from outside that registered ``name``; None for ours, and for what there is not."""
        entry = self._entries.get(name)
        ours = self._package.partition(".")[0]
        module = ours if entry is None else entry.module or ours
        return None if module.partition(".")[0] == ours else module

    def entries(self) -> list[Entry[T]]:
        """All entries, sorted by name."""
        return [self._entries[name] for name in self]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # before the imports, which may ask in turn
        try:
            self._load_own()
            load_plugins()
        except BaseException:
            self._loaded = False  # an incomplete set must not pass for a whole one
            raise

    def _load_own(self) -> None:
        for module in pkgutil.iter_modules(import_module(self._package).__path__):
            import_module(f"{self._package}.{module.name}")


def _settings(item: Any) -> dict[str, Any]:
    if not is_dataclass(item):
        return {}
    kinds = get_type_hints(item)
    return {each.name: kinds[each.name] for each in fields(item) if each.init}


def load_plugins() -> None:
    """Import the modules that installed packages name under the entry-point group ``PLUGINS``.

    Raises:
        UserError: One of them cannot be imported.
    """
    for plugin in entry_points(group=PLUGINS):
        try:
            plugin.load()
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"plug-in {plugin.name} ({plugin.value}) cannot be imported: {reason}") from error
