"""Class-wise spectrum: every image's cosine coefficients are mixed by its class, and its tones bent.

    X[c] = DCT of channel c                                orthonormal, in both dimensions        (S2)
    y = inverse DCT of Y,   Y[c, u, v] = Σ_d w[u, v, c, d] · X[d, u, v]                           (S3)
    z[c] = y[c] + Σ_f a[c, f] · sin(1.5π f · y[c] + φ[c, f])      f = 1 … F                       (S4)

docs/maths.md numbers the equations, fixes their rounding and derives the gradients.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unlearnable_kernels.ops.checks import Checks
from unlearnable_kernels.ops.classwise_conv import as_float, compute_dtype, fused_multiply_add, memory_format
from unlearnable_kernels.ops.cosine_transform import transformed
from unlearnable_kernels.ops.library import Backward, define

IMAGE_DTYPES = (torch.uint8, torch.float32, torch.float64)
LARGEST = 1e20

# sin(2πr) = r (1 − 4r²) Σ_k s_k r²ᵏ for |r| ≤ 1/2: to 10⁻⁷ for float32, to float64's precision.
SINE = (6.283182621002197, -16.208669662475586, 16.760974884033203, -9.53079891204834, 3.0583252906799316)
SINE_OF_FLOAT64 = (
    6.283185307179586,
    -16.208961011681414,
    16.769405229349395,
    -9.6282388356638,
    3.54573860224246,
    -0.9116881678531498,
    0.173199913435683,
    -0.02532264803576856,
    0.0029385700650655998,
    -0.0002773056818582279,
    2.170102081888465e-05,
    -1.431252716891451e-06,
    8.064153538410201e-08,
    -3.926693263303666e-09,
)

check = Checks("classwise_spectrum")


class Arguments(NamedTuple):
    """What ``classwise_spectrum`` describes."""

    images: Tensor
    labels: Tensor
    weights: Tensor
    curves: Tensor


def classwise_spectrum(images: Tensor, labels: Tensor, weights: Tensor, curves: Tensor) -> Tensor:
    """Mix the channels of every image at each frequency as its class says, then bend each channel's tones.

    Args:
        images: ``[N, C, H, W]``, uint8 (0 to 255, read as x/255), float32 or float64; contiguous or
            channels-last. ``[N, H, W, C]`` storage comes in as ``.permute(0, 3, 1, 2)``, without a copy;
            other strides are copied first.
        labels: int64 ``[N]``, each in ``[-1, K)``; an image labelled -1 is returned as it is.
        weights: ``[K, H, W, C, C]``, float32 (float64 too where the images are float64): for class and
            frequency (u, v) the matrix that the channels' coefficients are multiplied by; for uint8 images
            finite and within ±1e20 in every class that occurs.
        curves: ``[K, C, F, 2]``, dtypes as for weights: amplitude and phase of the sine of f = 1 … F
            three-quarter turns (1.5π f) over the range of tones; F may be 0; for uint8 images finite and
            within ±1e20 in every class that occurs.

    Returns:
        Dtype, shape and memory format of ``images``. uint8 results are clamped to 0…1 and rounded to the
        nearest 255th, ties to even, and the same bytes on every backend, instruction set, thread count and
        batch split. Float results are not clamped, and are differentiable with respect to ``images``,
        ``weights`` and ``curves``: once in reverse mode, any number of times in forward mode, and in
        reverse mode over forward mode.

    Raises:
        RuntimeError: an argument is not as said here; the message names it, its value and what is allowed.
    """
    result: Tensor = torch.ops.unlearn.classwise_spectrum(images, labels, weights, curves)
    return result


def check_arguments(call: Arguments) -> None:
    """Refuses what can be told without reading a value."""
    images, labels, weights, curves = call
    check.layout("images", images, "[N, C, H, W]")
    check.dtype("images", images.dtype, IMAGE_DTYPES)
    check.labels(labels, images.shape[0], "images")
    _, channels, height, width = images.shape
    fits = weights.dim() == 5 and tuple(weights.shape[1:]) == (height, width, channels, channels)
    wanted = f"[K, {height}, {width}, {channels}, {channels}]"
    check(fits, f"weights must be [K, H, W, C, C], here {wanted}, got {list(weights.shape)}")
    fits = curves.dim() == 4 and (*curves.shape[:2], curves.shape[3]) == (weights.shape[0], channels, 2)
    wanted = f"[{weights.shape[0]}, {channels}, F, 2]"
    check(fits, f"curves must be [K, C, F, 2], here {wanted}, got {list(curves.shape)}")
    wide = (torch.float64,) * (images.dtype == torch.float64)
    check.dtype("weights", weights.dtype, (torch.float32, *wide))
    check.dtype("curves", curves.dtype, (torch.float32, *wide))
    check.one_device(images=images, labels=labels, weights=weights, curves=curves)


def check_values(call: Arguments) -> None:
    """Refuses labels out of range, and weights and curves in use that bytes would not survive."""
    labels, classes = call.labels, call.weights.shape[0]
    check.values_within("labels", labels, -1, classes)
    if call.images.dtype == torch.uint8:
        used = torch.zeros(classes + 1, dtype=torch.bool, device=labels.device)
        used = used.index_fill(0, labels + 1, True)[1:].view(-1, 1, 1, 1)
        for name, values, unused in (
            ("weights", call.weights, ~used[..., None]),
            ("curves", call.curves, ~used),
        ):
            good = unused | (values.abs() <= LARGEST)
            check.values(values, good, name, "must lie within ±1e20 for uint8 images")


def empty_result(call: Arguments) -> Tensor:
    """Shape, dtype and memory format of the images."""
    return torch.empty_like(call.images, memory_format=memory_format(call.images))


def _scale(x: Tensor) -> Tensor:
    """4/HW, halved for u = 0 and for v = 0: what (S1) and its adjoint lack to be orthonormal, ``[H, W]``."""
    height, width = x.shape[-2:]
    scale = torch.full((height, width), 4 / (height * width), dtype=x.dtype, device=x.device)
    scale[0] /= 2
    scale[:, 0] /= 2
    return scale


def _add_sine(total: Tensor, y: Tensor, f: int, amplitudes: Tensor, phases: Tensor) -> Tensor:
    """Adds the f-th sine of (S4) by (S10): in turns, whole ones removed, then an odd polynomial."""
    one, per_turn = torch.ones_like(y), torch.tensor(0.5 / math.pi, dtype=y.dtype, device=y.device)
    turns = fused_multiply_add(0.75 * f * one, y, phases * per_turn)
    rest = turns - torch.round(turns)
    square = rest * rest
    first, *coefficients = reversed(SINE_OF_FLOAT64 if y.dtype == torch.float64 else SINE)
    polynomial = first * one
    for coefficient in coefficients:
        polynomial = fused_multiply_add(polynomial, square, coefficient * one)
    roots = rest * fused_multiply_add(square, -4 * one, one)
    return fused_multiply_add(polynomial, roots * amplitudes, total)


def _mixed(x: Tensor, weights: Tensor) -> Tensor:
    """(S2) and (S3) for one class's weights for each image, ``[N, H, W, C, C]``."""
    coefficients = transformed(x, (2, 3)) * _scale(x)
    channels = []
    for to in range(x.shape[1]):
        total = weights[..., to, 0] * coefficients[:, 0]
        for of in range(1, x.shape[1]):
            total = fused_multiply_add(weights[..., to, of], coefficients[:, of], total)
        channels.append(total)
    return transformed(torch.stack(channels, 1), (3, 2), inverse=True)


