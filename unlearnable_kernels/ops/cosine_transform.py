"""The discrete cosine transform as a fixed sequence of sparse sums, which every backend follows.

    X[k] = Σ_i cos(π k (2i + 1) / 2n) x[i]        k, i = 0 … n − 1                                (S1)

An even length is halved until it is odd; docs/maths.md derives the steps (S5) to (S8). A stage holds one sum
for each of its outputs, whose terms are added in order: the first is a product, the others fused
multiply-adds.
"""

import functools
import math
from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from unlearnable_kernels.ops.classwise_conv import fused_multiply_add

Row = list[tuple[int, float]]
"""One output: the inputs that are added, each with its coefficient."""

Stage = list[Row]


def cosine(numerator: int, denominator: int) -> float:
    """cos(π · numerator / denominator), reduced to an angle of at most π/4 in whole numbers."""
    n = numerator % (2 * denominator)
    n = min(n, 2 * denominator - n)
    sign, n = (-1.0, denominator - n) if 2 * n > denominator else (1.0, n)
    if 4 * n <= denominator:
        return sign * math.cos(math.pi * n / denominator)
    return sign * math.sin(math.pi * (denominator - 2 * n) / (2 * denominator))


def _moved(stage: Stage, by: int) -> Stage:
    return [[(at + by, coefficient) for at, coefficient in row] for row in stage]


def _beside(first: list[Stage], second: list[Stage]) -> list[Stage]:
    """Two transforms, of the first inputs and of the others, whose outputs follow each other."""
    count = len(first[0])  # every stage has as many outputs as inputs
    pairs = zip_longest(first, second)
    joined = []
    for one, other in pairs:
        kept = [[(i, 1.0)] for i in range(count)]
        rest = [[(i, 1.0)] for i in range(len(second[0]))]
        joined.append((one or kept) + _moved(other or rest, count))
    return joined


def _fold(n: int) -> Stage:
    """e and o of (S5): sums and differences of what lies opposite; an odd length's middle is the last sum."""
    half = n // 2
    sums: Stage = [[(i, 1.0), (n - 1 - i, 1.0)] for i in range(half)]
    middle: Stage = [[(half, 1.0)]] * (n % 2)
    return sums + middle + [[(i, 1.0), (n - 1 - i, -1.0)] for i in range(half)]


def _unfold(n: int) -> Stage:
    """The adjoint of ``_fold``."""
    half, differences = n // 2, (n + 1) // 2
    first: Stage = [[(i, 1.0), (differences + i, 1.0)] for i in range(half)]
    middle: Stage = [[(half, 1.0)]] * (n % 2)
    return first + middle + [[(i, 1.0), (differences + i, -1.0)] for i in reversed(range(half))]


def _dct2(n: int) -> list[Stage]:
    """(S1)."""
    half, sums = n // 2, (n + 1) // 2
    if n % 2:
        rows: Stage = []
        for k in range(n):
            start, count = (half + 1, half) if k % 2 else (0, sums)
            rows.append([(start + i, cosine(k * (2 * i + 1), 2 * n)) for i in range(count)])
        return [_fold(n), rows]
    *stages, last = _beside(_dct2(half), _dct4(half))
    return [_fold(n), *stages, [last[k // 2 + (k % 2) * half] for k in range(n)]]


def _dct3(n: int) -> list[Stage]:
    """The adjoint of (S1)."""
    half, sums = n // 2, (n + 1) // 2
    if n % 2:
        rows: Stage = [[(k, cosine(k * (2 * i + 1), 2 * n)) for k in range(0, n, 2)] for i in range(sums)]
        rows += [[(k, cosine(k * (2 * i + 1), 2 * n)) for k in range(1, n, 2)] for i in range(half)]
        return [rows, _unfold(n)]
    first, *stages = _beside(_dct3(half), _dct4(half))
    first = [[(2 * at if at < half else 2 * (at - half) + 1, c) for at, c in row] for row in first]
    return [first, *stages, _unfold(n)]


def _dct4(n: int) -> list[Stage]:
    """y[k] = Σ_i cos(π (2k + 1)(2i + 1) / 4n) x[i], which is its own adjoint."""
    half = n // 2
    if n % 2:
        return [[[(i, cosine((2 * k + 1) * (2 * i + 1), 4 * n)) for i in range(n)] for k in range(n)]]
    turned: Stage = []
    for i in range(half):
        turned.append([(n - 1 - i, cosine(2 * n - 2 * i - 1, 4 * n)), (i, cosine(2 * i + 1, 4 * n))])
    for i in range(half):
        sign = -1.0 if i % 2 else 1.0
        own, opposite = cosine(2 * n - 2 * i - 1, 4 * n), cosine(2 * i + 1, 4 * n)
        turned.append([(n - 1 - i, -sign * opposite), (i, sign * own)])
    # p is the first half of these outputs, q the second one from its end.
    combined: Stage = [[(0, 1.0)]]
    for k in range(1, half):
        p, q = k, n - k
        combined += [[(p, 1.0), (q, 1.0)], [(p, 1.0), (q, -1.0)]]
    combined.append([(half, 1.0)])
    return [turned, *_beside(_dct2(half), _dct2(half)), combined]


@functools.lru_cache(maxsize=64)
def stages(n: int, *, inverse: bool = False) -> tuple[tuple[Tensor, Tensor], ...]:
    """The transform of length ``n`` or its adjoint, as tables.

    Returns:
        For each stage int64 inputs and float64 coefficients, both ``[terms, outputs]``, output by output in
        the order of the sum. Shorter sums end in coefficients of 0.
    """
    tables = []
    for stage in _dct3(n) if inverse else _dct2(n):
        terms = max(map(len, stage))
        padded = [row + [(row[0][0], 0.0)] * (terms - len(row)) for row in stage]
        index = torch.tensor([[at for at, _ in row] for row in padded]).T.contiguous()
        coefficients = torch.tensor([[c for _, c in row] for row in padded], dtype=torch.float64)
        tables.append((index, coefficients.T.contiguous()))
    return tuple(tables)


def transformed(x: Tensor, dims: Sequence[int], *, inverse: bool = False) -> Tensor:
    """(S1) or its adjoint along some dimensions of float32 or float64 ``x``, one after the other."""
    for dim in dims:
        shape = [1] * x.dim()
        shape[dim] = x.shape[dim]
        for index, coefficients in stages(x.shape[dim], inverse=inverse):
            index = index.to(x.device)
            factors = coefficients.to(x).view(-1, *shape)
            total = factors[0] * x.index_select(dim, index[0])
            for at, factor in zip(index[1:], factors[1:], strict=True):
                total = fused_multiply_add(factor, x.index_select(dim, at), total)
            x = total
    return x
