from collections.abc import Sequence

def architectures() -> str: ...
def classwise_spectrum_way(
    channels: int, height: int, width: int, leaf_down: int, leaf_across: int
) -> int: ...
def classwise_spectrum(
    images: int,
    labels: int,
    weights: int,
    curves: int,
    out: int,
    work: int,
    places: int,
    pairs: int,
    factors: int,
    type: int,
    last: bool,
    count: int,
    classes: int,
    at_once: int,
    channels: int,
    height: int,
    width: int,
    sines: int,
    leaf_down: int,
    leaf_across: int,
    sides: Sequence[Sequence[int]],
    stream: int,
) -> None: ...
def pgd_step_l2(
    x: int,
    grad: int,
    origin: int,
    out: int,
    type: int,
    count: int,
    size: int,
    step_size: float,
    eps: float,
    lower: float,
    upper: float,
    stream: int,
) -> bool: ...
