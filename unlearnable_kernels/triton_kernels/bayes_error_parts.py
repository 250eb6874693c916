"""A float32 as the sum of 16-bit floats, which the tensor cores multiply for bayes_error."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """In how many 16-bit parts the factors come: a distance's (and of what dtype), and a gradient's."""

    dtype: torch.dtype
    distance: int
    gradient: int


# Points are scaled below 2¹⁴, where float16 has tf32's 11 bits, two of it 22. Three bfloat16 hold a float32.
PARTS = {
    "ieee": Parts(torch.float16, 2, 3),
    "tf32": Parts(torch.float16, 1, 2),
    "bf16": Parts(torch.bfloat16, 1, 1),
}


def split(x: Tensor, parts: int, dtype: torch.dtype) -> Tensor:
    """``[parts, *x.shape]``, each part the rounded remainder of the ones before."""
    out = x.new_empty(parts, *x.shape, dtype=dtype)
    rest = x
    for part in range(parts):
        out[part] = rest
        if part + 1 < parts:
            rest = rest - out[part]
    return out
