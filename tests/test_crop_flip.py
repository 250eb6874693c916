import os

import fresh_process
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnable_kernels import cpu_capability, crop_flip
from unlearnable_kernels.ops import crop_flip as contract


def random_call(seed, shape=(6, 11, 13, 3), padding=4, batch=None):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    index = None if batch is None else torch.randint(shape[0], (batch,), generator=generator)
    batch = shape[0] if batch is None else batch
    offsets = torch.randint(2 * padding + 1, (batch, 2), generator=generator)
    return images, offsets, torch.randint(2, (batch,), generator=generator).bool(), padding, index


def by_torch(images, offsets, flips, padding, index=None):
    """float64 [B, C, H, W], image by image."""
    results = []
    for image, (top, left), flip in zip(
        images[slice(None) if index is None else index], offsets, flips, strict=True
    ):
        padded = torch.nn.functional.pad(image.permute(2, 0, 1), (padding,) * 4)
        window = padded[:, top : top + image.shape[0], left : left + image.shape[1]]
        results.append((window.flip(2) if flip else window).double() / 255)
    return torch.stack(results)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_equals_torchvision(data):
    shape = tuple(data.draw(st.tuples(*(st.integers(1, most) for most in (4, 40, 40, 20)))))
    padding = data.draw(st.sampled_from([0, 1, 4, 50]))
    batch = data.draw(st.sampled_from([None, 1, 5]))
    call = random_call(data.draw(st.integers(0, 2**32)), shape, padding, batch)
    dtype = data.draw(st.sampled_from(contract.DTYPES))
    result = crop_flip(*call, dtype)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, by_torch(*call).float().to(dtype))


@pytest.mark.parametrize("dtype", contract.DTYPES)
@pytest.mark.parametrize("function", [crop_flip, contract.reference])
def test_every_level_is_rounded_correctly(function, dtype):
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    result = function(images, torch.zeros(1, 2, dtype=torch.long), torch.tensor([False]), 0, None, dtype)
    expected = (torch.arange(256, dtype=torch.float64) / 255).float().to(dtype)
    assert torch.equal(result.flatten(), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16, 17])
def test_first_and_last_bytes_of_the_store(channels):
    """Vectors must not read beyond the images, where a wrong read shows as another image's pixels."""
    images = torch.randint(256, (3, 1, 3, channels), dtype=torch.uint8)
    flips = torch.tensor([True, False, True])
    offsets = torch.full((3, 2), 2)
    assert torch.equal(
        crop_flip(images, offsets, flips, 2).double(), by_torch(images, offsets, flips, 2).float()
    )
    assert torch.equal(
        crop_flip(images[1:2], offsets[:1], ~flips[:1], 2)[0], crop_flip(images, offsets, flips, 2)[1]
    )


def test_strides():
    images, offsets, flips, padding, index = random_call(1, batch=9)
    expected = crop_flip(images, offsets, flips, padding, index)
    chw = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    twice = torch.stack([flips, ~flips], 1)[:, 0]
    spread = torch.stack([index, index], 1)[:, 0]
    assert torch.equal(crop_flip(chw, offsets.t().contiguous().t(), twice, padding, spread), expected)


def test_results_do_not_depend_on_threads_or_batch_split():
    images, offsets, flips, padding, index = random_call(2, (30, 32, 32, 3), batch=80)
    whole = crop_flip(images, offsets, flips, padding, index)
    alone = [
        crop_flip(images, offsets[b : b + 1], flips[b : b + 1], padding, index[b : b + 1]) for b in range(80)
    ]
    assert torch.equal(whole, torch.cat(alone))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    single = crop_flip(images, offsets, flips, padding, index)
    torch.set_num_threads(threads)
    assert torch.equal(whole, single)


@pytest.mark.parametrize("dtype", contract.DTYPES)
def test_every_output_element_is_written(dtype):
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(3, dtype=dtype).isnan().all()
        result = crop_flip(*random_call(3, padding=9), dtype)
    finally:
        torch.use_deterministic_algorithms(False)
    assert result.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 0, 8, 3), (2, 8, 0, 3), (2, 8, 8, 0)])
