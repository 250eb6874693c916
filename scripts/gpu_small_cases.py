"""Every kernel on a small case on the GPU, forward and backward, for compute-sanitizer to watch.

A call whose result requires grad also runs backward. Results are compared with the CPU's, so that the tool
watches kernels that did their work. Operators' names as arguments leave out the others.
"""

import sys
from collections.abc import Collection, Iterator

import torch

from unlearnable_kernels.ops import ALL_OPS


def cases(device: str) -> Iterator[tuple[str, tuple]]:
    """Operator and arguments: some of its samples, and sizes that take the kernels which these do not."""
    for op in ALL_OPS:
        for arguments in list(op.sample_inputs(device))[::5]:
            yield op.name, arguments
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator).to(device)

    labels = torch.tensor([1, -1, 0], device=device)
    for shape, k in (((3, 3, 224, 224), 9), ((3, 3, 300, 301), 5), ((3, 3, 32, 32), 3), ((3, 2, 9, 11), 7)):
        images = drawn(*shape).mul(255).to(torch.uint8)
        yield "classwise_conv", (images, labels, drawn(2, k, k))
        yield (
            "classwise_conv",
            (images.contiguous(memory_format=torch.channels_last), labels, drawn(2, k, k), "reflect", "max"),
        )
    yield "classwise_conv", (drawn(3, 3, 20, 24), labels, drawn(2, 9, 9), "circular", "max")
    for norm in ("linf", "l2"):
        yield "pgd_step", (drawn(2, 3, 96, 96), drawn(2, 3, 96, 96), drawn(2, 3, 96, 96), 0.1, 0.3, norm)
    many = torch.arange(600, device=device) % 5
    yield "bayes_error", (drawn(600, 96), many, 5, 0.3)
    for size in (32, 64, 224):
        images = drawn(3, 3, size, size).mul(255).to(torch.uint8)
        images = images.contiguous(memory_format=torch.channels_last)
        mixing = torch.eye(3, device=device) + 0.1 * drawn(2, size, size, 3, 3)
        yield "classwise_spectrum", (images, labels, mixing, 0.1 * drawn(2, 3, 3, 2))
    x = drawn(600, 3, 8, 8)
    yield "bayes_ascent_step", (x, many, x.clone(), 5, 1.0, 0.005, 0.03, "linf")


def on_cpu(arguments: tuple) -> tuple:
    return tuple(a.detach().cpu() if isinstance(a, torch.Tensor) else a for a in arguments)


def main(device: str = "cuda", only: Collection[str] = ()) -> None:
    known = {op.name for op in ALL_OPS}
    if unknown := set(only) - known:
        sys.exit(f"no operator is called {min(unknown)}; there are {', '.join(sorted(known))}")
    chosen = set(only) or known
    calls: dict[str, int] = {}
    for name, arguments in cases(device):
        if name not in chosen:
            continue
        function = getattr(torch.ops.unlearn, name)
        for tensor in arguments:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                tensor.requires_grad_()
        result, expected = function(*arguments), function(*on_cpu(arguments))
        first, first_expected = (r[0] if isinstance(r, tuple) else r for r in (result, expected))
        torch.testing.assert_close(first.cpu(), first_expected, rtol=2e-2, atol=2e-2, check_stride=False)
        if first.requires_grad:
            first.float().sum().backward()
        calls[name] = calls.get(name, 0) + 1
    if device == "cuda":
        torch.cuda.synchronize()
    assert calls.keys() == chosen
    print(", ".join(f"{name}: {count} calls" for name, count in calls.items()))


if __name__ == "__main__":
    main(only=sys.argv[1:])
