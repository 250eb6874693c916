"""What makes a run repeatable: seeds of its own, and kernels that always add in the same order."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unlearnable_kernels.errors import UserError


def derived_seed(seed: int, purpose: str) -> int:
    """A seed in [0, 2**63) for one purpose of a run with ``seed``."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, of which layers draw; afterwards they are as they were found."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def deterministic(strict: bool = False) -> Iterator[None]:
    """Within the block cuDNN uses algorithms that always give the same bits.

    Args:
        strict: Whether all of torch does, which is slower.

    Raises:
        UserError: Strictly, and the block used an operation that has no such algorithm.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if strict:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
    except RuntimeError as error:
        if strict and "deterministic" in str(error):
            reason = str(error).partition(". ")[0].partition("\n")[0]
            raise UserError(f"{reason}: train without deterministic") from error
        raise
    finally:
        if strict:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