def test_empty(shape):
    call = random_call(4, shape)
    result = crop_flip(*call)
    assert result.shape == (shape[0], shape[3], shape[1], shape[2])
    assert result.stride() == contract.reference(*call).stride()
    nothing = crop_flip(*random_call(4, (2, 8, 8, 3), batch=0))
    assert nothing.shape == (0, 3, 8, 8)


@pytest.mark.parametrize("dtype", contract.DTYPES)
def test_out(dtype):
    call = (*random_call(7, batch=7), dtype)
    expected = crop_flip(*call)
    out = torch.full_like(expected, torch.nan)
    assert crop_flip(*call, out=out) is out
    assert torch.equal(out, expected)
    by_reference = torch.full_like(expected, torch.nan)
    contract.reference_into(by_reference, *call)
    assert torch.equal(by_reference, expected)


def test_out_compiles_into_one_graph():
    call = random_call(8, batch=7)
    compiled = torch.compile(lambda out: crop_flip(*call, out=out), fullgraph=True, backend="aot_eager")
    out = torch.zeros_like(crop_flip(*call))
    compiled(out)
    assert torch.equal(out, crop_flip(*call))


BAD_OUTS = {
    "out must be float32, got": lambda out, call: (out.double(), call),
    "out must be [7, 3,": lambda out, call: (out[:-1], call),
    "out must be channels-last in memory": lambda out, call: (out.contiguous(), call),
    "images and out must be on one device": lambda out, call: (out.to("meta"), call),
}


@pytest.mark.parametrize("message", BAD_OUTS)
def test_outs_that_do_not_fit_are_named(message):
    call = random_call(9, batch=7)
    out, call = BAD_OUTS[message](crop_flip(*call), call)
    functions = [lambda: crop_flip(*call, out=out)] * (out.device.type == "cpu")
    for function in (*functions, lambda: contract.reference_into(out, *call)):
        with pytest.raises(RuntimeError) as caught:
            function()
        assert message in str(caught.value)


@pytest.mark.parametrize("name", ["images", "offsets", "flips", "index"])
def test_an_out_that_shares_memory_with_an_input_is_refused(name):
    from unlearnable_kernels.triton_kernels.crop_flip import crop_flip_into

    arguments = contract.Arguments(*random_call(10, (6, 8, 8, 3), batch=6))
    out = crop_flip(*arguments)
    given = getattr(arguments, name)
    within = out.permute(0, 2, 3, 1).view(-1).view(torch.uint8)[: given.nbytes].view(given.dtype)
    call = arguments._replace(**{name: within.view(given.shape).copy_(given)})
    for function in (torch.ops.unlearn.crop_flip_into, contract.reference_into, crop_flip_into):
        with pytest.raises(RuntimeError, match=f"^crop_flip: out .* share no memory with {name}$"):
            function(out, *call)