def _bent(y: Tensor, curves: Tensor) -> Tensor:
    """(S4) for one class's curves for each image, ``[N, C, F, 2]``."""
    total = y
    for f in range(curves.shape[2]):
        amplitudes, phases = curves[:, :, f, :, None, None].unbind(2)
        total = _add_sine(total, y, f + 1, amplitudes, phases)
    return total


def _reference(call: Arguments) -> Tensor:
    """(S2) to (S10) in plain PyTorch, byte for byte what the kernels give."""
    check_values(call)
    images, labels, weights, curves = call
    result = empty_result(call)
    if images.numel() == 0:
        return result
    if weights.shape[0] == 0:
        return result.copy_(images)
    dtype, of = compute_dtype(images), labels.clamp(min=0)
    z = _bent(_mixed(as_float(images), weights.to(dtype)[of]), curves.to(dtype)[of])
    if images.dtype == torch.uint8:
        z = (z.clamp(0, 1) * 255).round()
    left_alone = (labels < 0)[:, None, None, None]
    return result.copy_(torch.where(left_alone, images, z.to(images.dtype)))


def _basis(n: int, like: Tensor) -> Tensor:
    """The orthonormal DCT's matrix, frequencies down, ``[n, n]``."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / (2 * n) * k * (2 * i + 1)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis.to(like)


def _reference_backward(grad: Tensor, call: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by (S11) to (S13), with the transforms as matrix products."""
    images, labels, weights, curves = call
    dtype, of = compute_dtype(images), labels.clamp(min=0)
    active = (labels >= 0)[:, None, None, None]
    x = torch.where(active, as_float(images), 0)  # of class 0 for now, to which they add nothing
    grad_curves = torch.zeros_like(curves, dtype=dtype)
    grad_weights = torch.zeros_like(weights, dtype=dtype)
    if images.numel() == 0 or weights.shape[0] == 0:
        grad_images = empty_result(call).copy_(grad)
        return grad_images, grad_weights.to(weights.dtype), grad_curves.to(curves.dtype)
    w, curve = weights.to(dtype)[of], curves.to(dtype)[of]
    down, across = _basis(x.shape[2], x), _basis(x.shape[3], x)
    coefficients = down @ x @ across.mT
    mixed = torch.einsum("nuvcd,nduv->ncuv", w, coefficients)
    y = down.mT @ mixed @ across
    g = torch.where(active, grad.to(dtype), 0)
    slope = torch.ones_like(y)
    for f in range(curves.shape[2]):
        amplitudes, phases = curve[:, :, f, :, None, None].unbind(2)
        rate = 1.5 * math.pi * (f + 1)
        sine, cosine = torch.sin(rate * y + phases), torch.cos(rate * y + phases)
        slope = slope + amplitudes * rate * cosine
        each = torch.stack([g * sine, g * cosine * amplitudes], 2).sum((3, 4))
        grad_curves[:, :, f].index_add_(0, of, each)
    grad_mixed = down @ (g * slope) @ across.mT
    channels = range(x.shape[1])
    for to in channels:
        for d in channels:
            grad_weights[..., to, d].index_add_(0, of, grad_mixed[:, to] * coefficients[:, d])
    grad_x = down.mT @ torch.einsum("nuvcd,ncuv->nduv", w, grad_mixed) @ across
    grad_images = empty_result(call).copy_(torch.where(active, grad_x, grad.to(dtype)))
    return grad_images, grad_weights.to(weights.dtype), grad_curves.to(curves.dtype)


