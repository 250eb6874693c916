"""Which samples of a dataset are protected when only a part of it is."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key, Secret
from unlearnable_kernels.protect.methods.filters import seed_stream


def choose_protected(
    secret: Secret,
    dataset_name: str,
    names: Sequence[str],
    labels: Sequence[int],
    fraction: float,
    *,
    num_classes: int,
    kernel_size: int,
    strength: float,
) -> np.ndarray:
    """Choose the samples to protect.

    A key protects an exact share of every class; a seed draws the released program's Bernoulli subset, from a
    stream that depends on the parameters of the filters.

    Args:
        secret: Key or seed.
        dataset_name: Part of the derivation.
        names: Unique names of the N samples, in the order of the dataset.
        labels: Their N classes, 0 … num_classes-1.
        fraction: Share to protect, in (0, 1].
        num_classes: Number of classes.
        kernel_size: Side of the filters.
        strength: p_b of the filters.

    Returns:
        bool [N].

    Raises:
        UserError: The fraction is out of range.
    """
    check_fraction(fraction)
    if fraction == 1:
        return np.ones(len(names), dtype=bool)
    if isinstance(secret, Key):
        return exact_subset(secret, dataset_name, names, labels, fraction)
    _, generator = seed_stream(secret.seed, num_classes, kernel_size, strength)
    return generator.random_sample(len(names)) < fraction


def check_fraction(fraction: float) -> None:
    """Check that a fraction is in (0, 1].

    Raises:
        UserError: It is not.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction must be above 0 and at most 1, not {fraction}")


def exact_subset(
    secret: Secret,
    dataset_name: str,
    names: Sequence[str],
    labels: Sequence[int],
    fraction: float,
    decided: Mapping[int, bool] = MappingProxyType({}),
) -> np.ndarray:
    """Choose, of the n samples of every class, the ⌊fraction·n + ½⌋ that the secret ranks lowest.

    The rank depends on secret, dataset and name alone, so neither the order nor the other samples matter,
    and a larger fraction contains a smaller one. Of samples that were decided on before, those of the others
    that rank lowest make up the number, if it takes any.

    Args:
        secret: Key or seed.
        dataset_name: Part of the derivation.
        names: Unique names of the N samples.
        labels: Their N classes.
        fraction: Share to protect, in (0, 1].
        decided: By position, whether a sample is protected already; so it stays.

    Returns:
        bool [N].
    """
    by_class: dict[int, list[tuple[bytes, str, int]]] = defaultdict(list)
    for position, (name, label) in enumerate(zip(names, labels, strict=True)):
        rank = secret.derive("selection", dataset_name, name, length=16)
        by_class[label].append((rank, name, position))
    chosen = np.zeros(len(names), dtype=bool)
    for members in by_class.values():
        wanted = math.floor(fraction * len(members) + 0.5)
        wanted -= sum(decided.get(position, False) for _, _, position in members)
        free = [position for _, _, position in sorted(members) if position not in decided]
        chosen[free[: max(0, wanted)]] = True
    for position, protected in decided.items():
        chosen[position] = protected
    return chosen
