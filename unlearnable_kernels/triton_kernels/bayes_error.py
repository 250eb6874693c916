"""bayes_error and its backward from Triton kernels: rows are sorted, padded and split, panels launched.

Memory beyond input and result, for N rows of D features: 4 to 10 bytes an element for the parts, 12 for
the scaled rows, centred and not, and their gradient, 4 N (2 C + 128) bytes for the masses of C classes and
their partial sums, and up to 2 PANEL² bytes for a panel of M: by count 0.9 GB at N 50,000, D 512. Nothing
waits for the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearnable_kernels.ops import bayes_error as contract
from unlearnable_kernels.ops.checks import Checks
from unlearnable_kernels.triton_kernels import bayes_error_kernels as kernels
from unlearnable_kernels.triton_kernels import bayes_error_products as products
from unlearnable_kernels.triton_kernels.bayes_error_parts import PARTS, Parts, split

TILE = 128  # rows; half of it up to SMALL rows, so that there are programs for the whole device
SMALL = 4096
PANEL = 8192  # rows; half of it for an M in parts, which then takes 128 MB at most
WIDE = 2  # panels; from there on programs of 256 columns are enough for the whole device
MOST = 65_535  # programs along a grid's second axis
BLOCK_D, WARPS = 64, 8  # the latter for a whole TILE
TWO_OF_A_TILE = 128  # registers a thread, with which a multiprocessor holds two tiles
STAGES, STAGES_OF_PRODUCTS = 3, 5  # the latter's loads wait for one another
LOG2_E = 1.4426950408889634
MOST_FLOAT = torch.finfo(torch.float32).max
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

    def panels(self, panel: int) -> Iterator[tuple[int, int]]:
        """First and end row of every panel."""
        return ((first, min(first + panel, self.count)) for first in range(0, self.count, panel))


def _prepared(
    x: Tensor,
    centre: Tensor,
    scale: Tensor,
    order: Tensor,
    labels: Tensor,
    names: Tensor,
    parts: Parts,
    tile: int,
) -> Rows:
    """Rows ``[count, features]`` scaled, centred (``centre`` is scaled too), sorted, padded and split."""
    count, features = x.shape
    rows = (count + tile - 1) // tile * tile
    width = (features + BLOCK_D - 1) // BLOCK_D * BLOCK_D
    raw, scaled = x.new_zeros(2, rows, width)
    torch.mul(x[order], scale, out=raw[:count, :features])
    torch.sub(raw[:count, :features], centre, out=scaled[:count, :features])
    points = split(scaled, parts.distance, parts.dtype)
    if parts.dtype == torch.bfloat16:
        scaled = points[0].float()
    return Rows(
        points,
        points.sum(0, dtype=torch.float32).square_().sum(1),
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
        return centres, torch.linalg.vector_norm(tiles - centres[:, None], dim=2).amax(1)

    x_centres, x_radii = balls(x)
    y_centres, y_radii = (x_centres, x_radii) if y is x else balls(y)
    apart = torch.cdist(x_centres, y_centres, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = apart * (1 - 1e-4) - (x_radii[:, None] + y_radii) * (1 + 1e-4)
    return (~(nearest > threshold)).to(torch.uint8)


def _wide(rows: Rows, longest: Tensor) -> Tensor:
    """Tiles with a row further than ``longest`` from the mean."""
    return rows.norms.view(rows.tiles, rows.tile).amax(1) > longest * longest


def _furthest(rows: Tensor, mean: Tensor) -> Tensor:
    """The largest |rows − mean|, in one pass; more where rows on its scale would leave float32's range."""
    least, most = (t.double() for t in torch.aminmax(rows, dim=0))
    size = torch.maximum(most, -least)
    return torch.maximum(torch.maximum(most - mean, mean - least), 1e-30 * size).amax()


