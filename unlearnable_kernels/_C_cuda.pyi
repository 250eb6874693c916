def architectures() -> str: ...
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
