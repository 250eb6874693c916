"""The Bayes error's surrogate: for every sample the error of a kernel posterior among the other samples.

    error_i = E_i / (E_i + T_i)    T_i the largest class's kernel mass around sample i, E_i all others' + 1e-8

Source: Zhang, Sun, Lim, Zhang, AAAI 2026, arXiv 2511.08191. docs/maths.md (B1) to (B8) define it and derive
the gradient. No N×N array exists at any time: rows come in chunks, the gradient is summed from products.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from unlearnable_kernels.ops.checks import Checks
from unlearnable_kernels.ops.library import Backward, define

SIMILARITIES = ("rbf", "logistic")
DTYPES = (torch.float32, torch.float64)
PRECISIONS = ("ieee", "tf32", "bf16")
SMALLEST_MASS = 1e-8
REFERENCE_CHUNK = 1 << 22  # elements of the reference's largest array

MAX_CLASSES = 1 << 24  # class numbers travel as float32 in the CPU's kernels

check = Checks("bayes_error")


class Arguments(NamedTuple):
    """What ``bayes_error`` describes; first_row is -1 for None."""

    features: Tensor
    labels: Tensor
    num_classes: int
    bandwidth: float
    similarity: str = "rbf"
    precision: str = "ieee"
    references: Tensor | None = None
    first_row: int = -1

    @property
    def pool(self) -> Tensor:
        """``[M, D]``: the rows whose mass is summed."""
        return self.features if self.references is None else self.references


class Posterior(Protocol):
    """The arguments that a kernel posterior has wherever its rows come from."""

    @property
    def labels(self) -> Tensor: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def bandwidth(self) -> float: ...


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
        once, in reverse mode. Under autocast features of half precision are taken as float32. Memory
        O((N + M)·(D + num_classes)). On a GPU the host waits for nothing, and value and gradient of float32
        features can be captured in a CUDA graph once a call of that shape has compiled the kernels.

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


def check_posterior(check: Checks, call: Posterior, count: int, of: str, dimension: str = "N") -> None:
    """What every operator on a kernel posterior over ``count`` rows called ``of`` refuses."""
    check.labels(call.labels, count, of, dimension)
    check.within("num_classes", call.num_classes, 1, MAX_CLASSES)
    check.positive("bandwidth", call.bandwidth)


def check_arguments(call: Arguments) -> None:
    """Refuses what can be told without reading a value."""
    features, references = call.features, call.references
    check.layout("features", features, "[N, D]")
    check.dtype("features", features.dtype, DTYPES)
    count, depth = features.shape
    if references is None:
        check_posterior(check, call, count, "features")
        check(call.first_row == -1, f"first_row is {call.first_row}, but without references")
    else:
        check(
            references.dim() == 2 and references.shape[1] == depth,
            f"references must be [M, {depth}] as features are, got {list(references.shape)}",
        )
        got, wanted = references.dtype, features.dtype
        check(got == wanted, f"references must have the dtype of features, {wanted}, got {got}")
        check_posterior(check, call, len(references), "references", "M")
        if call.first_row != -1:
            why = f" for {count} features among {len(references)} references"
            check.within("first_row", call.first_row, 0, len(references) - count, why)
    check.one_of("similarity", call.similarity, SIMILARITIES)
    check.one_of("precision", call.precision, PRECISIONS)
    check.one_device(features=features, labels=call.labels, references=references)


def check_values(call: Arguments) -> None:
    """Refuses labels out of range and rows that are not finite."""
    check.values_within("labels", call.labels, 0, call.num_classes)
    check.values_finite("features", call.features)
    if call.references is not None:
        check.values_finite("references", call.references)


def check_range(check: Checks, longest: Tensor, bandwidth: Tensor | float) -> None:
    """Refuses a bandwidth too small for the longest row, centred for rbf, whose length ``longest`` is."""
    quotient = longest.double() / bandwidth
    check.values(quotient, quotient < 1e12, "the longest row over bandwidth", "must be under 1e12")


class _Rows:
    """Queries and references in float64 and in bandwidths, centred for rbf; a chunk of the kernel's rows."""

    def __init__(self, call: Arguments) -> None:
        self.shared = call.references is None
        self.first_row = 0 if self.shared else call.first_row
        self.bandwidth = call.bandwidth
        self.references, self.queries = (t.double() / call.bandwidth for t in (call.pool, call.features))
        self.rbf = call.similarity == "rbf"
        if self.rbf and len(self.references) > 0:
            mean = self.references.mean(0)
            self.references, self.queries = self.references - mean, self.queries - mean

    def longest(self) -> Tensor:
        """The largest length of all rows."""
        lengths = self.queries.norm(dim=1), self.references.norm(dim=1)
        return torch.cat([*lengths, self.queries.new_zeros(1)]).amax()

    def chunks(self) -> Iterator[slice]:
        """Slices of queries, so that no array exceeds ``REFERENCE_CHUNK`` elements."""
        step = max(1, REFERENCE_CHUNK // max(1, len(self.references)))
        for begin in range(0, len(self.queries), step):
            yield slice(begin, begin + step)

    def kernel(self, chunk: slice) -> Tensor:
        """Equation (B1) for the chunk's queries and all references."""
        z, r = self.queries[chunk], self.references
        if self.rbf:  # products would lose the digits of rows far from the mean
            distances = torch.cdist(z, r, compute_mode="donot_use_mm_for_euclid_dist")
            kernel = torch.exp(distances.square() / -2)
        else:
            kernel = torch.sigmoid(z @ r.T)
        if self.first_row >= 0:
            rows = torch.arange(len(z), device=z.device)
            kernel[rows, rows + self.first_row + chunk.start] = 0
        return kernel


def _reference(call: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """(B1) to (B3) in plain PyTorch, in float64 whatever ``precision``.

    Returns:
        error ``[N]``, mass ``[N, 2]`` (T and E), both in the dtype of the features; winner int64 ``[N]``.
    """
    check_values(call)
    error, mass, winner = _fake(call)
    rows = _Rows(call)
    check_range(check, rows.longest(), 1.0)
    for chunk in rows.chunks():
        kernel = rows.kernel(chunk)
        by_class = kernel.new_zeros(len(kernel), call.num_classes).index_add_(1, call.labels, kernel)
        winner[chunk] = by_class.argmax(1)
        won = by_class.gather(1, winner[chunk, None])[:, 0]
        others = by_class.scatter_(1, winner[chunk, None], 0).sum(1) + SMALLEST_MASS
        mass[chunk] = torch.stack([won, others], 1).to(mass.dtype)
        error[chunk] = (others / (others + won)).to(error.dtype)
    return error, mass, winner


def _reference_backward(grad: Tensor, mass: Tensor, winner: Tensor, call: Arguments) -> tuple[Tensor, Tensor]:
    """The gradients (B6) of both roles; their sum, (B8), where the references are the features.

    Args:
        grad: ``[N]``, of the errors.
        mass: as ``_reference`` returns it.
        winner: likewise.
        call: the arguments of the forward.
    """
    rows = _Rows(call)
    grad_queries = torch.zeros_like(rows.queries)
    grad_references = torch.zeros_like(rows.references)
    won, others = mass.double().unbind(1)
    weight = grad.double() / (won + others).square()
    for chunk in rows.chunks():
        z, kernel = rows.queries[chunk], rows.kernel(chunk)
        is_winner = call.labels == winner[chunk, None]
        s = torch.where(is_winner, (weight * others)[chunk, None], (-weight * won)[chunk, None]) * kernel
        if rows.rbf:
            grad_queries[chunk] = s.sum(1, keepdim=True) * z - s @ rows.references
            grad_references += s.sum(0)[:, None] * rows.references - s.T @ z
        else:
            s = s * (1 - kernel)
            grad_queries[chunk] = -s @ rows.references
            grad_references -= s.T @ z
    if rows.shared:
        grad_queries, grad_references = grad_queries + grad_references, call.features.new_empty(0)
    scaled = [(g / rows.bandwidth).to(call.features.dtype) for g in (grad_queries, grad_references)]
    return scaled[0], scaled[1]


def _fake(call: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    count = call.features.shape[0]
    return call.features.new_empty(count), call.features.new_empty(count, 2), call.labels.new_empty(count)


def _fake_backward(grad: Tensor, mass: Tensor, winner: Tensor, call: Arguments) -> tuple[Tensor, Tensor]:
    shape = (0,) if call.references is None else call.references.shape
    return call.features.new_empty(call.features.shape), call.features.new_empty(shape)


def sample_inputs(device: str = "cpu") -> Iterator[tuple]:
    """Small inputs of every dtype, similarity, precision and kind of references, for ``ALL_OPS``'s tests."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(70) % 4
    centres = torch.randn(4, 19, generator=generator, dtype=torch.float64)
    pool = (centres[labels] + 0.5 * torch.randn(70, 19, generator=generator, dtype=torch.float64)) / 4
    for dtype in DTYPES:
        rows = pool.to(device, dtype)
        for similarity in SIMILARITIES:
            for precision in ("ieee", "tf32"):
                call = (labels.to(device), 4, 0.7, similarity, precision)
                yield rows, *call, None, -1
                yield rows[10:30], *call, rows, 10
                yield rows[:33] + 0.1, *call, rows.clone(), -1


OPERATOR = define(
    bayes_error,
    Arguments,
    "(Tensor error, Tensor mass, Tensor winner)",
    check=check_arguments,
    reference=_reference,
    fake=_fake,
    sample_inputs=sample_inputs,
    autograd=Backward(
        _reference_backward, _fake_backward, of=("features", "references"), statistics=("mass", "winner")
    ),
    autocast=torch.float32,
    tolerance=1e-5,
)
reference, reference_backward = OPERATOR.reference, OPERATOR.reference_backward
