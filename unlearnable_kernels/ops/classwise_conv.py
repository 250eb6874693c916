"""Class-wise convolution: every image is filtered with the filter of its class and rescaled by its maximum.

    x̂ = x ⋆ s_y        cross-correlation, stride 1, same size, the same k×k filter for every channel   (1)
    x̃ = x̂ / max(x̂)     the maximum over all pixels and channels of that image                          (2)

Source: Sadasivan, Soltanolkotabi, Feizi, "CUDA: Convolution-based Unlearnable Datasets", CVPR 2023,
arXiv 2303.04278.
docs/maths.md numbers the equations and derives the gradients.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unlearnable_kernels.ops.checks import Checks
from unlearnable_kernels.ops.library import Backward, define

PADDINGS = ("zeros", "reflect", "replicate", "circular")
RESCALES = ("max", "none")
IMAGE_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)

check = Checks("classwise_conv")


class Arguments(NamedTuple):
    """What ``classwise_conv`` describes."""

    images: Tensor
    labels: Tensor
    filters: Tensor
    padding: str = "zeros"
    rescale: str = "max"


def classwise_conv(
    images: Tensor,
    labels: Tensor,
    filters: Tensor,
    padding: str = "zeros",
    rescale: str = "max",
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Filter every image with the filter of its class and divide it by its maximum.

    Args:
        images: ``[N, C, H, W]``, uint8 (0 to 255, read as x/255), float16, bfloat16, float32 or float64;
            contiguous or channels-last. ``[N, H, W, C]`` storage comes in as ``.permute(0, 3, 1, 2)``,
            without a copy; other strides are copied first.
        labels: int64 ``[N]``, each in ``[-1, K)``; an image labelled -1 is returned as it is.
        filters: ``[K, k, k]``, k odd, float32 (float64 too where the images are float64); for uint8 images
            finite and within ±1e30.
        padding: ``zeros``, ``reflect``, ``replicate`` or ``circular``, k // 2 pixels on each side; the last
            three continue periodically where the image is smaller than that, as ``numpy.pad`` does.
        rescale: ``max`` divides each image by its maximum (eq. 2), ``none`` leaves it. An image whose
            maximum is 0 is not divided.
        out: written to and returned where given: dtype, shape and memory format of the result, no memory
            shared with ``images``. Not differentiable.

    Returns:
        Dtype, shape and memory format of ``images``. uint8 results are the truncated 255·x̃, saturated to
        0…255, and the same bytes on every backend, instruction set, thread count and batch split.
        Float results are differentiable with respect to ``images`` and ``filters``: once in reverse mode, any
        number of times in forward mode, and in reverse mode over forward mode.

    Raises:
        RuntimeError: an argument is not as said here; the message names it, its value and what is allowed.
    """
    if out is None:
        result: Tensor = torch.ops.unlearn.classwise_conv(images, labels, filters, padding, rescale)
        return result
    torch.ops.unlearn.classwise_conv_into(out, images, labels, filters, padding, rescale)
    return out


def memory_format(images: Tensor) -> torch.memory_format:
    """The memory format of the result: channels-last where the images are, contiguous otherwise."""
    if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def check_arguments(call: Arguments) -> None:
    """Refuses what can be told without reading a value."""
    images, labels, filters, padding, rescale = call
    check.layout("images", images, "[N, C, H, W]")
    check.dtype("images", images.dtype, IMAGE_DTYPES)
    check.labels(labels, images.shape[0], "images")
    square = filters.dim() == 3 and filters.shape[1] == filters.shape[2] and filters.shape[1] % 2 == 1
    check(square, f"filters must be [K, k, k] with k odd, got {list(filters.shape)}")
    wide = (torch.float64,) * (images.dtype == torch.float64)
    check.dtype("filters", filters.dtype, (torch.float32, *wide))
    check.one_of("padding", padding, PADDINGS)
    check.one_of("rescale", rescale, RESCALES)
    check.one_device(images=images, labels=labels, filters=filters)


def check_values(call: Arguments) -> None:
    """Refuses labels out of range, and filters that bytes would not survive."""
    check.values_within("labels", call.labels, -1, call.filters.shape[0])
    if call.images.dtype == torch.uint8:
        good = call.filters.abs() <= 1e30
        check.values(call.filters, good, "filters", "must lie within ±1e30 for uint8 images")


def check_out(call: Arguments, out: Tensor) -> None:
    """Refuses an ``out`` that is not laid out like the result."""
    images = call.images
    same = (out.dtype, out.shape, out.device) == (images.dtype, images.shape, images.device)
    check(same, "out must have the dtype, shape and device of images")
    wanted = memory_format(images)
    name = "channels-last" if wanted == torch.channels_last else "contiguous"
    fits = out.is_contiguous(memory_format=wanted)
    check(fits, f"out must have the memory format of the result: {name}")


