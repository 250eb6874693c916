"""Numbers and settings as people write them: what they mean, and messages that name what does not fit."""

from typing import Any

import pytest

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.parsing import parse_number, parse_settings, parse_value, split_settings


@pytest.mark.parametrize(
    ("text", "value"), [("4/255", 4 / 255), ("8/255", 8 / 255), ("0.5", 0.5), ("1e-3", 1e-3), ("-2", -2.0)]
)
def test_numbers_may_be_fractions(text: str, value: float) -> None:
    assert parse_number("eps", text) == value


@pytest.mark.parametrize(
    "text", ["", "4/", "/4", "1/0", "eight", "1/2/3", "4:255", "nan", "inf", "1/inf/", "1e999", "1e99999999"]
)
def test_anything_else_is_named(text: str) -> None:
    with pytest.raises(UserError, match=f"^eps must be a number or a fraction such as 8/255, not '{text}'$"):
        parse_number("eps", text)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("true", bool, True),
        ("false", bool, False),
        ("12", int, 12),
        ("-3", int | None, -3),
        ("none", int | None, None),
        ("8/255", float, 8 / 255),
        ("none", float | None, None),
        ("median", float | str, "median"),
        ("0.5", float | str, 0.5),
        ("1/4", float | str | None, 0.25),
        ("none", float | str | None, None),
        ("none", str, "none"),
        ("", str, ""),
        ("5", str, "5"),
    ],
)
def test_values_have_the_type_asked_for(text: str, kind: Any, value: Any) -> None:
    parsed = parse_value("x", text, kind)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("yes", bool, "x must be true or false, not 'yes'"),
        ("True", bool, "x must be true or false, not 'True'"),
        ("1.5", int, "x must be a whole number, not '1.5'"),
        ("none", int, "x must be a whole number, not 'none'"),
        ("two", int | None, "x must be a whole number, not 'two'"),
        ("much", float, "x must be a number or a fraction such as 8/255, not 'much'"),
        ("none", float, "x must be a number or a fraction such as 8/255, not 'none'"),
        ("inf", float | None, "x must be a number or a fraction such as 8/255, not 'inf'"),
    ],
)
def test_values_that_do_not_fit_are_named(text: str, kind: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        parse_value("x", text, kind)


KINDS = {"eps": float, "steps": int | None, "norm": str}


def test_settings_are_parsed_by_name() -> None:
    assert parse_settings(["steps=none", "eps=4/255"], KINDS, "defence x") == {"steps": None, "eps": 4 / 255}
    assert parse_settings(["norm=a=b"], KINDS, "defence x") == {"norm": "a=b"}
    assert parse_settings([], {}, "defence x") == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["size=3"], "'size' is not a setting of defence x: choose from eps, steps, norm"),
        (["=3"], "'' is not a setting of defence x: choose from eps, steps, norm"),
        (["eps"], "defence x: give eps a value, as in eps=VALUE"),
        (["steps=1", "eps=1", "steps=2"], "defence x: steps is given twice, as 1 and as 2"),
        (["steps=few"], "steps must be a whole number, not 'few'"),
    ],
)
def test_settings_that_do_not_fit_are_named(texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        parse_settings(texts, KINDS, "defence x")


def test_what_has_no_settings_says_so() -> None:
    with pytest.raises(UserError, match=r"^'eps' is not a setting of defence x: it has none$"):
        parse_settings(["eps=1"], {}, "defence x")


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("erm", "erm", []),
        ("erm:", "erm", [""]),
        ("at-linf:eps=4/255,steps=10", "at-linf", ["eps=4/255", "steps=10"]),
        ("x:path=a:b", "x", ["path=a:b"]),
        ("x:a=1,", "x", ["a=1", ""]),
        ("", "", []),
    ],
)
def test_names_are_split_from_settings(text: str, name: str, settings: list[str]) -> None:
    assert split_settings(text) == (name, settings)
