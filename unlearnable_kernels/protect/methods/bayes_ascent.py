"""Ascending the Bayes error that networks' features show (docs/maths.md, "Bayes-error protection")."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.bayes_error import bayes_error
from unlearnable_kernels.protect.methods.ascent import Ascent
from unlearnable_kernels.training import features_of, pixel_gradient

LARGEST, LENGTH, NONE = SCALES = ("largest", "length", "none")
_MEDIAN_ROWS = 2000


class BayesAscent(Ascent):
    """One run.

    Args:
        bandwidth: σ of the kernel on scaled features, or "median".
        scale: What features are divided by: the largest absolute value of all, each image's Euclidean
            length, or nothing; one of ``SCALES``.
        others: Those of ``Ascent``.

    Raises:
        UserError: There is no median, when it is first needed.
    """

    def __init__(self, bandwidth: float | str, scale: str, *others: Any) -> None:
        super().__init__(*others)
        self.bandwidth, self.scale = bandwidth, scale
        self._found: list[Tensor] = []  # of each embedding, the features [N, D] of all images

    def _measured(self, model: nn.Module) -> tuple[dict[str, float], str]:
        """The estimated Bayes error."""
        scaled = self._scaled(self._features(model, self.current))
        sigma = self._bandwidth(scaled)
        errors = bayes_error(scaled, self.labels, self.num_classes, sigma).double()
        line = {
            "estimate": round(float(errors.mean()), 6),
            "protected": round(float(errors[self.rows.to(self.device)].mean()), 6),
            "bandwidth": round(sigma, 6),
        }
        return line, (
            f"estimated Bayes error {line['estimate']:.4f}, of the protected images {line['protected']:.4f}"
        )

    def _features(self, model: nn.Module, images: Tensor) -> Tensor:
        """float32 [n, D] on the device, for images [n, H, W, 3] as in ``current``."""
        return features_of(model, images, self.precision)

    def _scaled(self, found: Tensor) -> Tensor:
        if self.scale == NONE:
            return found
        divisor = found.norm(dim=1, keepdim=True) if self.scale == LENGTH else found.abs().amax()
        divisor = divisor.clamp_min(torch.finfo(torch.float32).tiny)
        return found / (divisor if self.loop.differentiate_divisor else divisor.detach())

    def _bandwidth(self, scaled: Tensor) -> float:
        if not isinstance(self.bandwidth, str):
            return self.bandwidth
        generator = torch.Generator().manual_seed(self.seed_for("median"))
        rows = torch.randperm(len(scaled), generator=generator)[:_MEDIAN_ROWS]
        median = float(torch.pdist(scaled[rows.to(scaled.device)]).median())
        if not median > 0:  # a single image has none, which is NaN
            raise UserError("bandwidth median: most features are the same, so that it is 0; give a number")
        return median

    def _gradients(self, models: list[nn.Module], inner: int) -> Iterator[tuple[slice, Tensor]]:
        rows = self.rows.to(self.device)
        if inner == 0:
            self._found = [self._features(model, self.current) for model in models]
        else:
            now = self.current[self.rows]
            for model, values in zip(models, self._found, strict=True):
                values[rows] = self._features(model, now)
        upstream = [self._feature_gradient(values)[rows] for values in self._found]
        for part in self._parts():
            seen = self.current[self.rows[part]]
            gradient = torch.zeros(seen.shape, device=self.device)
            for model, slope in zip(models, upstream, strict=True):
                gradient += pixel_gradient(model, seen, slope[part], self.precision)
            self._report(inner, part.stop)
            yield part, gradient

    def _feature_gradient(self, found: Tensor) -> Tensor:
        """The gradient of the mean error over all images with respect to unscaled features [N, D]."""
        found = found.detach().requires_grad_()
        scaled = self._scaled(found)
        errors = bayes_error(scaled, self.labels, self.num_classes, self._bandwidth(scaled.detach()))
        # AdamW's epsilon is not small beside a mean's gradient; the authors' program ascends the sum.
        total = errors.sum() if self.loop.rule == "adamw" else errors.mean()
        (gradient,) = torch.autograd.grad(total, found)
        return gradient