def source_index(size: int, pad: int, padding: str, device: torch.device) -> Tensor:
    """For each of ``size + 2·pad`` padded positions the one it is copied from, or -1 for a zero."""
    at = torch.arange(-pad, size + pad, device=device)
    if padding == "zeros":
        return torch.where((at < 0) | (at >= size), -1, at)
    if padding == "replicate":
        return at.clamp(0, size - 1)
    if padding == "circular":
        return at.remainder(size)
    period = max(2 * (size - 1), 1)
    at = at.remainder(period)
    return torch.minimum(at, period - at).clamp(max=size - 1)


def _pad(x: Tensor, pad: int, padding: str) -> Tensor:
    """``x``, ``[N, C, H, W]``, continued by ``pad`` pixels on every side."""
    rows = source_index(x.shape[2], pad, padding, x.device)
    cols = source_index(x.shape[3], pad, padding, x.device)
    inside = (rows >= 0)[:, None] & (cols >= 0)[None, :]
    return x[:, :, rows.clamp(min=0)][:, :, :, cols.clamp(min=0)].where(inside, 0)


def _unpad(grad: Tensor, pad: int, padding: str) -> Tensor:
    """The adjoint of ``_pad``: every padded position's gradient goes to the position it was copied from."""
    for dim in (2, 3):
        size = grad.shape[dim] - 2 * pad
        index = source_index(size, pad, padding, grad.device)
        kept = grad.index_select(dim, (index >= 0).nonzero()[:, 0])
        shape = [*grad.shape[:dim], size, *grad.shape[dim + 1 :]]
        grad = grad.new_zeros(shape).index_add(dim, index[index >= 0], kept)
    return grad


