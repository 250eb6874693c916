"""Repairs of Triton 3.6's interpreter, which runs kernels on CPU tensors, as a fixture that tests import."""

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.fixture
def repaired_interpreter(monkeypatch):
    """What the interpreter gets wrong: loop bounds at run time, and bfloat16.

    NumPy 2.4 refuses such bounds; products of bfloat16 are taken of the bits as integers, and conversions to
    it cut off instead of rounding.
    """
    if not interpreter_in_use():
        return
    patch_tensor, convert = interpreter._patch_lang_tensor, interpreter._convert_float
    dot = interpreter.InterpreterBuilder.create_dot

    def with_index(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def rounding(data, from_type, to_type, mode):
        if from_type == tl.float32 and to_type == tl.bfloat16:
            rounded = torch.from_numpy(np.ascontiguousarray(data)).to(torch.bfloat16)
            return rounded.view(torch.int16).numpy().view(np.uint16)
        return convert(data, from_type, to_type, mode).reshape(np.shape(data))

    def dot_of_floats(self, a, b, d, *options):
        if a.dtype.scalar == tl.bfloat16:
            a, b = (interpreter.TensorHandle(_from_bfloat16(t.data), tl.float32) for t in (a, b))
        return dot(self, a, b, d, *options)

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_index)
    monkeypatch.setattr(interpreter, "_convert_float", rounding)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot_of_floats)


def interpreter_in_use() -> bool:
    from triton import knobs

    return bool(knobs.runtime.interpret)
