"""Installing from source: what the distribution holds, and a native module that does not compile.

That is said when it is installed, and by ``unlearnable info``.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest
from setuptools.command.egg_info import egg_info
from setuptools.dist import Distribution
from setuptools.errors import CompileError

from unlearnable_kernels.ops import native

ROOT = Path(__file__).parents[1]
COMPILER = """#!/bin/sh
case "$1" in -dump* | --version) exec c++ "$@" ;; esac
echo "kernel.cpp:7:3: warning: unlikely to work"
echo "kernel.cpp:8:3: error: this compiler fails" >&2
echo "kernel.cpp:9:3: error: and goes on" >&2
exit 1
"""
FIRST = "kernel.cpp:8:3: error: this compiler fails"


@pytest.fixture(scope="module")
def setup_py():
    spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_source_distribution_holds_all_that_a_build_reads_and_no_tests(tmp_path, monkeypatch):
    """Tests without the helpers beside them would not run; setuptools takes some of them by itself."""
    monkeypatch.chdir(ROOT)
    project = Distribution({"script_name": "setup.py"})
    project.parse_config_files(["pyproject.toml"])
    command = egg_info(project)
    command.egg_base = str(tmp_path)
    command.ensure_finalized()
    command.run()
    held = (tmp_path / "unlearnable_kernels.egg-info" / "SOURCES.txt").read_text().splitlines()
    assert not [path for path in held if path.startswith("tests")]
    compiled = (path for path in (ROOT / "csrc").rglob("*") if path.is_file())
    assert {"setup.py", *(str(path.relative_to(ROOT)) for path in compiled)} <= set(held)


@pytest.fixture
def build(setup_py, tmp_path, monkeypatch):
    """Builds one module with a compiler that fails; returns the folder that would be installed."""
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))

    def run(optional=True, inplace=False):
        source = tmp_path / "kernel.cpp"
        source.write_text("int main() {}\n")
        module = setup_py.CppExtension("unlearnable_kernels._C", [str(source)], optional=optional)
        command = setup_py.Build(Distribution({"name": "x", "ext_modules": [module], "packages": []}))
        command.build_lib, command.build_temp = str(tmp_path / "lib"), str(tmp_path / "objects")
        command.inplace = inplace
        monkeypatch.chdir(tmp_path)
        command.ensure_finalized()
        command.run()
        return tmp_path / "lib" / "unlearnable_kernels"

    return run


def test_the_first_error_is_said_and_kept(build, monkeypatch, capfd):
    monkeypatch.setattr(native, "_PACKAGE", build())
    assert f"unlearnable_kernels._C is not built, so the much slower PyTorch reference serves: {FIRST}\n" in (
        capfd.readouterr().err
    )
    monkeypatch.setitem(sys.modules, "unlearnable_kernels._C", None)
    with pytest.warns(RuntimeWarning, match=f"reference serves: its build failed: {FIRST}$"):
        module, why = native._load()
    monkeypatch.setattr(native, "cpu_module", module)
    monkeypatch.setattr(native, "_cpu_problem", why)
    assert native.cpu_backend() == (
        f"reference, since the compiled kernels are missing: its build failed: {FIRST}"
    )


def test_the_cuda_modules_first_error_is_kept(tmp_path, monkeypatch):
    (tmp_path / "_C_cuda.failed").write_text(f"{FIRST}\n")
    monkeypatch.setattr(native, "_PACKAGE", tmp_path)
    monkeypatch.setitem(sys.modules, "unlearnable_kernels._C_cuda", None)
    module, why = native._load_cuda()
    assert (module, why) == (None, f"its build failed: {FIRST}")
    monkeypatch.setattr(native, "cuda_module", module)
    assert native.cuda_backend().startswith(f"no CUDA C++ (its build failed: {FIRST}); ")


def test_beside_the_sources_it_replaces_an_earlier_module(build, tmp_path):
    package = tmp_path / "unlearnable_kernels"
    package.mkdir()
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (package / f"_C{suffix}").write_text("of an earlier build")
    build(inplace=True)
    assert [path.name for path in package.iterdir()] == ["_C.failed"]
    assert (package / "_C.failed").read_text() == f"{FIRST}\n"


def test_where_native_modules_are_required_it_is_an_error_that_names_the_way_out(build):
    with pytest.raises(CompileError) as caught:
        build(optional=False)
    assert str(caught.value) == (
        f"unlearnable_kernels._C is not built: {FIRST} (to install without it, where the much slower PyTorch "
        "reference serves, set UNLEARNABLE_REQUIRE_NATIVE=0)"
    )


@pytest.mark.parametrize(
    ("compiler", "wanted", "required"),
    [("c++", None, True), ("named", None, True), ("", None, False), ("c++", "0", False), ("", "1", True)],
)
def test_required_where_there_is_a_compiler(setup_py, tmp_path, monkeypatch, compiler, wanted, required):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if compiler == "named":
        monkeypatch.setenv("CXX", "/wrong/path")
    elif compiler:
        (tmp_path / compiler).touch(0o755)
    monkeypatch.delenv("UNLEARNABLE_REQUIRE_NATIVE", raising=False)
    if wanted:
        monkeypatch.setenv("UNLEARNABLE_REQUIRE_NATIVE", wanted)
    assert setup_py.required() is required


def test_info_names_what_serves(monkeypatch, capsys):
    from unlearnable_kernels import cli

    monkeypatch.setattr(cli, "registries", dict)
    monkeypatch.setattr(native, "cpu_backend", lambda: "reference, since …")
    cli.info()
    assert capsys.readouterr().out.startswith("cpu kernels: reference, since …\n")