def fused_multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a·b + c rounded once, as the hardware's instruction does, for float32; plain for float64.

    The product is exact in float64. Its sum with c is rounded to odd, so that the second rounding, to
    float32, cannot see a tie that the first one made (Boldo and Melquiond, 2008).
    """
    if c.dtype == torch.float64:
        return a * b + c
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(torch.int64) & 1) == 0
    toward = torch.where(error > 0, torch.inf, -torch.inf)
    return torch.where((error != 0) & even, torch.nextafter(total, toward), total).float()


def compute_dtype(images: Tensor) -> torch.dtype:
    """The dtype that is computed in."""
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def as_float(images: Tensor) -> Tensor:
    """The images as numbers; bytes as b/255, correctly rounded."""
    if images.dtype == torch.uint8:
        table = torch.arange(256, dtype=torch.float64, device=images.device) / 255
        return table.float()[images.int()]
    return images.to(compute_dtype(images))


def _filtered(x: Tensor, weights: Tensor, padding: str) -> Tensor:
    """Equation (1) for x ``[N, C, H, W]`` and one filter for each image, ``[N, k, k]``; taps in row order."""
    height, width, k = x.shape[2], x.shape[3], weights.shape[-1]
    padded = _pad(x, k // 2, padding)
    total = torch.zeros_like(x)
    for i in range(k):
        for j in range(k):
            tap = padded[:, :, i : i + height, j : j + width]
            total = fused_multiply_add(tap, weights[:, i, j, None, None, None], total)
    return total


def _divisor(filtered: Tensor) -> Tensor:
    """m of (2) for each image, ``[N, 1, 1, 1]``."""
    peak = filtered.amax(dim=(1, 2, 3), keepdim=True)
    return peak.where(peak != 0, 1)


def empty_result(call: Arguments) -> Tensor:
    """Shape, dtype and memory format of the images."""
    return torch.empty_like(call.images, memory_format=memory_format(call.images))


def _reference(call: Arguments) -> Tensor:
    """(1) to (4) in plain PyTorch, byte for byte what the kernels give."""
    check_values(call)
    images, labels, filters, padding, rescale = call
    result = empty_result(call)
    if images.numel() == 0:
        return result
    if filters.shape[0] == 0:
        return result.copy_(images)
    weights = filters.to(compute_dtype(images))[labels.clamp(min=0)]
    filtered = _filtered(as_float(images), weights, padding)
    if rescale == "max":
        filtered = filtered / _divisor(filtered)
    if images.dtype == torch.uint8:
        filtered = (filtered * 255).clamp(0, 255)
    left_alone = (labels < 0)[:, None, None, None]
    return result.copy_(torch.where(left_alone, images, filtered.to(images.dtype)))


def _before_division(g: Tensor, filtered: Tensor) -> Tensor:
    """(5) and (6): from the gradient of x̃ to that of x̂, both ``[N, C, H, W]``."""
    divisor = _divisor(filtered)
    at_peak = filtered == divisor
    product, ties = (g * filtered).sum((1, 2, 3), keepdim=True), at_peak.sum((1, 2, 3), keepdim=True)
    return (g - torch.where(at_peak, product / divisor / ties, 0)) / divisor


def _reference_backward(grad: Tensor, call: Arguments) -> tuple[Tensor, Tensor]:
    """The gradients by (5) to (7), summed over the images of a class."""
    images, labels, filters, padding, rescale = call
    dtype, k = compute_dtype(images), filters.shape[-1]
    height, width = images.shape[2:]
    active = (labels >= 0)[:, None, None, None]
    weights = filters.to(dtype)[labels.clamp(min=0)]
    padded = _pad(as_float(images), k // 2, padding)
    g = grad.to(dtype)
    if rescale == "max":
        g = _before_division(g, _filtered(as_float(images), weights, padding))
    g = torch.where(active, g, 0)
    grad_padded = torch.zeros_like(padded)
    grad_weights = torch.zeros_like(weights)
    for i in range(k):
        for j in range(k):
            window = (slice(None), slice(None), slice(i, i + height), slice(j, j + width))
            grad_padded[window] += g * weights[:, i, j, None, None, None]
            grad_weights[:, i, j] = (g * padded[window]).sum((1, 2, 3))
    grad_images = torch.where(active, _unpad(grad_padded, k // 2, padding), grad.to(dtype))
    grad_filters = torch.zeros_like(filters, dtype=dtype).index_add(0, labels.clamp(min=0), grad_weights)
    return empty_result(call).copy_(grad_images), grad_filters.to(filters.dtype)


def _tangent(call: Arguments, tangents: dict[str, Tensor]) -> Tensor:
    """The derivative along tangents of images and filters: (1) is linear in both, (2) divides by the peak."""
    dtype = compute_dtype(call.images)
    images, filters = call.images.to(dtype), call.filters.to(dtype)
    d_images, d_filters = (tangents.get(name) for name in ("images", "filters"))
    active = (call.labels >= 0)[:, None, None, None]

    def filtered(x: Tensor, weights: Tensor) -> Tensor:
        return classwise_conv(x.to(dtype), call.labels, weights.to(dtype), call.padding, "none")

    along = torch.zeros_like(images)
    if d_images is not None:
        along = along + filtered(d_images, filters)
    if d_filters is not None:
        along = along + torch.where(active, filtered(images, d_filters), 0)
    if call.rescale == "max" and images.numel() > 0:
        values = filtered(images, filters)
        divisor = _divisor(values)
        at_peak = values == divisor
        peak_along = torch.where(at_peak, along, 0).sum((1, 2, 3), keepdim=True)
        peak_along = peak_along / at_peak.sum((1, 2, 3), keepdim=True).clamp(min=1)
        along = torch.where(active, (along - values / divisor * peak_along) / divisor, along)
    return along.to(call.images.dtype)


def _fake_backward(grad: Tensor, call: Arguments) -> tuple[Tensor, Tensor]:
    return empty_result(call), torch.empty_like(call.filters, memory_format=torch.contiguous_format)


def sample_inputs(device: str = "cpu") -> Iterator[tuple]:
    """Small inputs of every dtype, layout, padding and rescale, for the tests that walk ``ALL_OPS``."""
    generator = torch.Generator().manual_seed(0)
    for number, dtype in enumerate(IMAGE_DTYPES):
        images = torch.randint(0, 256, (5, 3, 9, 7), generator=generator, dtype=torch.uint8)
        if dtype != torch.uint8:
            images = (images / 255).to(dtype)
        if number % 2:
            images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.tensor([0, 2, -1, 1, 2])
        filters = torch.rand(3, 3, 3, generator=generator)
        for padding in PADDINGS:
            for rescale in RESCALES:
                yield images.to(device), labels.to(device), filters.to(device), padding, rescale


OPERATOR = define(
    classwise_conv,
    Arguments,
    "Tensor",
    check=check_arguments,
    reference=_reference,
    fake=empty_result,
    sample_inputs=sample_inputs,
    autograd=Backward(_reference_backward, _fake_backward, of=("images", "filters")),
    tangent=_tangent,
    check_out=check_out,
)
reference, reference_backward = OPERATOR.reference, OPERATOR.reference_backward
reference_into = OPERATOR.reference_into
