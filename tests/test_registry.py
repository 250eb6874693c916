"""Registries: things register themselves, are loaded when first asked for, and plug-ins add theirs."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from unlearnable_kernels import registry
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.registry import PLUGINS, Entry, Registry

PACKAGE = "toys_of_test_registry"
MODULE = """
from {package} import TOYS

@TOYS.register("{name}", "Toy {name}.", paper="Doe, 2020")
def make():
    return "{name}"
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with a registry and two modules that register a toy each."""
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from unlearnable_kernels.registry import Registry\nTOYS = Registry('toy', __name__)\n"
    )
    for name in ("top", "ball"):
        (folder / f"{name}.py").write_text(MODULE.format(package=PACKAGE, name=name))
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for module in [name for name in sys.modules if name.partition(".")[0] in (PACKAGE, "toy_plugin")]:
        del sys.modules[module]


@pytest.fixture
def toys(package: Path) -> Registry[object]:
    found: Registry[object] = __import__(PACKAGE).TOYS
    return found


def install(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    """Act as if packages with these plug-ins were installed."""
    points = [EntryPoint(value.replace("_", "-"), value, PLUGINS) for value in values]

    def entry_points(group: str) -> list[EntryPoint]:
        return points if group == PLUGINS else []

    monkeypatch.setattr(registry, "entry_points", entry_points)


def test_modules_are_imported_when_first_asked(toys: Registry[object]) -> None:
    assert f"{PACKAGE}.ball" not in sys.modules
    assert "ball" in toys
    assert f"{PACKAGE}.ball" in sys.modules
    assert "doll" not in toys


def test_names_are_sorted(toys: Registry[object]) -> None:
    toys.register("zeppelin", "Flies.")(lambda: "up")
    toys.register("ark", "Swims.")(lambda: "off")
    assert list(toys) == ["ark", "ball", "top", "zeppelin"]
    assert [entry.name for entry in toys.entries()] == list(toys)


def test_things_come_with_what_is_said_of_them(toys: Registry[object]) -> None:
    assert toys["ball"]() == "ball"  # type: ignore[operator]
    assert toys.entries() == [
        Entry("ball", toys["ball"], "Toy ball.", "Doe, 2020"),
        Entry("top", toys["top"], "Toy top.", "Doe, 2020"),
    ]


def test_an_unknown_name_is_answered_with_the_known_ones(toys: Registry[object]) -> None:
    with pytest.raises(UserError, match=r"^unknown toy 'doll': choose one of ball, top$"):
        toys["doll"]


def test_a_name_is_given_once(toys: Registry[object]) -> None:
    def another() -> None: ...

    before = toys["top"]
    with pytest.raises(ValueError, match="there is a toy named 'top' already"):
        toys.register("top", "Another.")(another)
    assert toys["top"] is before


def test_classes_learn_their_name_and_functions_are_left_alone(toys: Registry[object]) -> None:
    @toys.register("kite", "A class.")
    class Kite:
        name: str

    @toys.register("yo-yo", "A function.")
    def yo_yo() -> str:
        return "down"

    assert Kite.name == "kite"
    assert toys["kite"] is Kite
    assert toys["yo-yo"] is yo_yo
    assert not hasattr(yo_yo, "name")
    assert toys.entries()[1].paper == ""


def test_plugins_add_their_own(
    toys: Registry[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_plugin.py").write_text(MODULE.format(package=PACKAGE, name="doll"))
    install(monkeypatch, "toy_plugin")
    assert list(toys) == ["ball", "doll", "top"]


def test_a_plugin_that_fails_is_named(
    toys: Registry[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_plugin.py").write_text("raise RuntimeError('first\\nsecond')")
    install(monkeypatch, "toy_plugin")
    message = r"^plug-in toy-plugin \(toy_plugin\) cannot be imported: RuntimeError: first$"
    for _ in range(2):  # asked again, it does not pass over the plug-in
        with pytest.raises(UserError, match=message):
            list(toys)


@dataclass(frozen=True)
class Mower:
    """Something with settings."""

    blades: int = 2
    height: float = 0.5
    label: str | None = None
    computed: int = field(default=0, init=False)


def test_settings_follow_a_name(toys: Registry[Any]) -> None:
    toys.register("mower", "cuts")(Mower)
    assert toys.settings("mower") == {"blades": int, "height": float, "label": str | None}
    assert toys.create("mower") == Mower()
    assert toys.create("mower:blades=3,height=1/4,label=x") == Mower(3, 0.25, "x")
    assert toys.make("mower", {"blades": np.int64(3), "height": 1}) == Mower(3, 1)
    for text, message in (
        ("mower:wheels=4", "'wheels' is not a setting of toy mower: choose from blades, height, label"),
        ("mower:computed=1", "'computed' is not a setting of toy mower"),
        ("mower:blades=two", "blades must be a whole number, not 'two'"),
        ("rake:blades=2", "unknown toy 'rake'"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            toys.create(text)


@dataclass(frozen=True)
class Named:
    """A setting that would hide the name."""

    name: str = "x"


@dataclass(frozen=True)
class Choosing:
    """A setting of a type that text cannot be parsed to."""

    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Demanding:
    """A setting without a default."""

    sigma: float


def test_what_could_not_be_chosen_is_refused_at_once(toys: Registry[Any]) -> None:
    for name in ("", "a:b", "A", "a b", "-a", "a,b"):
        with pytest.raises(ValueError, match="cannot be named"):
            toys.register(name, "odd")(Mower)
    for kind, message in (
        (Named, "name cannot be"),
        (Choosing, "mode cannot be"),
        (Demanding, "needs a default"),
    ):
        with pytest.raises(TypeError, match=message):
            toys.register("odd", "odd")(kind)
    assert "odd" not in toys


def test_values_are_checked_like_texts(toys: Registry[Any]) -> None:
    toys.register("mower", "cuts")(Mower)
    for settings, message in (
        ({"blades": 2.5}, "toy mower: blades must be a whole number, not 2.5"),
        ({"blades": True}, "toy mower: blades must be a whole number, not True"),
        ({"height": "tall"}, "toy mower: height must be a number, not 'tall'"),
        ({"label": 3}, "toy mower: label must be text or none, not 3"),
        ({"wheels": 4}, "'wheels' is not a setting of toy mower"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            toys.make("mower", settings)


def test_a_plugin_cannot_take_the_name_of_one_of_ours(
    toys: Registry[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_plugin.py").write_text(MODULE.format(package=PACKAGE, name="ball"))
    install(monkeypatch, "toy_plugin")
    # Another registry is asked first, so that the plug-in comes before our own modules.
    with pytest.raises(
        UserError, match=r"^plug-in toy-plugin .*: ValueError: there is a toy named 'ball' already$"
    ):
        registry.load_plugins()
    assert "top" in toys._entries
