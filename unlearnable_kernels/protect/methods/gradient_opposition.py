"""Gradient opposition: pixels whose training step undoes that of the clean images (docs/maths.md)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.data.augment import to_float
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.methods.ascent import Ascent, Target
from unlearnable_kernels.protect.methods.method import METHODS, Workspace
from unlearnable_kernels.protect.methods.optimised_images import OptimisedImages
from unlearnable_kernels.training import deterministic


class Opposition(Ascent):
    """One run: descends ⟨∇L(clean), ∇L(moved)⟩, gradients with respect to weights, batch by batch.

    Args:
        batch: Images whose gradients are multiplied together; the last batch may have fewer.
        others: Those of ``Ascent``.
    """

    def __init__(self, batch: int, *others: Any) -> None:
        super().__init__(*others)
        self.batch = batch

    def _measured(self, model: nn.Module) -> tuple[dict[str, float], str]:
        """Inner product and cosine, the means over all batches."""
        sums, batches = torch.zeros(2, dtype=torch.float64), self._batches("measuring")
        for batch in batches:
            sums += torch.stack([each.detach() for each in self._products(model, batch)[:2]]).double().cpu()
        product, cosine = (sums / len(batches)).tolist()
        line = {"product": float(f"{product:.6g}"), "cosine": round(cosine, 6)}
        return line, f"inner product of the gradients {product:.4g}, cosine {cosine:.4f}"

    def _gradients(self, models: list[nn.Module], inner: int) -> Iterator[tuple[slice, Tensor]]:
        gradient, done = torch.zeros_like(self.master), 0
        for batch in self._batches("ascending", self.done, inner):
            for model in models:
                product, _, seen = self._products(model, batch)
                (slope,) = torch.autograd.grad(product, seen)
                gradient[batch] -= slope.permute(0, 2, 3, 1).to(gradient.device)
            done += len(batch)
            self._report(inner, done)
        for part in self._parts():
            yield part, gradient[part]

    def _batches(self, purpose: str, *context: int) -> tuple[Tensor, ...]:
        """All images that may be moved, in a random order: int64 [≤ batch] each, places in ``rows``."""
        generator = torch.Generator().manual_seed(self.seed_for("batches", purpose, *context))
        order = torch.randperm(len(self.rows), generator=generator).to(self.rows.device)
        batches: tuple[Tensor, ...] = order.split(self.batch)
        return batches

    def _products(self, model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the clean and the current images of a batch make of a network's weights, in evaluation mode.

        Returns:
            The inner product of both gradients, which can be differentiated with respect to the third; their
            cosine; and the current images, float32 [n, 3, H, W].
        """
        rows = self.rows[batch]
        labels = self.labels[rows.to(self.device)]
        clean = to_float(self.origin[batch].to(self.device))
        seen = to_float(self.current[rows].to(self.device)).requires_grad_()
        weights = [each for each in model.eval().parameters() if each.requires_grad]
        with torch.enable_grad(), deterministic():
            first = torch.autograd.grad(functional.cross_entropy(model(clean), labels), weights)
            loss = functional.cross_entropy(model(seen), labels)
            second = torch.autograd.grad(loss, weights, create_graph=True)
            product = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
        lengths = [torch.stack([each.detach().square().sum() for each in g]).sum() for g in (first, second)]
        norm = (lengths[0] * lengths[1]).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        return product, product.detach() / norm, seen


@METHODS.register(
    "gradient-opposition",
    "optimises pixels within a budget so that learning from them undoes what clean images teach; takes long",
    "after the published programs of Zhang et al., AAAI 2026",
)
@dataclass(frozen=True)
class GradientOpposition(OptimisedImages):
    """Pixels moved within a budget until their gradient opposes that of the clean images (docs/maths.md).

    Attributes:
        batch: Images whose gradients are multiplied together.
    """

    embeddings: int = 1
    epochs: int = 1
    batch: int = 8

    purpose: ClassVar[str] = "gradient-opposition"
    passes_for_ascent: ClassVar[int] = 12  # two gradients, of which one is differentiated

    def check(self) -> None:
        super().check()
        if self.batch < 1:
            raise UserError(f"batch must be 1 or more, not {self.batch}")

    def _own_parameters(self) -> dict[str, Any]:
        return {"batch": self.batch}

    def _ascent(self, target: Target, seed_for: Callable[..., int], workspace: Workspace) -> Ascent:
        return Opposition(
            self.batch, target, self.budget, self.steps, self.network, self.loop, seed_for, workspace
        )
