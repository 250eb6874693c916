"""The option --config: what it gives, what comes before it, and one line for what does not fit."""

from pathlib import Path
from typing import Any

import pytest
import typer
from small_runs import write_tree

from unlearnable_kernels.cli import app
from unlearnable_kernels.cli.config_file import read_config
from unlearnable_kernels.data.manifest import read_manifest
from unlearnable_kernels.errors import UserError

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = {
    name.lstrip("-"): each
    for each in COMMANDS["protect"].params
    if each.param_type_name == "option"
    for name in each.opts
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "unlearnable.toml"


def test_options_come_from_the_file_unless_they_are_given(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(
        '[protect]\nkey-file = "my.key"\nfraction = 0.5\nworkers = 3\nextend = true\n'
        'earlier = ["a", "b"]\nmethod = "random-noise"\n[train]\nwhatever = 1\n'
    )
    seen: dict[str, Any] = {}

    group: Any = typer.main.get_command(app)
    monkeypatch.setattr(group.commands["protect"], "callback", lambda **given: seen.update(given))
    group(["protect", "src", "dst", "--config", str(file), "--workers", "1"], standalone_mode=False)
    assert str(seen["key_file"]) == "my.key"
    assert (seen["fraction"], seen["workers"], seen["extend"]) == (0.5, 1, True)
    assert [str(each) for each in seen["earlier"]] == ["a", "b"]
    assert (seen["method"], seen["resize"]) == ("random-noise", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[protect]\nmetod = "x"', r"\[protect\] metod: no such option; there are accept-exposure, .*method"),
        ('[protekt]\nmethod = "x"', r"\[protekt\] is no command"),
        ("workers = 4", r"workers must stand below \[protect\]"),
        ("[protect]\nworkers = [4]", r"workers must be text or a number, not \[4\]"),
        ("[protect]\nworkers = true", "workers must be text or a number, not True"),
        ("[protect]\nextend = 1", "extend must be true or false, not 1"),
        ("[protect]\nearlier = [[]]", r"earlier must be text or a number, not \[\]"),
        ("[protect", "not TOML"),
        ("[protect]\nmethod = 'x'\nmethod = 'y'", "not TOML"),
        ("a = " + "[" * 5000, "not TOML"),
    ],
)
def test_what_does_not_fit_is_one_line(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_config(file, "protect", OPTIONS, COMMANDS)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_no_file(file: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_config(file, "protect", OPTIONS, COMMANDS)
    file.write_bytes(b"\xff")
    with pytest.raises(UserError, match="not TOML"):
        read_config(file, "protect", OPTIONS, COMMANDS)


def test_a_bad_value_is_clicks_own_line(file: Path) -> None:
    file.write_text('[protect]\nworkers = "four"\n')
    with pytest.raises(Exception, match="should be a valid integer"):
        typer.main.get_command(app)(["protect", "a", "b", "--config", str(file)], standalone_mode=False)


def run(*arguments: object) -> None:
    typer.main.get_command(app)([*map(str, arguments)], standalone_mode=False)


def test_what_does_not_go_with_the_command_line_is_left_aside(file: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "zoo", ["cat", "dog"], 2, seed=0)
    run("keygen", tmp_path / "my.key")
    how = f"key-file = '{tmp_path / 'my.key'}'\nintensity = 'mild'\n"
    file.write_text(f"[protect]\n{how}workers = 0\n[preview]\n{how}")
    places = (tmp_path / "zoo", tmp_path / "set")
    run("protect", *places, "--config", file, "--method", "classwise-conv:intensity=strong")
    assert read_manifest(places[1])["parameters"]["kernel_size"] == 5
    run("protect", *places, "--config", file, "--extend")
    with pytest.raises(UserError, match="with --extend, DST's manifest says how"):
        run("protect", *places, "--config", file, "--extend", "--intensity", "mild")
    run("protect", places[0], tmp_path / "seeded", "--config", file, "--seed-compat", 1)
    assert read_manifest(tmp_path / "seeded")["key"]["kind"] == "seed-compat"
    run("preview", places[0], "--config", file, "--protected", places[1], "--out", tmp_path / "sheet.png")
