"""Projected gradient ascent (PGD): the attack of adversarial training, and of the test against it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.device import autocast
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.pgd_step import pgd_step_

# The radii of Sadasivan et al. (CVPR 2023) for every norm there is; images are in [0, 1].
PUBLISHED_EPS = {"linf": 4 / 255, "l2": 0.5}


@dataclass(frozen=True)
class Pgd:
    """The settings of PGD (Madry et al., ICLR 2018): ``steps`` ascents of the loss within a ball.

    Attributes:
        norm: "linf" or "l2".
        eps: The ball's radius, for images in [0, 1].
        steps: How many ascents.
        step_size: None means 1.5 * eps / steps, as in the training recipe of Sadasivan et al. (CVPR 2023).

    Raises:
        UserError: A value is out of range.
    """

    norm: str
    eps: float
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.norm not in PUBLISHED_EPS:
            raise UserError(f"unknown norm {self.norm!r}: choose one of {', '.join(PUBLISHED_EPS)}")
        if not 0 < self.eps < math.inf:
            raise UserError(f"eps must be a finite number above 0, not {self.eps}")
        if self.norm == "linf" and self.eps > 1:
            raise UserError(f"eps must be at most 1 with linf, since images are in [0, 1], not {self.eps}")
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise UserError(f"step_size must be a finite number above 0, not {self.step_size}")

    @property
    def step(self) -> float:
        """The step size, for images in [0, 1]."""
        return 1.5 * self.eps / self.steps if self.step_size is None else self.step_size

    @property
    def name(self) -> str:
        """Such as "linf 4/255, 10 steps"."""
        return f"{self.norm} {written(self.eps)}, {self.steps} step{'s' * (self.steps > 1)}"

    def as_dict(self) -> dict[str, Any]:
        """The settings with their final values, as JSON."""
        return asdict(self) | {"step_size": self.step}

    def noise(self, images: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Random starts within the ball.

        With linf uniform in the cube; with l2 a uniform direction and a length uniform in [0, eps], as
        torchattacks draws it.

        Args:
            images: float [B, C, H, W], whose shape, type, device and layout the starts get.
            count: How many starts.
            generator: On the images' device; None takes the global one.

        Returns:
            [count, C, H, W], each of at most ``eps`` in the norm, to be added to images.
        """
        layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else None
        noise = torch.empty(
            (count, *images.shape[1:]),
            dtype=images.dtype,
            device=images.device,
            memory_format=layout or torch.contiguous_format,
        )
        if self.norm == "linf":
            return noise.uniform_(-self.eps, self.eps, generator=generator)
        noise.normal_(generator=generator)
        lengths = noise.new_empty(count).uniform_(0, self.eps, generator=generator)
        scale = lengths / noise.square().sum((1, 2, 3)).sqrt()
        return noise.mul_(scale[:, None, None, None])


def written(eps: float) -> str:
    """4/255 where it is a whole number of 255ths, otherwise as a decimal number."""
    levels = round(255 * eps)
    return f"{levels}/255" if levels and abs(255 * eps - levels) < 1e-6 else f"{eps:g}"


class Attack:
    """PGD against one network, which takes images in [0, 1] and normalises them, if at all, inside.

    The network is attacked in evaluation mode, as torchattacks and so the released program do, in training
    too: batch-norm statistics take no part. Its modes, buffers, parameters, their gradients and
    ``requires_grad`` are afterwards as they were found. Only the gradient for the images is computed.

    On a GPU one step is recorded as a CUDA graph for the shape of the first batch and replayed; batches of
    other shapes run step by step. The parameters' memory must then stay where it is.

    Args:
        model: The network.
        pgd: The attack's settings.
        precision: "fp32" or "bf16"; the images are float32 either way, since bfloat16 cannot hold a step.
    """

    def __init__(self, model: nn.Module, pgd: Pgd, precision: str = "fp32") -> None:
        self.model = model
        self.pgd = pgd
        self.precision = precision
        self._graph: _Graph | None = None

    def __call__(self, images: Tensor, labels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Attacked copies of images.

        Args:
            images: float32 [B, C, H, W] in [0, 1].
            labels: int64 [B], or float32 [B, K] where classes are mixed.
            noise: float32 [B, C, H, W] from ``Pgd.noise``, where the ascent begins; None begins at the images
                themselves.

        Returns:
            float32 [B, C, H, W] in [0, 1], within the ball around ``images``.
        """
        x = images.clone() if noise is None else (images + noise).clamp_(0, 1)
        with frozen(self.model):
            if x.is_cuda and self._graph is None and len(x):
                self._graph = _Graph(self._ascend, x, images, labels)
            if self._graph is not None and self._graph.fits(x):
                return self._graph.replay(self.pgd.steps, x, images, labels)
            for _ in range(self.pgd.steps):
                self._ascend(x, images, labels)
        return x

    def _ascend(self, x: Tensor, origin: Tensor, labels: Tensor) -> None:
        """One step, in place."""
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            with autocast(x.device, self.precision):
                logits: Tensor = self.model(leaf)
            # The sum, so that an image's gradient does not depend on how many share its batch.
            loss = functional.cross_entropy(logits.float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        pgd_step_(x, gradient, origin, self.pgd.step, self.pgd.eps, self.pgd.norm)


class _Graph:
    """One step recorded as a CUDA graph, for one shape; it works on copies of its own."""

    def __init__(self, ascend: Callable[[Tensor, Tensor, Tensor], None], *example: Tensor) -> None:
        self.inputs = [each.clone() for each in example]
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(3):  # kernels are compiled and libraries begin, which cannot be recorded
                ascend(*self.inputs)
        current.wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads, as NCCL's, may go on with their own work meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            ascend(*self.inputs)

    def fits(self, x: Tensor) -> bool:
        return x.shape == self.inputs[0].shape

    def replay(self, steps: int, *given: Tensor) -> Tensor:
        for mine, value in zip(self.inputs, given, strict=True):
            mine.copy_(value)
        for _ in range(steps):
            self.graph.replay()
        return self.inputs[0].clone()


def robust_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: str,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    *,
    random_start: bool = True,
    batch_size: int = 256,
    seed: int = 0,
) -> float:
    """The part of the images that ``model`` still recognises under PGD, in [0, 1].

    Args:
        model: Tested in evaluation mode, whatever mode it is in, and left as it was.
        images: float32 [N, C, H, W] in [0, 1], on the model's device.
        labels: int64 [N], on the same device.
        norm: "linf" or "l2".
        eps: Radius of the ball.
        steps: Of the ascent.
        step_size: None means 1.5 * eps / steps.
        random_start: Whether the ascent begins at a random place in the ball.
        batch_size: Images attacked at a time.
        seed: Of the random starts.

    Raises:
        UserError: A value is out of range, or there are no images.
    """
    if not len(images):
        raise UserError("there are no images to attack")
    attack = Attack(model, Pgd(norm, eps, steps, step_size))
    generator = torch.Generator(images.device).manual_seed(seed)
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    for clean, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        noise = attack.pgd.noise(clean, len(clean), generator) if random_start else None
        attacked = attack(clean, truth, noise)
        with frozen(model), torch.no_grad():
            correct += (model(attacked).argmax(1) == truth).sum()
    return int(correct) / len(images)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no parameter that wants a gradient; afterwards all is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in wanting:
            parameter.requires_grad_()
