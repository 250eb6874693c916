"""Imports go down, from the command line to the ground floor, and never up or across."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "unlearnable_kernels"
GROUND = {"errors", "extras", "files", "environment", "device", "parsing", "plugins", "progress", "registry"}
# Each part may import itself, the ground floor, and what is named here.
ALLOWED = {
    "ops": {"triton_kernels", "_C", "_C_cuda"},
    "triton_kernels": {"ops"},
    "data": {"ops"},
    "networks": set(),
    "defences": {"data", "networks", "ops"},
    "training": {"data", "defences", "networks", "ops"},
    "protect": {"data", "ops", "networks", "training"},
    "datasets": {"data", "protect"},
    "transforms": {"ops", "protect"},
    "recipes": {"data", "defences", "networks", "ops", "protect", "training"},
    "report": {"data", "defences", "networks", "protect", "recipes", "training"},
    "theory": set(),
    "demo": {"data", "protect", "report", "training"},
    "cli": {
        "data",
        "defences",
        "demo",
        "networks",
        "ops",
        "protect",
        "recipes",
        "report",
        "theory",
        "training",
    },
    "__main__": {"cli"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, wherever in it; "" is the package itself."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        assert not (isinstance(node, ast.ImportFrom) and node.level), "relative imports hide where they lead"
        modules |= {name.partition(".")[2] for name in names if name.split(".")[0] == PACKAGE.name}
    return modules


def part_of(module: str) -> str:
    return module.split(".")[0]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def test_every_part_has_its_place() -> None:
    assert {part_of(name_of(path)) for path in FILES} == GROUND | ALLOWED.keys()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    part, parts = part_of(name_of(path)), {part_of(module) for module in imported(path)}
    if part == "cli":
        parts -= {"", "cpu_capability", "cuda_backend"}  # what the package itself offers
    assert parts <= GROUND | {part} | ALLOWED.get(part, set())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_training_is_open_to_methods_alone(path: Path) -> None:
    """In protect, only methods know of training, and only what it exports."""
    name = name_of(path)
    used = {module for module in imported(path) if part_of(module) == "training"}
    if name.startswith("protect.methods."):
        exported = {f"training.{each}" for each in exports("training")}
        assert used <= exported
    elif name.startswith("protect."):
        assert not used


def exports(package: str) -> list[str]:
    for node in ast.parse((PACKAGE / package / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise AssertionError(f"{package} has no __all__")
