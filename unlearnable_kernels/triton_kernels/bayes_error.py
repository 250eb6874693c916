"""bayes_error and its backward from Triton kernels: rows are sorted, padded and split, panels launched.

Memory beyond input and result, for N rows of D features: 4 to 10 bytes an element for the parts, 12 for
the scaled rows, centred and not, and their gradient, 4 N (2 C + 32) bytes for the masses of C classes and
their partial sums, and up to 6 PANEL² bytes for a panel of M: by count 0.9 GB at N 50,000, D 512. Nothing
waits for the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearnable_kernels.ops import bayes_error as contract
from unlearnable_kernels.triton_kernels import bayes_error_kernels as kernels
from unlearnable_kernels.triton_kernels.bayes_error_parts import PARTS, Parts, split

TILE = 128  # rows; half of it up to SMALL rows, so that there are programs for the whole device
SMALL = 4096
PANEL = 4096  # rows; M of a panel stays within the L2 cache in bf16
BLOCK_D, WARPS = 64, 8  # the latter for a whole TILE
STAGES, STAGES_OF_PRODUCTS = 3, 5  # the latter's loads wait for one another
LOG2_E = 1.4426950408889634
UNDERFLOW = 104.0  # exp(-104) rounds to 0 in float32
LONGEST = 8.0  # bandwidths from the mean: further out squares of distances err by over 1e-5


@dataclass(frozen=True)
class Rows:
    """One set of rows, sorted and padded to whole tiles."""

    points: Tensor  # [parts, padded, D padded]
    norms: Tensor  # float32 [padded]
    labels: Tensor  # int32 [padded], -1 in padding
    names: Tensor  # int32 [padded]: equal names on both sides are one row
    order: Tensor  # int64 [count]
    scaled: Tensor  # float32 [padded, D padded], what the parts are of
    raw: Tensor  # the same, but not centred
    tile: int

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def tiles(self) -> int:
        return self.count // self.tile

    def panels(self) -> Iterator[tuple[int, int]]:
        """First and end row of every panel."""
        return ((first, min(first + PANEL, self.count)) for first in range(0, self.count, PANEL))


def _prepared(
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    order: Tensor,
    labels: Tensor,
    names: Tensor,
    parts: Parts,
    tile: int,
) -> Rows:
    """Rows ``[count, features]`` centred, scaled, sorted, padded and split."""
    count, features = x.shape
    rows = (count + tile - 1) // tile * tile
    width = (features + BLOCK_D - 1) // BLOCK_D * BLOCK_D
    raw, scaled = x.new_zeros(2, rows, width)
    sorted_rows = x[order]
    raw[:count, :features] = sorted_rows * scale
    scaled[:count, :features] = (sorted_rows - mean) * scale
    points = split(scaled, parts.distance, parts.dtype)
    if parts.dtype == torch.bfloat16:
        scaled = points[0].float()
    rounded = points.float().sum(0) if parts.distance > 1 else points[0].float()
    return Rows(
        points,
        rounded.square_().sum(1),
        F.pad(labels[order].int(), (0, rows - count), value=-1),
        F.pad(names[order].int(), (0, rows - count), value=-1),
        order,
        scaled,
        raw,
        tile,
    )


@dataclass(frozen=True)
class Problem:
    """Queries x and references y (the same object where there are none), and what kernels need of both."""

    x: Rows
    y: Rows
    rbf: bool
    parts: Parts
    coefficient: Tensor  # float32 [1]: from scaled points to log2 of the kernel or its odds
    unscale: Tensor  # float32 scalar: from a gradient of scaled points to one of features
    active: Tensor  # uint8 [x tiles, y tiles]: 0 skipped, 1 from products, 2 from differences

    @property
    def shared(self) -> bool:
        return self.x is self.y

    def flags(self) -> dict[str, Any]:
        """Constants and options that all kernels on tiles share."""
        return {"RBF": self.rbf, "TILE": self.x.tile, "num_warps": WARPS * self.x.tile // TILE}

    def distance_flags(self) -> dict[str, Any]:
        """Constants and options of the kernels that form distances."""
        width = self.x.points.shape[2]
        block = BLOCK_D // self.parts.distance
        flags = {"PARTS": self.parts.distance, "D": width, "BLOCK_D": block, "num_stages": STAGES}
        return flags | self.flags()

    def distance_arguments(self) -> tuple:
        """What both sweeps' kernels start with, for the tiles' exponents."""
        x, y = self.x, self.y
        return (
            *(x.points, y.points, x.points.stride(0), y.points.stride(0), x.norms, y.norms),
            *(x.raw, y.raw),
            *(x.labels, y.labels, x.names, y.names, self.coefficient, self.active, self.active.stride(0)),
        )


def _active(x: Rows, y: Rows, threshold: Tensor) -> Tensor:
    """0 for pairs of tiles whose rows are all ``threshold`` apart, by the tiles' centres and radii."""

    def balls(rows: Rows) -> tuple[Tensor, Tensor]:
        tiles = rows.scaled.view(rows.tiles, rows.tile, -1)
        centres = tiles.mean(1)
        return centres, (tiles - centres[:, None]).square_().sum(2).amax(1).sqrt_()

    (x_centres, x_radii), (y_centres, y_radii) = balls(x), balls(y)
    apart = torch.cdist(x_centres, y_centres, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = apart * (1 - 1e-4) - (x_radii[:, None] + y_radii) * (1 + 1e-4)
    return (~(nearest > threshold)).to(torch.uint8)


def _wide(rows: Rows, longest: Tensor) -> Tensor:
    """Tiles with a row further than ``longest`` from the mean."""
    return rows.norms.view(rows.tiles, rows.tile).amax(1) > longest * longest


def _problem(call: contract.Arguments) -> Problem:
    """What the kernels need of a call, on its device."""
    features, pool = call.features, call.pool
    rbf, parts = call.similarity == "rbf", PARTS[call.precision]
    mean = pool.mean(0) if rbf else pool.new_zeros(pool.shape[1])
    largest = torch.maximum((features - mean).abs().amax(), (pool - mean).abs().amax())
    scale = torch.exp2(13 - torch.log2(largest.clamp(1e-30, 1e30)).ceil())
    tile = TILE if max(len(features), len(pool)) > SMALL else TILE // 2
    names = torch.arange(len(pool), device=pool.device)
    y = _prepared(pool, mean, scale, torch.argsort(call.labels, stable=True), call.labels, names, parts, tile)
    x = y
    if call.references is not None:
        rows = torch.arange(len(features), device=pool.device)
        own = rows + call.first_row if call.first_row >= 0 else torch.full_like(rows, -1)
        x = _prepared(features, mean, scale, rows, torch.zeros_like(rows), own, parts, tile)
    unit = (call.bandwidth * scale.double()).square()
    coefficient = (LOG2_E / unit * (-0.5 if rbf else 1.0)).float().view(1)
    if rbf:
        bandwidth = (call.bandwidth * scale.double()).float()
        active = _active(x, y, (2 * UNDERFLOW) ** 0.5 * bandwidth)
        active += active * (_wide(x, LONGEST * bandwidth)[:, None] | _wide(y, LONGEST * bandwidth))
    else:
        active = torch.ones(x.tiles, y.tiles, dtype=torch.uint8, device=pool.device)
    return Problem(x, y, rbf, parts, coefficient, (scale / unit).float(), active)


def _masses(problem: Problem, num_classes: int) -> Tensor:
    """``[classes, padded queries]``: every class's mass around every query."""
    x, y, shared = problem.x, problem.y, problem.shared
    masses = x.norms.new_zeros(num_classes, x.count)
    classes = torch.arange(num_classes + 1, device=y.labels.device, dtype=torch.int32)
    starts = torch.searchsorted(y.labels[: len(y.order)], classes).int()
    row_sums = x.norms.new_empty(y.tiles + num_classes, min(PANEL, x.count))
    col_sums = x.norms.new_empty(min(PANEL, x.count) // x.tile + num_classes, y.count) if shared else row_sums
    row, col = problem.active.stride()
    for first, end in x.panels():
        y_first = first if shared else 0
        tiles, width = (end - first) // x.tile, y.count - y_first
        kernels.class_sums[(width // x.tile, tiles)](
            *problem.distance_arguments(), row_sums, col_sums, first, y_first, end, end - first, width,
            BOTH=shared, **problem.distance_flags(),
        )  # fmt: skip
        kernels.add_masses[(num_classes, tiles)](
            row_sums, 0, end - first, masses, x.count, starts, y.labels, y_first, y.count, first,
            problem.active, row, col, TILE=x.tile,
        )  # fmt: skip
        if shared and end < y.count:
            kernels.add_masses[(num_classes, (y.count - end) // x.tile)](
                col_sums, end - first, width, masses, x.count, starts, x.labels, first, end, end,
                problem.active, col, row, TILE=x.tile,
            )  # fmt: skip
    return masses


def _statistics(problem: Problem, features: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Error, mass and winner in the order of ``features``."""
    x, count = problem.x, len(features)
    won, others = x.norms.new_empty(2, x.count)
    winner = torch.empty_like(x.labels)
    kernels.statistics[(x.tiles,)](
        _masses(problem, num_classes), x.count, won, others, winner, num_classes,
        contract.SMALLEST_MASS, TILE=x.tile,
    )  # fmt: skip
    mass, winners = features.new_empty(count, 2), x.order.new_empty(count)
    mass[x.order] = torch.stack([won, others], 1)[:count]
    winners[x.order] = winner[:count].long()
    return mass[:, 1] / mass.sum(1), mass, winners


def _serves(call: contract.Arguments) -> bool:
    """Whether the kernels serve; the reference does for float64 and where there is nothing to compute."""
    return call.features.dtype == torch.float32 and 0 not in call.features.shape and len(call.pool) > 0


def bayes_error(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``torch.ops.unlearn.bayes_error`` for CUDA tensors."""
    call = contract.Arguments(*arguments, **named)
    contract.check_arguments(call)
    if not _serves(call):
        results: tuple[Tensor, Tensor, Tensor] = contract.reference(*call)
        return results
    contract.check_values(call)
    with torch.cuda.device_of(call.features):
        return _statistics(_problem(call), call.features, call.num_classes)


@dataclass(frozen=True)
class Statistics:
    """Of sorted, padded queries: the winner, and a_ij of (B4) for references of its class and of others."""

    winner: Tensor
    pull: Tensor
    push: Tensor

    @classmethod
    def of(cls, rows: Rows, grad: Tensor, mass: Tensor, winner: Tensor) -> "Statistics":
        won, others = mass.unbind(1)
        posterior = grad / (won + others)
        padding = (0, rows.count - len(grad))
        pull, push = posterior * (others / (won + others)), -posterior * (won / (won + others))
        return cls(*(F.pad(t[rows.order], padding) for t in (winner.int(), pull, push)))


def _tile_lists(active: Tensor, tiles: int) -> tuple[Tensor, Tensor, Tensor]:
    """``[x tiles, panels, tiles]``, for a tile of x and a panel of y its active tiles, and their counts.

    Those from differences come first; how many these are is the third result.
    """
    padded = F.pad(active, (0, -active.shape[1] % tiles)).view(len(active), -1, tiles)
    lists = torch.argsort(padded, dim=2, descending=True, stable=True).int()
    return lists, (padded > 0).sum(2, dtype=torch.int32), (padded > 1).sum(2, dtype=torch.int32)


class _Gradient:
    """The gradient of one set of sorted rows, in units of scaled points, and the products that add to it."""

    def __init__(self, rows: Rows, parts: Tensor, active: Tensor, problem: Problem) -> None:
        self.rows, self.parts, self.problem = rows, parts, problem
        self.sum = torch.zeros_like(rows.scaled)
        self.lists, self.counts, self.wide = _tile_lists(active, PANEL // rows.tile)

    def add(
        self,
        rows: tuple[int, int],
        y_first: int,
        y: tuple[Rows, Tensor],
        weights: Tensor,
        sums: Tensor,
        swap: bool,
    ) -> None:
        (first, end), (others, other) = rows, y
        width = self.sum.shape[1]
        columns = 128 if width % 128 == 0 else BLOCK_D
        panel = y_first // PANEL
        strides = weights.stride()[1:]
        kernels.add_products[(width // columns, (end - first) // self.rows.tile)](
            weights, *(reversed(strides) if swap else strides), weights.stride(0), sums, weights.shape[1],
            self.parts, other, self.parts.stride(0), other.stride(0), self.rows.raw, others.raw, self.sum,
            first, y_first, self.lists[:, panel], self.lists.stride(0),
            self.counts[:, panel], self.wide[:, panel], self.counts.stride(0),
            PARTS=len(weights), D=width, BLOCK_N=columns, BLOCK_K=min(self.rows.tile, 32),
            num_stages=STAGES_OF_PRODUCTS,
            **self.problem.flags(),
        )  # fmt: skip

    def of(self, features: Tensor) -> Tensor:
        rows = self.sum[: len(self.rows.order), : features.shape[1]] * self.problem.unscale
        return torch.empty_like(rows).index_copy_(0, self.rows.order, rows)


def _gradients(problem: Problem, of_x: Statistics) -> tuple[_Gradient, _Gradient]:
    """The gradients of queries and references; one and the same where these are."""
    x, y, parts = problem.x, problem.y, problem.parts
    x_parts = split(x.scaled, parts.gradient, torch.bfloat16)
    y_parts = x_parts if problem.shared else split(y.scaled, parts.gradient, torch.bfloat16)
    grad_x = _Gradient(x, x_parts, problem.active, problem)
    grad_y = grad_x if problem.shared else _Gradient(y, y_parts, problem.active.T.contiguous(), problem)
    panel = min(PANEL, max(x.count, y.count))
    weights = x_parts.new_empty(parts.gradient, panel, panel)
    row_sums = x.norms.new_empty(panel // x.tile, panel)
    col_sums = torch.empty_like(row_sums)
    for first, end in x.panels():
        for y_first, y_end in y.panels():
            if problem.shared and y_first < first:
                continue
            kernels.pair_weights[((y_end - y_first) // x.tile, (end - first) // x.tile)](
                *problem.distance_arguments(), of_x.winner, of_x.pull, of_x.push, of_x.winner, of_x.pull,
                of_x.push, weights, row_sums, col_sums, first, y_first, panel,
                BOTH=problem.shared, WEIGHT_PARTS=parts.gradient, **problem.distance_flags(),
            )  # fmt: skip
            grad_x.add((first, end), y_first, (y, y_parts), weights, row_sums, swap=False)
            if not problem.shared or y_first != first:
                grad_y.add((y_first, y_end), first, (x, x_parts), weights, col_sums, swap=True)
    return grad_x, grad_y


def bayes_error_backward(
    grad: Tensor, mass: Tensor, winner: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    """``torch.ops.unlearn.bayes_error_backward`` for CUDA tensors."""
    call = contract.Arguments(*arguments)
    if not _serves(call):
        gradients: tuple[Tensor, Tensor] = contract.reference_backward(grad, mass, winner, *call)
        return gradients
    with torch.cuda.device_of(call.features):
        problem = _problem(call)
        of_x, of_y = _gradients(problem, Statistics.of(problem.x, grad, mass, winner))
        if call.references is None:
            return of_x.of(call.features), call.features.new_empty(0)
        return of_x.of(call.features), of_y.of(call.references)


def error_and_gradient(
    features: Tensor, labels: Tensor, num_classes: int, bandwidth: float
) -> tuple[Tensor, Tensor]:
    """The float32 rows' leave-one-out errors (rbf, ieee) and their sum's gradient; arguments unchecked."""
    with torch.cuda.device_of(features):
        problem = _problem(contract.Arguments(features, labels, num_classes, bandwidth))
        error, mass, winner = _statistics(problem, features, num_classes)
        of_x = Statistics.of(problem.x, torch.ones_like(error), mass, winner)
        return error, _gradients(problem, of_x)[0].of(features)