def _problem(call: contract.Arguments, check: Checks = contract.check) -> Problem:
    """What the kernels need of a call, on its device; refuses a bandwidth too small for its rows."""
    features, pool = call.features, call.pool
    rbf, parts = call.similarity == "rbf", PARTS[call.precision]
    # In float64: sums and differences of the largest float32 overflow.
    mean = pool.mean(0, dtype=torch.float64) if rbf else pool.new_zeros(pool.shape[1], dtype=torch.float64)
    largest = _furthest(pool, mean)
    if call.references is not None:
        largest = torch.maximum(largest, _furthest(features, mean))
    scale = torch.exp2(13 - torch.log2(largest.clamp(min=1e-33)).ceil())
    centre = (mean * scale).float()
    tile = TILE if max(len(features), len(pool)) > SMALL else TILE // 2
    names = torch.arange(len(pool), device=pool.device)
    order = torch.argsort(call.labels, stable=True)
    y = x = _prepared(pool, centre, scale, order, call.labels, names, parts, tile)
    if call.references is not None:
        rows = torch.arange(len(features), device=pool.device)
        own = rows + call.first_row if call.first_row >= 0 else torch.full_like(rows, -1)
        x = _prepared(features, centre, scale, rows, torch.zeros_like(rows), own, parts, tile)
    bandwidth = call.bandwidth * scale
    contract.check_range(check, torch.maximum(x.norms.amax(), y.norms.amax()).sqrt(), bandwidth)
    unit = bandwidth.square()
    # Equal rows have every bandwidth, and may have one whose square is 0.
    coefficient = (LOG2_E / unit * (-0.5 if rbf else 1.0)).clamp(-MOST_FLOAT, MOST_FLOAT).float().view(1)
    unscale = (scale / unit).clamp(max=MOST_FLOAT).float()
    if rbf:
        wide = LONGEST * bandwidth.float()
        active = _active(x, y, (2 * UNDERFLOW) ** 0.5 * bandwidth.float())
        active += active * (_wide(x, wide)[:, None] | _wide(y, wide))
    else:
        active = torch.ones(x.tiles, y.tiles, dtype=torch.uint8, device=pool.device)
    active = active.triu() if x is y else active  # a pair of tiles of one set is formed once
    return Problem(x, y, rbf, parts, coefficient, unscale, active)


