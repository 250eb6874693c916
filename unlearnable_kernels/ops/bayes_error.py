"""The Bayes error's surrogate: for every sample the error of a kernel posterior among the other samples.

    error_i = E_i / (E_i + T_i)    T_i the largest class's kernel mass around sample i, E_i all others' + 1e-8

Source: Zhang, Sun, Lim, Zhang, AAAI 2026, arXiv 2511.08191. docs/maths.md (B1) to (B8) define it and derive
the gradient. No N×N array exists at any time: rows come in chunks, the gradient is summed from products.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unlearnable_kernels.ops.labels import check_labels
from unlearnable_kernels.ops.library import define, differentiable_once

SIMILARITIES = ("rbf", "logistic")
PRECISIONS = ("ieee", "tf32", "bf16")
SMALLEST_MASS = 1e-8
REFERENCE_CHUNK = 1 << 22  # elements of the reference's largest array

SCHEMA = (
    "bayes_error(Tensor features, Tensor labels, int num_classes, float bandwidth,"
    ' str similarity="rbf", str precision="ieee", Tensor? references=None, int first_row=-1)'
    " -> (Tensor error, Tensor mass, Tensor winner)"
)
SCHEMA_BACKWARD = (
    "bayes_error_backward(Tensor grad, Tensor features, Tensor labels, Tensor mass, Tensor winner,"
    " int num_classes, float bandwidth, str similarity, str precision, Tensor? references, int first_row)"
    " -> (Tensor grad_features, Tensor grad_references)"
)


def bayes_error(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    bandwidth: float,
    similarity: str = "rbf",
    *,
    precision: str = "ieee",
    references: Tensor | None = None,
    first_row: int | None = None,
) -> Tensor:
    """The error of the kernel posterior at every row of ``features``; leave-one-out without ``references``.

    Args:
        features: ``[N, D]``, float32 or float64, finite.
        labels: int64, the class in ``[0, num_classes)`` of every row whose kernel mass is summed: ``[N]``, or
            ``[M]`` where ``references`` are given. The class of a query itself plays no part.
        num_classes: 1 to 2**24.
        bandwidth: σ > 0, at least 1e-12 times the longest row. Features and σ enter as features / σ alone.
        similarity: ``rbf``, exp(−‖z − r‖² / 2σ²), or ``logistic``, 1 / (1 + exp(−⟨z, r⟩ / σ²)).
        precision: of the matrix products for float32 features. ``ieee``: float32's accuracy. ``tf32`` and
            ``bf16`` may round their factors to 10 and 7 bits of mantissa (``tf32`` computes as ``ieee`` on
            the CPU). float64 features are computed in float64.
        references: ``[M, D]``, dtype and device of ``features``: the rows whose mass is summed, where they
            are not the features themselves.
        first_row: the features are rows first_row … first_row + N − 1 of ``references``, and no row counts
            for itself; None if they are other rows. Gradients of shards of rows, each with all rows as
            references, add up to the gradient of the whole.

    Returns:
        ``[N]`` in the dtype of ``features``, each in (0, 1]; 1 where all mass underflows, with gradient 0.
        Of tied classes the lowest counts. Differentiable with respect to ``features`` and ``references``:
        once, in reverse mode. Memory O((N + M)·(D + num_classes)).

    Raises:
        RuntimeError: an argument is not as said here; the message names it, its value and what is allowed.
    """
    row = -1 if first_row is None else first_row
    if first_row is not None and first_row < 0:
        raise RuntimeError(f"bayes_error: first_row must be 0 or more, got {first_row}")
    error: Tensor = torch.ops.unlearn.bayes_error(
        features, labels, num_classes, bandwidth, similarity, precision, references, row
    )[0]
    return error


def check_arguments(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    bandwidth: float,
    similarity: str,
    precision: str,
    references: Tensor | None,
    first_row: int,
) -> None:
    """What can be told without reading a value; ``csrc/cpu/bayes_error.cpp`` refuses the same."""

    def check(condition: bool, message: str) -> None:
        if not condition:
            raise RuntimeError(f"bayes_error: {message}")

    check(features.dim() == 2, f"features must be [N, D], got {features.dim()} dimensions")
    check(
        features.dtype in (torch.float32, torch.float64),
        f"features must be float32 or float64, got {features.dtype}",
    )
    pool, pool_name = (features, "features") if references is None else (references, "references")
    if references is not None:
        check(
            references.dim() == 2 and references.shape[1] == features.shape[1],
            f"references must be [M, {features.shape[1]}] as features are, got {list(references.shape)}",
        )
        check(
            references.dtype == features.dtype,
            f"references must have the dtype of features, {features.dtype}, got {references.dtype}",
        )
    check(
        labels.dim() == 1 and labels.dtype == torch.int64,
        f"labels must be int64 and of 1 dimension, got {labels.dtype} with {labels.dim()}",
    )
    check(
        labels.shape[0] == pool.shape[0],
        f"labels must hold one label for each of the {pool.shape[0]} {pool_name}, got {labels.shape[0]}",
    )
    check(1 <= num_classes <= 1 << 24, f"num_classes must lie in [1, 2**24], got {num_classes}")
    check(
        math.isfinite(bandwidth) and bandwidth > 0,
        f"bandwidth must be finite and greater than 0, got {bandwidth}",
    )
    check(
        similarity in SIMILARITIES, f"similarity must be one of {', '.join(SIMILARITIES)}, got '{similarity}'"
    )
    check(precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}, got '{precision}'")
    check(references is not None or first_row == -1, f"first_row is {first_row}, but without references")
    if references is not None:
        last = references.shape[0] - features.shape[0]
        check(
            first_row == -1 or 0 <= first_row <= last,
            f"first_row must lie in [0, {last}] for {features.shape[0]} features among"
            f" {references.shape[0]} references, got {first_row}",
        )
    check(
        features.device == labels.device == pool.device,
        f"features, labels and references must be on one device, got {features.device}, {labels.device},"
        f" {pool.device}",
    )


def check_values(features: Tensor, labels: Tensor, num_classes: int, references: Tensor | None) -> None:
    check_labels("bayes_error", labels, 0, num_classes)
    rows = {"features": features} | ({} if references is None else {"references": references})
    if labels.is_cuda:
        for name, x in rows.items():
            torch._assert_async(x.isfinite().all(), f"bayes_error: {name} must be finite")
        return
    for name, x in rows.items():
        if not x.isfinite().all():
            row, column = (~x.isfinite()).nonzero()[0].tolist()
            raise RuntimeError(
                f"bayes_error: {name}[{row}, {column}] is {float(x[row, column])}, but must be finite"
            )


class _Rows:
    """Queries and references in float64, centred for rbf, and the kernel's rows for a chunk of queries."""

    def __init__(
        self, features: Tensor, bandwidth: float, similarity: str, references: Tensor | None, first_row: int
    ) -> None:
        self.shared = references is None
        self.first_row = 0 if references is None else first_row
        self.references = (features if references is None else references).double()
        self.queries = features.double()
        self.rbf, self.scale = similarity == "rbf", bandwidth**-2
        if self.rbf and len(self.references) > 0:
            mean = self.references.mean(0)
            self.references, self.queries = self.references - mean, self.queries - mean

    def chunks(self) -> Iterator[slice]:
        step = max(1, REFERENCE_CHUNK // max(1, len(self.references)))
        for begin in range(0, len(self.queries), step):
            yield slice(begin, begin + step)

    def kernel(self, chunk: slice) -> Tensor:
        """Equation (B1) for the chunk's queries and all references."""
        z, r = self.queries[chunk], self.references
        products = z @ r.T
        if self.rbf:
            squares = (z.square().sum(1)[:, None] + r.square().sum(1) - 2 * products).clamp(min=0)
            kernel = torch.exp(squares * (-self.scale / 2))
        else:
            kernel = torch.sigmoid(products * self.scale)
        if self.first_row >= 0:
            rows = torch.arange(len(z), device=z.device)
            kernel[rows, rows + self.first_row + chunk.start] = 0
        return kernel


def reference(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    bandwidth: float,
    similarity: str = "rbf",
    precision: str = "ieee",
    references: Tensor | None = None,
    first_row: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator in plain PyTorch, in float64 whatever ``precision``; serves where there is no kernel."""
    check_arguments(features, labels, num_classes, bandwidth, similarity, precision, references, first_row)
    check_values(features, labels, num_classes, references)
    count = features.shape[0]
    error = features.new_empty(count)
    mass = features.new_empty(count, 2)
    winner = labels.new_empty(count)
    rows = _Rows(features, bandwidth, similarity, references, first_row)
    for chunk in rows.chunks():
        kernel = rows.kernel(chunk)
        by_class = kernel.new_zeros(len(kernel), num_classes).index_add_(1, labels, kernel)
        winner[chunk] = by_class.argmax(1)
        won = by_class.gather(1, winner[chunk, None])[:, 0]
        others = by_class.scatter_(1, winner[chunk, None], 0).sum(1) + SMALLEST_MASS
        mass[chunk] = torch.stack([won, others], 1).to(mass.dtype)
        error[chunk] = (others / (others + won)).to(error.dtype)
    return error, mass, winner


def reference_backward(
    grad: Tensor,
    features: Tensor,
    labels: Tensor,
    mass: Tensor,
    winner: Tensor,
    num_classes: int,
    bandwidth: float,
    similarity: str,
    precision: str,
    references: Tensor | None,
    first_row: int,
) -> tuple[Tensor, Tensor]:
    """The gradients (B6) of both roles; their sum, (B8), where the references are the features."""
    rows = _Rows(features, bandwidth, similarity, references, first_row)
    grad_queries = torch.zeros_like(rows.queries)
    grad_references = torch.zeros_like(rows.references)
    won, others = mass.double().unbind(1)
    weight = grad.double() / (won + others).square()
    for chunk in rows.chunks():
        z, kernel = rows.queries[chunk], rows.kernel(chunk)
        is_winner = labels == winner[chunk, None]
        s = torch.where(is_winner, (weight * others)[chunk, None], (-weight * won)[chunk, None]) * kernel
        if rows.rbf:
            grad_queries[chunk] = s.sum(1, keepdim=True) * z - s @ rows.references
            grad_references += s.sum(0)[:, None] * rows.references - s.T @ z
        else:
            s = s * (1 - kernel)
            grad_queries[chunk] = -s @ rows.references
            grad_references -= s.T @ z
    if rows.shared:
        grad_queries, grad_references = grad_queries + grad_references, features.new_empty(0)
    scaled = [(g * rows.scale).to(features.dtype) for g in (grad_queries, grad_references)]
    return scaled[0], scaled[1]


def fake(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    bandwidth: float,
    similarity: str = "rbf",
    precision: str = "ieee",
    references: Tensor | None = None,
    first_row: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    check_arguments(features, labels, num_classes, bandwidth, similarity, precision, references, first_row)
    count = features.shape[0]
    return features.new_empty(count), features.new_empty(count, 2), labels.new_empty(count)


def fake_backward(
    grad: Tensor,
    features: Tensor,
    labels: Tensor,
    mass: Tensor,
    winner: Tensor,
    num_classes: int,
    bandwidth: float,
    similarity: str,
    precision: str,
    references: Tensor | None,
    first_row: int,
) -> tuple[Tensor, Tensor]:
    shape = (0,) if references is None else references.shape
    return features.new_empty(features.shape), features.new_empty(shape)


def sample_inputs(device: str = "cpu") -> Iterator[tuple]:
    """Small inputs of every dtype, similarity, precision and kind of references, for ``ALL_OPS``'s tests."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(70) % 4
    centres = torch.randn(4, 19, generator=generator, dtype=torch.float64)
    pool = (centres[labels] + 0.5 * torch.randn(70, 19, generator=generator, dtype=torch.float64)) / 4
    for dtype in (torch.float32, torch.float64):
        rows = pool.to(device, dtype)
        for similarity in SIMILARITIES:
            for precision in ("ieee", "tf32"):
                call = (labels.to(device), 4, 0.7, similarity, precision)
                yield rows, *call, None, -1
                yield rows[10:30], *call, rows, 10
                yield rows[:33] + 0.1, *call, rows.clone(), -1


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    features, labels, *ctx.options, references, ctx.first_row = inputs
    _, mass, winner = output
    ctx.mark_non_differentiable(mass, winner)
    ctx.save_for_backward(features, labels, mass, winner, references)


def _backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple:
    features, labels, mass, winner, references = ctx.saved_tensors
    grad_features, grad_references = torch.ops.unlearn.bayes_error_backward(
        grad, features, labels, mass, winner, *ctx.options, references, ctx.first_row
    )
    without_grad = (None,) * (1 + len(ctx.options))
    return grad_features, *without_grad, None if references is None else grad_references, None


define(SCHEMA, reference, fake)
define(SCHEMA_BACKWARD, reference_backward, fake_backward)
differentiable_once("bayes_error", _backward, _save_for_backward)
