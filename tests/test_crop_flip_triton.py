"""The Triton kernel on CPU tensors, in Triton's interpreter."""

import os

import fresh_process
import pytest
import torch
import triton

from unlearnable_kernels.ops import crop_flip as contract

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the compiled kernel")


def triton_crop_flip(*arguments):
    from unlearnable_kernels.triton_kernels.crop_flip import crop_flip

    return crop_flip(*arguments)


def random_call(shape, padding, batch, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    return (
        torch.randint(256, shape, generator=generator, dtype=torch.uint8),
        torch.randint(2 * padding + 1, (batch, 2), generator=generator),
        torch.randint(2, (batch,), generator=generator).bool(),
        padding,
        torch.randint(shape[0], (batch,), generator=generator),
        dtype,
    )


@pytest.mark.parametrize("arguments", list(contract.sample_inputs())[::2])
def test_equals_the_reference(arguments):
    result, expected = triton_crop_flip(*arguments), contract.reference(*arguments)
    assert result.dtype == expected.dtype
    assert result.stride() == expected.stride()
    if result.dtype == torch.bfloat16:  # which the interpreter cuts off where GPUs round
        torch.testing.assert_close(result, expected, rtol=2**-7, atol=0)
    else:
        assert torch.equal(result, expected)


@pytest.mark.parametrize("shape", [(3, 32, 32, 3), (2, 70, 43, 3), (4, 28, 28, 1), (2, 3, 5, 40)])
@pytest.mark.parametrize("padding", [0, 4, 60])
def test_sizes_that_do_not_fill_tiles(shape, padding):
    call = random_call(shape, padding, 5)
    assert torch.equal(triton_crop_flip(*call), contract.reference(*call))


def test_into_a_given_tensor():
    from unlearnable_kernels.triton_kernels.crop_flip import crop_flip_into

    call = random_call((3, 8, 8, 3), 2, 6)
    out = torch.full_like(contract.reference(*call), torch.nan)
    crop_flip_into(out, *call)
    assert torch.equal(out, contract.reference(*call))
    with pytest.raises(RuntimeError, match="crop_flip: out must be channels-last in memory"):
        crop_flip_into(out.contiguous(), *call)


@pytest.mark.parametrize("padding", [2**30 - 1, 2**30])
def test_the_largest_padding(padding):
    images, _, flips, *_ = random_call((3, 8, 8, 3), 0, 3)
    for offset in (padding, padding + 3, 2 * padding):
        call = images, torch.full((3, 2), offset), flips, padding
        assert torch.equal(triton_crop_flip(*call), contract.reference(*call))


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 0, 8, 3), (2, 8, 8, 0)])
def test_empty(shape):
    images, flips = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape[0], dtype=torch.bool)
    result = triton_crop_flip(images, torch.zeros(shape[0], 2, dtype=torch.long), flips)
    assert result.shape == (shape[0], shape[3], shape[1], shape[2])


def test_nothing_is_read_out_of_range():
    """With assertions off, as in the interpreter, an entry out of range gives zeros and no read."""
    images, offsets, flips, padding, index, _ = random_call((3, 8, 8, 3), 2, 6)
    images |= 1
    offsets, index = offsets.clamp(0, 2), index.clone()
    offsets[0, 0], offsets[1, 1], index[2], index[3] = 5, -1, 3, -(2**40)
    result = triton_crop_flip(images, offsets, flips, padding, index)
    assert (result[:4] == 0).all()
    assert (result[4:].amax((1, 2, 3)) > 0).all()


def test_an_entry_out_of_range_trips_the_assertion(monkeypatch):
    from dataclasses import replace

    from triton.runtime.interpreter import InterpreterError, interpreter_builder

    monkeypatch.setattr(interpreter_builder, "options", replace(interpreter_builder.options, debug=True))
    call = random_call((3, 8, 8, 3), 2, 6)
    triton_crop_flip(*call)
    with pytest.raises((InterpreterError, AssertionError), match="index in"):
        triton_crop_flip(*call[:4], call[4] + 3, call[5])


def test_bad_arguments_are_named():
    with pytest.raises(RuntimeError, match=r"crop_flip: padding must lie in \[0, 1073741824\], got -1"):
        triton_crop_flip(*random_call((3, 8, 8, 3), 0, 3)[:3], -1)


def test_the_tile_wastes_least():
    from unlearnable_kernels.triton_kernels.crop_flip import TILE, tile_of

    assert tile_of(32, 96) == (32, 32)
    assert tile_of(64, 192) == (32, 64)
    assert tile_of(28, 28) == (32, 32)
    for height, row in ((224, 672), (1, 1), (500, 1500), (3, 200)):
        rows, values = tile_of(height, row)
        assert rows * values <= TILE
        assert triton.next_power_of_2(rows) == rows


COMPILE = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from unlearnable_kernels.triton_kernels import crop_flip as kernels

kernel = kernels.crop_flip_kernel
for element, height, width, channels, indexed in (
    ("fp32", 32, 32, 3, True), ("bf16", 224, 224, 3, True),
    ("fp16", 28, 28, 1, False), ("fp64", 5, 7, 40, False)
):
    rows, values = kernels.tile_of(height, width * channels)
    constants = {"HAS_INDEX": indexed, "HEIGHT": height, "WIDTH": width, "CHANNELS": channels}
    constants |= {"ROWS": rows, "VALUES": values}
    types = {"images": "*u8", "offsets": "*i64", "flips": "*u8", "index": "*i64", "out": "*" + element}
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    aligned = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in types}
    options = {"debug": True, "sanitize_overflow": False, "num_warps": max(1, rows * values // 512)}
    source = ASTSource(kernel, signature, constants, aligned)
    text = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    print(element, "__assertfail" in text, *sorted(set(re.findall("st.global[.vb0-9]*", text))))
"""


def test_compiled_for_a_gpu_it_asserts_and_stores_16_bytes():
    """The interpreter takes more than the compiler, which needs no GPU."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    lines = fresh_process.run(COMPILE, env=env).stdout.splitlines()
    assert lines[:2] == ["fp32 True st.global.v4.b32", "bf16 True st.global.v4.b32"]
    assert [line.split()[:2] for line in lines[2:]] == [["fp16", "True"], ["fp64", "True"]]
