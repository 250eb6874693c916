"""The script for GPU machines and its benchmarks, as far as they go without one."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import fresh_process
import pytest
import torch
from bare_python import EXTRAS, environment
from small_runs import write_tree

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "gpu_check.sh"


def load(path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def gpu_benchmark(operator, monkeypatch):
    return load(ROOT / "benchmarks" / "gpu" / f"bench_{operator}_gpu.py", monkeypatch)


@pytest.mark.parametrize(
    "arguments", [[], ["OUT", "--only"], ["OUT", "--only", "everything"], ["OUT", "--verbose"]]
)
def test_wrong_arguments_print_the_usage(tmp_path, arguments):
    arguments = [str(tmp_path / "out") if a == "OUT" else a for a in arguments]
    result = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert "scripts/gpu_check.sh OUT [--only tests|bench|train]" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    result = subprocess.run([SCRIPT, tmp_path], capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert result.stderr.strip() == "gpu_check: torch finds no GPU here"


def test_the_sanitizers_cases_run(capsys):
    spec = importlib.util.spec_from_file_location("gpu_small_cases", ROOT / "scripts" / "gpu_small_cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main("cpu")
    assert "pgd_step: " in capsys.readouterr().out


# A dry run of the stages' entry points on the CPU, where only what such a machine has can be imported.

RUN = """
import os, runpy, sys
sys.argv.pop(0)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__")
"""


def bare(*arguments, program=RUN):
    packages = f"{EXTRAS} torchattacks pykeops kornia"
    return fresh_process.run(program, *arguments, cwd=ROOT, start=environment(WITHOUT=packages)).stdout


def test_the_training_stage_needs_arrays_alone(tmp_path):
    for split, seed in (("train", 0), ("test", 1)):
        write_tree(tmp_path / "set" / split, ["cat", "dog"], 12, seed)
    arrays = tmp_path / "arrays"
    few = [tmp_path / "set", arrays, "--per-class", 8, "--test-per-class", 4]
    fresh_process.run(RUN, ROOT / "scripts" / "cifar10_npz.py", *few)
    small = ["--network=resnet8", "--epochs=1", "--batch-size=8", "--crop-padding=1"]
    defences = ["--defences", "erm", "at-linf"]
    told = bare("scripts/cifar10_runs.py", tmp_path / "out", "--data", arrays, *small, *defences)
    runs = json.loads((tmp_path / "out" / "runs.json").read_text())["runs"]
    assert [run["name"] for run in runs] == [
        "clean-erm",
        "protected-erm",
        "clean-at-linf",
        "protected-at-linf",
    ]
    assert [run["train"]["images"] for run in runs] == [16] * 4
    assert told.count("test accuracy") == 4
    assert len(re.findall(r", [\d,]+ images/s, \d+ s for 1 epochs$", told, re.M)) == 4


def test_the_sanitizers_stage_needs_torch_alone():
    program = "import runpy; runpy.run_path('scripts/gpu_small_cases.py')['main']('cpu')"
    assert "crop_flip: " in bare(program=program)


def test_tests_and_benchmarks_are_collected_there():
    options = ["-o", "python_files=test_*.py bench_*.py", "-p", "no:cacheprovider", "--collect-only"]
    places = ["tests/gpu", "benchmarks/gpu", "benchmarks/bench_training.py"]
    told = bare("pytest", *options, *places)
    files = [path for place in places for path in (ROOT / place).rglob("*_gpu.py")]
    assert len(files) > 10
    for path in (*files, ROOT / "benchmarks" / "bench_training.py"):
        assert str(path.relative_to(ROOT)) in told


# Each builder itself checks that the peers compute what ours does.


@pytest.mark.parametrize("k", [3, 9])
def test_classwise_conv_peers_agree(monkeypatch, k):
    bench = gpu_benchmark("classwise_conv", monkeypatch)
    variants = bench.variants_of(bench.Case("small", 6, 4, 16, k, 3, {}), "cpu", compiled=False)
    assert {"ours", "copy", "b", "c"} == variants.keys()
    for run in variants.values():
        assert run(1).shape[0] in (4, 6)


def test_classwise_spectrum_peers_agree(monkeypatch):
    bench = gpu_benchmark("classwise_spectrum", monkeypatch)
    variants = bench.variants_of(bench.Case("small", 6, 4, 16, 3, {}), "cpu")
    assert {"ours", "copy", "matmul", "torch.fft"} == variants.keys()
    assert [len(run(1)) for run in variants.values()] == [6, 6, 4, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_step_peers_agree(monkeypatch, norm, dtype):
    bench = gpu_benchmark("pgd_step", monkeypatch)
    variants = bench.variants_of(bench.Case(norm, dtype, (3, 3, 8, 8)), "cpu", compiled=False)
    assert all(run(1).shape == (3, 3, 8, 8) for run in variants.values())


def test_crop_flip_peers_run(monkeypatch):
    bench = gpu_benchmark("crop_flip", monkeypatch)
    variants = bench.variants_of(4, 6, 12, torch.bfloat16, "cpu", copied=1024)
    assert {"ours", "copy", "torchvision v2 a batch", "torchvision v2 each"} <= variants.keys()


def test_bayes_error_peers_agree(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # KeOps would compile for a minute
    bench = gpu_benchmark("bayes_error", monkeypatch)
    variants = bench.variants_of(bench.Size(2000, 32, {}), "cpu", compiled=False)
    assert {"ieee", "tf32", "bf16", "chunked"} == variants.keys()


def test_bayes_ascent_step_peers_agree(monkeypatch):
    bench = gpu_benchmark("bayes_ascent_step", monkeypatch)
    case = bench.Case("small", 64, 8, "linf", 2.0, 1, {})
    assert {"ours", "eager", "parts"} == bench.variants_of(case, "cpu", compiled=False).keys()
