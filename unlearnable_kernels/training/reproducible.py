"""What makes a run repeatable: seeds of its own, and kernels that always add in the same order."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


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


def deterministic() -> AbstractContextManager[None]:
    """Within the block cuDNN uses algorithms that always give the same bits."""
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True
    )
    return context
