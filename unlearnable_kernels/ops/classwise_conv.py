"""Class-wise convolution: every image is filtered with the filter of its class and rescaled by its maximum.

    x̂ = x ⋆ s_y        cross-correlation, stride 1, same size, the same k×k filter for every channel   (1)
    x̃ = x̂ / max(x̂)     the maximum over all pixels and channels of that image                          (2)

Source: Sadasivan, Soltanolkotabi, Feizi, "CUDA: Convolution-based Unlearnable Datasets", CVPR 2023,
arXiv 2303.04278.
docs/maths.md numbers the equations and derives the gradients.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unlearnable_kernels.ops.labels import check_labels
from unlearnable_kernels.ops.library import LIBRARY, call_below_autograd, define, differentiable_once

PADDINGS = ("zeros", "reflect", "replicate", "circular")
RESCALES = ("max", "none")
IMAGE_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)

SCHEMA = (
    "classwise_conv(Tensor images, Tensor labels, Tensor filters,"
    ' str padding="zeros", str rescale="max") -> Tensor'
)
# Not an `.out` overload: torch.compile refuses those whose result is channels-last.
SCHEMA_INTO = (
    "classwise_conv_into(Tensor images, Tensor labels, Tensor filters, Tensor(a!) out,"
    ' str padding="zeros", str rescale="max") -> ()'
)
SCHEMA_BACKWARD = (
    "classwise_conv_backward(Tensor grad, Tensor images, Tensor labels, Tensor filters,"
    " str padding, str rescale) -> (Tensor, Tensor)"
)


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
        Float results are differentiable with respect to ``images`` and ``filters``: once, in reverse mode.

    Raises:
        RuntimeError: an argument is not as said here; the message names it, its value and what is allowed.
    """
    if out is None:
        result: Tensor = torch.ops.unlearn.classwise_conv(images, labels, filters, padding, rescale)
        return result
    torch.ops.unlearn.classwise_conv_into(images, labels, filters, out, padding, rescale)
    return out


def memory_format(images: Tensor) -> torch.memory_format:
    if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def check_arguments(images: Tensor, labels: Tensor, filters: Tensor, padding: str, rescale: str) -> None:
    """What can be told without reading a value; ``csrc/cpu/classwise_conv.cpp`` refuses the same."""

    def check(condition: bool, message: str) -> None:
        if not condition:
            raise RuntimeError(f"classwise_conv: {message}")

    check(images.dim() == 4, f"images must be [N, C, H, W], got {images.dim()} dimensions")
    check(
        images.dtype in IMAGE_DTYPES,
        f"images must be uint8, float16, bfloat16, float32 or float64, got {images.dtype}",
    )
    check(
        labels.dim() == 1 and labels.dtype == torch.int64,
        f"labels must be int64 [N], got {labels.dtype} with {labels.dim()} dimensions",
    )
    check(
        labels.shape[0] == images.shape[0],
        f"labels must hold one label for each of the {images.shape[0]} images, got {labels.shape[0]}",
    )
    check(
        filters.dim() == 3 and filters.shape[1] == filters.shape[2] and filters.shape[1] % 2 == 1,
        f"filters must be [K, k, k] with k odd, got {list(filters.shape)}",
    )
    wanted = "float32 or float64" if images.dtype == torch.float64 else "float32"
    check(
        filters.dtype == torch.float32 or (filters.dtype == images.dtype == torch.float64),
        f"filters must be {wanted} for {images.dtype} images, got {filters.dtype}",
    )
    check(padding in PADDINGS, f"padding must be one of {', '.join(PADDINGS)}, got '{padding}'")
    check(rescale in RESCALES, f"rescale must be one of {', '.join(RESCALES)}, got '{rescale}'")
    check(
        images.device == labels.device == filters.device,
        f"images, labels and filters must be on one device, got {images.device}, {labels.device},"
        f" {filters.device}",
    )


def check_values(images: Tensor, labels: Tensor, filters: Tensor) -> None:
    check_labels("classwise_conv", labels, -1, filters.shape[0])
    if images.dtype != torch.uint8:
        return
    bounded = (filters.abs() <= 1e30).all()
    message = "classwise_conv: filters must lie within ±1e30 for uint8 images"
    if labels.is_cuda:
        torch._assert_async(bounded, message)
    elif not bounded:
        raise RuntimeError(message)


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


