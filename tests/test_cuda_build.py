"""The CUDA module, as far as a machine without a GPU can tell: what is built, how strictly, and without spills."""

import sys

import pytest

from unlearnable_kernels.ops import native


def test_without_the_cuda_module_a_gpu_is_served_by_triton_and_told_so(monkeypatch, recwarn):
    monkeypatch.setitem(sys.modules, "unlearnable_kernels._C_cuda", None)
    with pytest.warns(RuntimeWarning, match=r"so Triton serves on the GPU: .*_C_cuda"):
        assert native._load_cuda(gpu=True) is None
    recwarn.clear()
    assert native._load_cuda(gpu=False) is None
    assert not recwarn.list