def _tangent(call: Arguments, tangents: dict[str, Tensor]) -> Tensor:
    """The derivative along tangents: (S2) and (S3) are linear in images and weights, (S4) follows (S11)."""
    dtype, of = compute_dtype(call.images), call.labels.clamp(min=0)
    images, weights, curves = (t.to(dtype) for t in (call.images, call.weights, call.curves))
    active = (call.labels >= 0)[:, None, None, None]

    def mixed(x: Tensor, w: Tensor) -> Tensor:
        return classwise_spectrum(x.to(dtype), call.labels, w.to(dtype), curves[:, :, :0])

    along = torch.zeros_like(images)
    if "images" in tangents:
        along = along + mixed(tangents["images"], weights)
    if "weights" in tangents:
        along = along + torch.where(active, mixed(images, tangents["weights"]), 0)
    y, bent = mixed(images, weights), along
    for f in range(curves.shape[2] if weights.shape[0] else 0):
        rate = 1.5 * math.pi * (f + 1)
        amplitudes, phases = curves[of, :, f, :, None, None].unbind(2)
        sine, cosine = torch.sin(rate * y + phases), torch.cos(rate * y + phases)
        bent = bent + amplitudes * rate * cosine * along
        if "curves" in tangents:
            by_amplitude, by_phase = tangents["curves"].to(dtype)[of, :, f, :, None, None].unbind(2)
            bent = bent + by_amplitude * sine + by_phase * amplitudes * cosine
    return torch.where(active, bent, along).to(call.images.dtype)


def _fake_backward(grad: Tensor, call: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    weights, curves = (
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (call.weights, call.curves)
    )
    return empty_result(call), weights, curves


def sample_inputs(device: str = "cpu") -> Iterator[tuple]:
    """Small inputs of every dtype and layout, one and three channels, with and without curves."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((3, 9, 12), (1, 8, 5), (3, 6, 20))
    for number, dtype in enumerate(IMAGE_DTYPES):
        for channels, height, width in sizes:
            images = torch.randint(
                0, 256, (5, channels, height, width), generator=generator, dtype=torch.uint8
            )
            images = images if dtype == torch.uint8 else (images / 255).to(dtype)
            if (number + height) % 2:
                images = images.contiguous(memory_format=torch.channels_last)
            labels = torch.tensor([0, 2, -1, 1, 2])
            mixing = torch.randn(3, height, width, channels, channels, generator=generator)
            weights = torch.eye(channels) + 0.3 * mixing
            curves = 0.1 * torch.randn(3, channels, height % 4, 2, generator=generator)
            yield images.to(device), labels.to(device), weights.to(device), curves.to(device)


OPERATOR = define(
    classwise_spectrum,
    Arguments,
    "Tensor",
    check=check_arguments,
    reference=_reference,
    fake=empty_result,
    sample_inputs=sample_inputs,
    autograd=Backward(_reference_backward, _fake_backward, of=("images", "weights", "curves")),
    tangent=_tangent,
)
reference, reference_backward = OPERATOR.reference, OPERATOR.reference_backward