def _masses(problem: Problem, num_classes: int) -> Tensor:
    """``[classes, padded queries]``: every class's mass around every query."""
    x, y, shared = problem.x, problem.y, problem.shared
    masses = x.norms.new_zeros(num_classes, x.count)
    classes = torch.arange(num_classes + 1, device=y.labels.device, dtype=torch.int32)
    starts = torch.searchsorted(y.labels[: len(y.order)], classes).int()
    row_sums = x.norms.new_empty(y.tiles + num_classes, min(PANEL, x.count))
    col_sums = x.norms.new_empty(min(PANEL, x.count) // x.tile + num_classes, y.count) if shared else row_sums
    for first, end in x.panels(PANEL):
        y_first = first if shared else 0
        tiles, y_tiles = (end - first) // x.tile, (y.count - y_first) // x.tile
        kernels.class_sums[(tiles, min(y_tiles, MOST), -(-y_tiles // MOST))](
            *problem.distance_arguments(), row_sums, col_sums, first, y_first, end - first, y.count - y_first,
            BOTH=shared, maxnreg=TWO_OF_A_TILE if shared and problem.parts.distance == 1 else None,
            **problem.distance_flags(),
        )  # fmt: skip
        kernels.add_masses[(num_classes * (y_tiles if shared else tiles),)](
            row_sums, col_sums, first, end, y_first, y.count - y_first, masses, x.count, starts, num_classes,
            y.labels, problem.active, problem.active.stride(0), BOTH=shared, TILE=x.tile,
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


def _tile_lists(active: Tensor, tiles: int) -> Tensor:
    """int32 ``[x tiles, panels, 2 + tiles]``, for a tile of x and a panel of y its active tiles.

    Those from differences come first. Before them stand the number of all and the number of these.
    """
    padded = F.pad(active, (0, -active.shape[1] % tiles)).view(len(active), -1, tiles)
    lists = torch.argsort(padded, dim=2, descending=True, stable=True)
    counts = [(padded > least).sum(2, keepdim=True) for least in (0, 1)]
    return torch.cat([*counts, lists], 2).int()


def _gradients(problem: Problem, of_x: Statistics) -> tuple[Tensor, Tensor]:
    """Of sorted queries and references, in units of scaled points; one and the same where these are."""
    x, y, parts, shared, tile = problem.x, problem.y, problem.parts, problem.shared, problem.x.tile
    x_parts = split(x.scaled, parts.gradient, torch.bfloat16)
    y_parts = x_parts if shared else split(y.scaled, parts.gradient, torch.bfloat16)
    x_grad = torch.zeros_like(x.scaled)
    y_grad = x_grad if shared else torch.zeros_like(y.scaled)
    panel = PANEL if parts.gradient == 1 else PANEL // 2
    x_lists = _tile_lists(problem.active, panel // tile)
    y_lists = _tile_lists((problem.active.triu(1) if shared else problem.active).T, panel // tile)
    size = min(panel, max(x.count, y.count))
    weights = x_parts.new_empty(parts.gradient, size, size)
    row_sums, col_sums = x.norms.new_empty(2, size // tile, size)
    width = x.scaled.shape[1]
    columns = 128 if width % 128 == 0 else BLOCK_D
    if parts.gradient < 3 and width % 256 == 0 and x.count > WIDE * panel:
        columns = 256
    for first, end in x.panels(panel):
        for y_first, y_end in y.panels(panel):
            if shared and y_first < first:
                continue
            tiles, y_tiles = (end - first) // tile, (y_end - y_first) // tile
            kernels.pair_weights[(y_tiles, tiles)](
                *problem.distance_arguments(), of_x.winner, of_x.pull, of_x.push, of_x.winner, of_x.pull,
                of_x.push, weights, row_sums, col_sums, first, y_first, size,
                BOTH=shared, WEIGHT_PARTS=parts.gradient, **problem.distance_flags(),
            )  # fmt: skip
            diagonal = shared and y_first == first
            products.add_products[(width // columns, tiles if diagonal else tiles + y_tiles)](
                weights, weights.stride(0), size, row_sums, col_sums, x_parts, y_parts,
                x_parts.stride(0), y_parts.stride(0), x.raw, y.raw, x_grad, y_grad, first, y_first, tiles,
                x_lists[:, y_first // panel], y_lists[:, first // panel], x_lists.stride(0),
                y_lists.stride(0), PARTS=parts.gradient, BOTH=shared, D=width, BLOCK_N=columns,
                BLOCK_K=min(tile, 32), num_stages=STAGES_OF_PRODUCTS, **problem.flags(),
            )  # fmt: skip
    return x_grad, y_grad


def _unsorted(grad: Tensor, rows: Rows, features: Tensor, unscale: Tensor) -> Tensor:
    """A gradient of scaled, sorted rows as one of ``features``."""
    of_rows = grad[: len(features), : features.shape[1]] * unscale
    return torch.empty_like(of_rows).index_copy_(0, rows.order, of_rows)


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
        x_grad, y_grad = _gradients(problem, Statistics.of(problem.x, grad, mass, winner))
        gradient = _unsorted(x_grad, problem.x, call.features, problem.unscale)
        if call.references is None:
            return gradient, call.features.new_empty(0)
        return gradient, _unsorted(y_grad, problem.y, call.references, problem.unscale)


def error_and_gradient(
    features: Tensor, labels: Tensor, num_classes: int, bandwidth: float, check: Checks
) -> tuple[Tensor, Tensor]:
    """The float32 rows' leave-one-out errors (rbf, ieee) and their sum's gradient.

    Only the range of the bandwidth is checked, in the name of the operator ``check`` is of.
    """
    with torch.cuda.device_of(features):
        problem = _problem(contract.Arguments(features, labels, num_classes, bandwidth), check)
        error, mass, winner = _statistics(problem, features, num_classes)
        of_x = Statistics.of(problem.x, torch.ones_like(error), mass, winner)
        return error, _unsorted(_gradients(problem, of_x)[0], problem.x, features, problem.unscale)
