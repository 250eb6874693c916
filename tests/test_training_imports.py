"""Who may import whom around training: defences below it, methods of protection above."""

import ast
from pathlib import Path

import pytest

import unlearnable_kernels

PACKAGE = Path(unlearnable_kernels.__file__).parent


def imported(folder: str) -> set[str]:
    """The modules of this package that a folder's files import, anywhere in them."""
    found = set()
    for path in (PACKAGE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return {name.removeprefix("unlearnable_kernels.") for name in found if "unlearnable_kernels" in name}


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("defences", {"training", "protect", "recipes", "report", "cli"}),
        ("networks", {"training", "protect", "recipes", "report", "cli", "defences"}),
        ("training", {"protect", "recipes", "report", "cli"}),
        ("recipes", {"protect", "report", "cli"}),
    ],
)
def test_imports_go_down(folder: str, forbidden: set[str]) -> None:
    modules = imported(folder)
    assert modules
    assert not {name for name in modules if name.split(".")[0] in forbidden}


def test_methods_use_the_public_surface_of_training() -> None:
    of_training = {name for name in imported("protect/methods") if name.split(".")[0] == "training"}
    assert of_training == {"training"}
