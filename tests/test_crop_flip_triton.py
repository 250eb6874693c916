"""The Triton kernel on CPU tensors, in Triton's interpreter."""

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
