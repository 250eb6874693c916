"""What importing the package does not do: touch the CUDA driver, import Triton, look at settings."""

import os
import subprocess
import sys

import pytest
import torch

from unlearnable_kernels.ops import native

UNTOUCHED = """
import sys, torch
def refuse(*arguments): raise SystemExit("the import asked for the CUDA driver")
for name in ("_cuda_getDeviceCount", "_cuda_init"):
    if hasattr(torch._C, name): setattr(torch._C, name, refuse)
torch.cuda.is_available = torch.cuda.device_count = refuse
before = set(sys.modules)
import unlearnable_kernels
print(sorted(name for name in set(sys.modules) - before if name.partition(".")[0] == "triton"))
"""


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_neither_the_cuda_driver_nor_triton():
    result = run(UNTOUCHED)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_what_lists_names_does_without_compiler_and_networks():
    """These take seconds to import, and every command would wait for them."""
    program = """
import sys, torch
from unlearnable_kernels.cli import listing, registries
import unlearnable_kernels.training, unlearnable_kernels.report
for each in registries().values(): listing(each)
from unlearnable_kernels.protect.pipeline.probe import fingerprint
fingerprint()  # encodes in every format
unwanted = "torch._dynamo", "torchvision", "timm", "scipy", "PIL.PdfImagePlugin"
print([name for name in unwanted if name in sys.modules])
"""
    result = run(program)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stdout + result.stderr


WRONG = "sse9", "UNLEARNABLE_CPU_CAPABILITY is 'sse9', but must be default, avx2 or avx512"


def test_a_wrong_instruction_set_is_named_by_the_first_operator():
    call = "torch.ops.unlearn.pgd_step(*[torch.zeros(1, 3, 4, 4)] * 3, 0.1, 0.1, 'linf')"
    result = run(f"import torch, unlearnable_kernels; {call}", UNLEARNABLE_CPU_CAPABILITY=WRONG[0])
    assert result.stderr.splitlines()[-1].startswith(f"RuntimeError: {WRONG[1]}")


def test_a_wrong_instruction_set_is_one_line_on_the_command_line():
    result = run("from unlearnable_kernels.cli import main; main()", UNLEARNABLE_CPU_CAPABILITY=WRONG[0])
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"unlearnable: {WRONG[1]}")


def test_triton_is_imported_when_the_first_gpu_tensor_comes(monkeypatch):
    monkeypatch.setattr(native, "triton_function", lambda name: lambda *arguments: (name, *arguments))
    monkeypatch.setattr(native, "cuda_module", object())
    assert native._Lazy("crop_flip")(1, 2) == ("crop_flip", 1, 2)


def test_without_triton_the_reference_serves_and_says_so_once(monkeypatch):
    def missing(name):
        raise ImportError("no Triton here")

    monkeypatch.setattr(native, "triton_function", missing)
    monkeypatch.setattr(native, "cuda_module", object())
    x, grad, origin = torch.rand(3, 2, 5)
    serving = native._Lazy("pgd_step")
    with pytest.warns(RuntimeWarning, match="PyTorch reference serves on the GPU: no Triton here") as caught:
        result, again = (serving(x, grad, origin, 0.1, 0.2, "l2") for _ in range(2))
    assert len(caught) == 1
    assert torch.equal(result, torch.ops.unlearn.pgd_step(x, grad, origin, 0.1, 0.2, "l2"))
    assert torch.equal(result, again)


def test_without_the_cuda_module_the_first_gpu_tensor_is_told_so(monkeypatch):
    monkeypatch.setattr(native, "triton_function", lambda name: lambda *arguments: name)
    monkeypatch.setattr(native, "cuda_module", None)
    monkeypatch.setattr(native, "_cuda_problem", "not built")
    serving = native._Lazy("classwise_conv")
    with pytest.warns(RuntimeWarning, match="so Triton serves on the GPU: not built") as caught:
        assert serving() == serving() == "classwise_conv"
    assert len(caught) == 1