def _compute_dtype(images: Tensor) -> torch.dtype:
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def _as_float(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        table = torch.arange(256, dtype=torch.float64, device=images.device) / 255
        return table.float()[images.int()]
    return images.to(_compute_dtype(images))


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
    peak = filtered.amax(dim=(1, 2, 3), keepdim=True)
    return peak.where(peak != 0, 1)


def reference(
    images: Tensor, labels: Tensor, filters: Tensor, padding: str = "zeros", rescale: str = "max"
) -> Tensor:
    """The operator in plain PyTorch, byte for byte what the kernels give; serves where there is none."""
    check_arguments(images, labels, filters, padding, rescale)
    check_values(images, labels, filters)
    result = torch.empty_like(images, memory_format=memory_format(images))
    if images.numel() == 0:
        return result
    if filters.shape[0] == 0:
        return result.copy_(images)
    weights = filters.to(_compute_dtype(images))[labels.clamp(min=0)]
    filtered = _filtered(_as_float(images), weights, padding)
    if rescale == "max":
        filtered = filtered / _divisor(filtered)
    if images.dtype == torch.uint8:
        filtered = (filtered * 255).clamp(0, 255)
    left_alone = (labels < 0)[:, None, None, None]
    return result.copy_(torch.where(left_alone, images, filtered.to(images.dtype)))


def check_out(images: Tensor, out: Tensor) -> None:
    def check(condition: bool, message: str) -> None:
        if not condition:
            raise RuntimeError(f"classwise_conv: {message}")

    same = (out.dtype, out.shape, out.device) == (images.dtype, images.shape, images.device)
    check(same, "out must have the dtype, shape and device of images")
    wanted = memory_format(images)
    name = "channels-last" if wanted == torch.channels_last else "contiguous"
    check(
        out.is_contiguous(memory_format=wanted),
        f"out must have the memory format of the result: {name}",
    )


def reference_into(
    images: Tensor,
    labels: Tensor,
    filters: Tensor,
    out: Tensor,
    padding: str = "zeros",
    rescale: str = "max",
) -> None:
    check_out(images, out)
    if images.numel() > 0 and out.untyped_storage().data_ptr() == images.untyped_storage().data_ptr():
        raise RuntimeError("classwise_conv: out must share no memory with images")
    out.copy_(reference(images, labels, filters, padding, rescale))


def reference_backward(
    grad: Tensor, images: Tensor, labels: Tensor, filters: Tensor, padding: str, rescale: str
) -> tuple[Tensor, Tensor]:
    """The gradients by docs/maths.md (5) to (7), summed over the filters of a class."""
    dtype, k = _compute_dtype(images), filters.shape[-1]
    height, width = images.shape[2:]
    active = (labels >= 0)[:, None, None, None]
    weights = filters.to(dtype)[labels.clamp(min=0)]
    padded = _pad(_as_float(images), k // 2, padding)
    g = grad.to(dtype)
    if rescale == "max":
        filtered = _filtered(_as_float(images), weights, padding)
        divisor = _divisor(filtered)
        at_peak = filtered == divisor
        share = (g * filtered).sum((1, 2, 3), keepdim=True) / divisor / at_peak.sum((1, 2, 3), keepdim=True)
        g = (g - torch.where(at_peak, share, 0)) / divisor
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
    result = torch.empty_like(images, memory_format=memory_format(images)).copy_(grad_images)
    return result, grad_filters.to(filters.dtype)


def fake(
    images: Tensor, labels: Tensor, filters: Tensor, padding: str = "zeros", rescale: str = "max"
) -> Tensor:
    check_arguments(images, labels, filters, padding, rescale)
    return torch.empty_like(images, memory_format=memory_format(images))


def fake_into(
    images: Tensor,
    labels: Tensor,
    filters: Tensor,
    out: Tensor,
    padding: str = "zeros",
    rescale: str = "max",
) -> None:
    check_arguments(images, labels, filters, padding, rescale)
    check_out(images, out)


def fake_backward(
    grad: Tensor, images: Tensor, labels: Tensor, filters: Tensor, padding: str, rescale: str
) -> tuple[Tensor, Tensor]:
    grad_images = torch.empty_like(images, memory_format=memory_format(images))
    return grad_images, torch.empty_like(filters, memory_format=torch.contiguous_format)


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


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    images, labels, filters, ctx.padding, ctx.rescale = inputs
    ctx.save_for_backward(images, labels, filters)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None, None]:
    images, labels, filters = ctx.saved_tensors
    grad_images, grad_filters = torch.ops.unlearn.classwise_conv_backward(
        grad, images, labels, filters, ctx.padding, ctx.rescale
    )
    return grad_images, None, grad_filters, None, None


def _into_without_grad(images: Tensor, labels: Tensor, filters: Tensor, out: Tensor, *how: str) -> None:
    if torch.is_grad_enabled() and any(t.requires_grad for t in (images, filters, out)):
        raise RuntimeError(
            "classwise_conv: out= is not differentiable, but images, filters or out require grad"
        )
    call_below_autograd("classwise_conv_into", images, labels, filters, out, *how)


define(SCHEMA, reference, fake)
define(SCHEMA_INTO, reference_into, fake_into)
define(SCHEMA_BACKWARD, reference_backward, fake_backward)
differentiable_once("classwise_conv", _backward, _save_for_backward)
LIBRARY.impl("classwise_conv_into", _into_without_grad, "Autograd")
