"""The command that computes what theory says: theory."""

from pathlib import Path
from typing import Annotated

import typer


def theory(
    out: Annotated[Path, typer.Option(help="Picture to write; a JSON file goes beside it.")] = Path(
        "theory.png"
    ),
    norm: Annotated[list[float] | None, typer.Option(help="‖μ‖, repeatable.  [default: 1, 2.5, 5]")] = None,
    dimension: Annotated[int, typer.Option(help="Of the points, at least 8.")] = 100,
    points: Annotated[int, typer.Option(help="Strengths of each class, from 0 to 0.5.")] = 11,
    samples: Annotated[int, typer.Option(help="Points drawn to check each exact accuracy.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the direction of μ and of the points.")] = 0,
) -> None:
    """Compute what class-wise convolution does to two Gaussian classes, and draw it.

    For every pair of strengths, the accuracy on clean points of the classifier that is optimal on protected
    ones, and an upper bound on it (docs/maths.md): the theory of CUDA (Sadasivan et al., CVPR 2023).

    Example: unlearnable theory --norm 1 --norm 5 --out theory.png
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.theory.sweep import NORMS, agreement, check_picture, summary, sweep, write_sweep

    check_picture(out)
    with progress("strengths") as report:
        result = sweep(norm or NORMS, dimension, points, samples, seed, report)
    write_sweep(result, out)
    for each in result["sweeps"]:
        print(summary(each))
    print(f"wrote {out}; {agreement(result):.1%} of the exact figures lie within the sampled 95 % intervals")