BAD_CALLS = {
    "images must be uint8 [N, H, W, C], got": lambda x, o, f, p, i: (x.float(), o, f, p, i),
    "images must be uint8 [N, H, W, C]": lambda x, o, f, p, i: (x[0], o, f, p, i),
    "with 3 dimensions": lambda x, o, f, p, i: (x[0], o, f, p, i),
    "offsets must be int64 [B, 2]": lambda x, o, f, p, i: (x, o.int(), f, p, i),
    "offsets must hold 2 numbers for every batch entry, got 1": lambda x, o, f, p, i: (x, o[:, :1], f, p, i),
    "offsets must hold one row for each of the 7 entries of index, got 5": lambda x, o, f, p, i: (
        x,
        o[:5],
        f,
        p,
        i,
    ),
    "offsets must hold one row for each of the 6 images, got 7": lambda x, o, f, p, i: (x, o, f, p),
    "flips must be bool [B]": lambda x, o, f, p, i: (x, o, f.int(), p, i),
    "flips must hold one row for each of the 7 entries of index, got 2": lambda x, o, f, p, i: (
        x,
        o,
        f[:2],
        p,
        i,
    ),
    "index must be int64 [B]": lambda x, o, f, p, i: (x, o, f, p, i.int()),
    "index[2] is 6, but must lie in [0, 6)": lambda x, o, f, p, i: (
        x,
        o,
        f,
        p,
        i.index_fill(0, torch.tensor(2), 6),
    ),
    "index[6] is -1, but must lie in [0, 6)": lambda x, o, f, p, i: (
        x,
        o,
        f,
        p,
        i.index_fill(0, torch.tensor(6), -1),
    ),
    "index[0] is 0, but must lie in [0, 0)": lambda x, o, f, p, i: (x[:0], o, f, p, 0 * i),
    "offsets[0, 0] is 9, but must lie in [0, 8]": lambda x, o, f, p, i: (x, o * 0 + 9, f, p, i),
    "offsets[0, 1] is -1, but must lie in [0, 8]": lambda x, o, f, p, i: (
        x,
        o * 0 - torch.tensor([0, 1]),
        f,
        p,
        i,
    ),
    "padding must lie in [0, 1073741824], got -1": lambda x, o, f, p, i: (x, o, f, -1, i),
    "padding must lie in [0, 1073741824], got 1073741825": lambda x, o, f, p, i: (x, o, f, 2**30 + 1, i),
    "dtype must be float32, bfloat16, float16 or float64, got": lambda x, o, f, p, i: (
        x,
        o,
        f,
        p,
        i,
        torch.int32,
    ),
    "images, offsets, flips and index must be on one device": lambda x, o, f, p, i: (
        x,
        o,
        f.to("meta"),
        p,
        i,
    ),
}


@pytest.mark.parametrize("message", BAD_CALLS)
@pytest.mark.parametrize("function", [crop_flip, contract.reference])
def test_bad_arguments_are_named(message, function):
    with pytest.raises(RuntimeError) as caught:
        function(*BAD_CALLS[message](*random_call(5, batch=7)))
    assert str(caught.value).startswith("crop_flip: ")
    assert message in str(caught.value)


COMPARE = """
import sys, torch
from unlearnable_kernels import cpu_capability, crop_flip
calls = torch.load(sys.argv[1])
print(cpu_capability(), all(torch.equal(crop_flip(*call), result) for call, result in calls))
"""


@pytest.mark.unsanitized
def test_bytes_do_not_depend_on_the_instruction_set(tmp_path):
    calls = [
        (*random_call(channels, (*size, channels)), dtype)
        for channels in (1, 3, 4, 17)
        for size in ((9, 32, 32), (3, 64, 64), (5, 5, 3), (2, 100, 201))
        for dtype in contract.DTYPES
    ]
    torch.save([(call, crop_flip(*call)) for call in calls], tmp_path / "calls.pt")
    order = ("default", "avx2", "avx512")
    lower = order[: order.index(cpu_capability())]
    for name in lower:
        env = os.environ | {"UNLEARNABLE_CPU_CAPABILITY": name}
        assert fresh_process.run(COMPARE, tmp_path / "calls.pt", env=env).stdout.split() == [name, "True"]


def test_offsets_past_two_to_the_31_bytes():
    """An image of more than 2³¹ bytes would need as much memory: one stored beyond them does as well."""
    count = 2**31 // (64 * 64 * 3) + 3
    images = torch.empty(count, 64, 64, 3, dtype=torch.uint8)  # untouched pages take no memory
    images[-1] = random_call(6, (1, 64, 64, 3))[0][0]
    offsets, flips, index = torch.tensor([[1, 7]]), torch.tensor([True]), torch.tensor([count - 1])
    expected = by_torch(images[-1:], offsets, flips, 4).float()
    assert torch.equal(crop_flip(images, offsets, flips, 4, index), expected)
