"""The stages of ``cosine_transform`` in place, as a kernel does them that holds the leaves in registers.

A length n = leaf · 2ˡ is halved l times. Each halving is a pass over pairs of numbers, whose results take
their places, before the leaves or after them; a leaf is a transform of ``leaf`` numbers, wherever these lie.
What comes out lies where its last pair was, so that the adjoint begins there.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from unlearnable_kernels.ops.cosine_transform import cosine

LEAVES = (32, 28, 24)
"""Lengths that a thread can hold; the longest one that fits is taken."""
MOST_LEVELS = 5

SECOND, THIRD, FOURTH = range(3)
"""What a leaf is: (S1), its adjoint, or C₄ of docs/maths.md."""

Pair = tuple[int, int, float, float, float, float]
"""Places a and b, and p, q, r, s: a becomes fma(q, a, p · b), b becomes fma(s, a, r · b)."""


def leaf_of(n: int) -> int | None:
    """The leaf of a length; None where it has none."""
    for leaf in LEAVES:
        if any(leaf << level == n for level in range(MOST_LEVELS + 1)):
            return leaf
    return None


@dataclass
class Transform:
    """(S1) or its adjoint of numbers that lie at ``places``, in their order.

    Attributes:
        before: The passes before the leaves, in order.
        leaves: The kind of each leaf, and its places in order.
        after: The passes behind the leaves, in order.
        out: Where the results lie, in their order.
    """

    places: Sequence[int]
    leaf: int
    inverse: bool = False
    before: list[list[Pair]] = field(default_factory=list)
    leaves: list[tuple[int, Sequence[int]]] = field(default_factory=list)
    after: list[list[Pair]] = field(default_factory=list)
    out: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        levels = (len(self.places) // self.leaf).bit_length() - 1
        self.before, self.after = [[] for _ in range(levels)], [[] for _ in range(levels)]
        self.out = list((self._third if self.inverse else self._second)(self.places, 0))
        self.after.reverse()

    def _second(self, x: Sequence[int], level: int) -> Sequence[int]:
        """(S5)."""
        if len(x) == self.leaf:
            self.leaves.append((SECOND, x))
            return x
        half = len(x) // 2
        own, opposite = x[:half], x[: half - 1 : -1]
        self.before[level] += [(a, b, 1.0, 1.0, -1.0, 1.0) for a, b in zip(own, opposite, strict=True)]
        return _interleaved(self._second(own, level + 1), self._fourth(opposite, level + 1))

    def _third(self, x: Sequence[int], level: int) -> Sequence[int]:
        """(S6)."""
        if len(x) == self.leaf:
            self.leaves.append((THIRD, x))
            return x
        even, odd = self._third(x[::2], level + 1), self._fourth(x[1::2], level + 1)
        self.after[level] += [(a, b, 1.0, 1.0, -1.0, 1.0) for a, b in zip(even, odd, strict=True)]
        return [*even, *reversed(odd)]

    def _fourth(self, x: Sequence[int], level: int) -> Sequence[int]:
        """(S7) and (S8)."""
        if len(x) == self.leaf:
            self.leaves.append((FOURTH, x))
            return x
        n, half = len(x), len(x) // 2
        own, opposite = x[:half], x[: half - 1 : -1]
        for i, (a, b) in enumerate(zip(own, opposite, strict=True)):
            sine, cos = cosine(2 * n - 2 * i - 1, 4 * n), cosine(2 * i + 1, 4 * n)
            sign = -1.0 if i % 2 else 1.0
            self.before[level].append((a, b, sine, cos, -sign * cos, sign * sine))
        p, q = self._second(own, level + 1), self._second(opposite, level + 1)
        pairs = list(zip(p[1:], q[:0:-1], strict=True))
        self.after[level] += [(a, b, 1.0, 1.0, -1.0, 1.0) for a, b in pairs]
        return [p[0], *(place for pair in pairs for place in pair), q[0]]


def _interleaved(even: Sequence[int], odd: Sequence[int]) -> list[int]:
    return [place for pair in zip(even, odd, strict=True) for place in pair]


class Tables(NamedTuple):
    """What csrc/cuda/classwise_spectrum.h takes of a call's four transforms.

    Attributes:
        sides: Down and across, then their adjoints across and down: of each its levels, where its leaves,
            their kinds and its results lie in ``places``, and of each pass the first pair and how many.
        places: int32.
        pairs: int32, the second place in the upper half.
        factors: float32 ``[pairs, 4]``.
    """

    sides: tuple[tuple[int, ...], ...]
    places: Tensor
    pairs: Tensor
    factors: Tensor


@functools.lru_cache(maxsize=16)
def tables(height: int, width: int, device: torch.device) -> Tables | None:
    """Those of images of that size, in ``device``'s memory; None where a side has no leaf."""
    leaf_down, leaf_across = leaf_of(height), leaf_of(width)
    if leaf_down is None or leaf_across is None:
        return None
    down, across = Transform(range(height), leaf_down), Transform(range(width), leaf_across)
    back_across = Transform(across.out, leaf_across, inverse=True)
    back_down = Transform(down.out, leaf_down, inverse=True)
    sides: list[tuple[int, ...]] = []
    places: list[int] = []
    pairs: list[Pair] = []
    for each in (down, across, back_across, back_down):
        leaves = len(places)
        places += [place for _, leaf in each.leaves for place in leaf]
        kinds = len(places)
        places += [kind for kind, _ in each.leaves]
        out = len(places)
        places += each.out
        passes: list[int] = []
        for some in each.before + each.after:
            passes += [len(pairs), len(some)]
            pairs += some
        sides.append((len(each.before), leaves, kinds, out, *passes))
    pairs = pairs or [(0, 0, 0.0, 1.0, 1.0, 0.0)]  # so that there is memory to point at
    return Tables(
        tuple(sides),
        torch.tensor(places, dtype=torch.int32).to(device),
        torch.tensor([a | b << 16 for a, b, *_ in pairs], dtype=torch.int32).to(device),
        torch.tensor([pair[2:] for pair in pairs], dtype=torch.float64).float().to(device),
    )
