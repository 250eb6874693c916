"""The Bayes-error method's outer loop: train embeddings, ascend the error on their features, repeat.

docs/maths.md, "Bayes-error protection", has the equations and says where this differs from the paper.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearnable_kernels.device import pick_device
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import append_jsonl, read_jsonl, write_jsonl, writing
from unlearnable_kernels.ops.bayes_error import bayes_error
from unlearnable_kernels.ops.pgd_step import pgd_step
from unlearnable_kernels.protect.methods.budget import quantised
from unlearnable_kernels.protect.methods.embedding import fast_precision, train_embedding
from unlearnable_kernels.protect.methods.method import Workspace
from unlearnable_kernels.training import (
    features_of,
    fitting_device,
    fresh_network,
    pixel_gradient,
    save_tensors,
    stored_tensors,
    tensors_under,
)

STATE = "state.safetensors"
LOG = "log.jsonl"
_CHUNK = 256  # images whose pixels are moved at a time
_MEDIAN_ROWS = 2000


@dataclass(frozen=True)
class Loop:
    """What distinguishes one outer loop from another.

    Attributes:
        embeddings: How many are ascended together.
        warm_start: Whether they, and a further one that is never ascended and only measures, are trained on
            from step to step for ``epochs`` at ``warm_lr``. Otherwise they are trained afresh for
            ``first_epochs`` at ``lr`` in every step, and measure before they are ascended.
        inner_steps: Ascent steps in each outer step.
        rule: "pgd", or "adamw" on the gradient of the summed error.
    """

    embeddings: int
    warm_start: bool
    first_epochs: int
    epochs: int
    inner_steps: int
    rule: str
    lr: float = 0.1
    warm_lr: float = 0.02


OURS = Loop(embeddings=3, warm_start=True, first_epochs=15, epochs=3, inner_steps=5, rule="pgd")
AUTHORS = Loop(embeddings=1, warm_start=False, first_epochs=30, epochs=30, inner_steps=1, rule="adamw")
# AdamW as the authors use it: its defaults, but for the rate.
ADAM_LR, ADAM_BETAS, ADAM_EPS, ADAM_DECAY = 1e-3, (0.9, 0.999), 1e-8, 0.01


@dataclass(frozen=True)
class Target:
    """What is to be protected.

    Attributes:
        images: uint8 [N, H, W, 3], all of them.
        labels: int64 [N], each in [0, num_classes).
        rows: int64 [P], those of the images that are to be protected.
        num_classes: Number of classes.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    num_classes: int


@dataclass(frozen=True)
class Budget:
    """The largest change of a pixel ("linf"), or of an image as a vector ("l2"), pixels being in [0, 1]."""

    eps: float
    norm: str


class Ascent:
    """One run.

    Args:
        target: What is to be protected.
        budget: How far pixels may move.
        bandwidth: σ of the kernel on features whose largest value is 1, or "median".
        steps: Outer steps.
        network: As ``find_network`` takes it; its features are used.
        loop: What an outer step does.
        seed_for: Gives the integer that a purpose's randomness derives from.
        workspace: Where the state is kept, and who is told of it.
    """

    def __init__(
        self,
        target: Target,
        budget: Budget,
        bandwidth: float | str,
        steps: int,
        network: str,
        loop: Loop,
        seed_for: Callable[..., int],
        workspace: Workspace,
    ) -> None:
        self.budget, self.bandwidth, self.steps, self.network = budget, bandwidth, steps, network
        self.loop, self.seed_for, self.workspace = loop, seed_for, workspace
        self.num_classes = target.num_classes
        self.device = pick_device()
        self.precision = fast_precision(self.device)
        home = _home(target, self.device)
        self.labels = target.labels.to(self.device)
        self.rows = target.rows.to(home)
        self.current = target.images.to(home, copy=True)  # what the networks see
        self.origin = self.current[self.rows]  # uint8 [P, H, W, 3]
        # Steps smaller than a level add up here; the networks see it rounded.
        self.master = self.origin / 255
        self.moments = [torch.zeros_like(self.master) for _ in range(2)] if loop.rule == "adamw" else []
        self.models: dict[str, nn.Module] = {}
        self.done = 0
        self.log: list[dict[str, Any]] = []
        self._trained = 0

    def run(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """Do all outer steps, from where an earlier run ended.

        Returns:
            The protected images, uint8 [P, H, W, 3] on the CPU, and the estimates after 0 … ``steps`` steps.

        Raises:
            UserError: The state of an earlier run is damaged, the loss of an embedding diverges, or there is
                no median.
            WriteError: The state cannot be written.
        """
        with writing(self.workspace.folder):
            self._restore()
        while self.done < self.steps:
            self._train_all(self.done)
            self._note(self._measuring_name())
            self._ascend()
            self.done += 1
            with writing(self.workspace.folder):
                self._save()
        self.models.clear()
        self._train(self._measuring_name(), self.steps, fresh=True)
        self._note(self._measuring_name())
        return self.current[self.rows].cpu(), self.log

    def _measuring_name(self) -> str:
        return "held out" if self.loop.warm_start else "ascended 0"

    def _names(self) -> list[str]:
        return [f"ascended {i}" for i in range(self.loop.embeddings)] + ["held out"] * self.loop.warm_start

    def _train_all(self, step: int) -> None:
        for name in self._names():
            self._train(name, step, fresh=not self.loop.warm_start or step == 0)

    def _train(self, name: str, step: int, fresh: bool) -> None:
        """Train the embedding ``name`` on the current images."""
        loop = self.loop
        # The held-out embedding is the same before and after, but for the images it learns from.
        when = 0 if name == "held out" and fresh else step
        if fresh:
            self.models[name] = self._fresh(self.seed_for("weights", name, when))

        def report(images: int) -> None:
            self._trained += images
            self.workspace.progress("training embeddings", self._trained, self._to_train())

        train_embedding(
            self.models[name],
            self.current,
            self.labels,
            epochs=loop.first_epochs if fresh else loop.epochs,
            lr=loop.lr if fresh else loop.warm_lr,
            seed=self.seed_for("training", name, when),
            report=report,
        )

    def _fresh(self, seed: int) -> nn.Module:
        size = max(self.current.shape[1:3])
        return fresh_network(self.network, self.num_classes, size, seed, self.device)

    def _features(self, model: nn.Module, images: Tensor) -> Tensor:
        """float32 [n, D] on the device, for images uint8 [n, H, W, 3]."""
        return features_of(model, images, self.precision)

    def _to_train(self) -> int:
        """Images in all trainings of a run that is not interrupted."""
        loop, count = self.loop, self.loop.embeddings + self.loop.warm_start
        epochs = count * (loop.first_epochs + (self.steps - 1) * loop.epochs) + loop.first_epochs
        return epochs * len(self.labels)

    def _note(self, measured_on: str) -> None:
        """Estimate the Bayes error of the current images on the embedding ``measured_on``, and log it."""
        scaled, _ = self._scaled(self._features(self.models[measured_on], self.current))
        sigma = self._bandwidth(scaled)
        errors = bayes_error(scaled, self.labels, self.num_classes, sigma).double()
        line = {
            "step": self.done,
            "estimate": round(float(errors.mean()), 6),
            "protected": round(float(errors[self.rows.to(self.device)].mean()), 6),
            "bandwidth": round(sigma, 6),
        }
        self.log.append(line)
        with writing(self.workspace.folder):
            append_jsonl(self.workspace.folder / LOG, line)
        self.workspace.notify(
            f"after step {self.done} of {self.steps}: estimated Bayes error {line['estimate']:.4f}, of the "
            f"protected images {line['protected']:.4f}"
        )

    def _scaled(self, found: Tensor) -> tuple[Tensor, float]:
        """Features over their largest absolute value, and that value."""
        largest = max(float(found.abs().max()), torch.finfo(torch.float32).tiny)
        return found / largest, largest

    def _bandwidth(self, scaled: Tensor) -> float:
        if not isinstance(self.bandwidth, str):
            return self.bandwidth
        generator = torch.Generator().manual_seed(self.seed_for("median"))
        rows = torch.randperm(len(scaled), generator=generator)[:_MEDIAN_ROWS]
        median = float(torch.pdist(scaled[rows.to(scaled.device)]).median())
        if not median > 0:  # a single image has none, which is NaN
            raise UserError("bandwidth median: most features are the same, so that it is 0; give a number")
        return median

    def _ascend(self) -> None:
        """The ascent steps of one outer step, on all embeddings together."""
        loop, count = self.loop, len(self.rows)
        models = [model for name, model in self.models.items() if name != "held out"]
        found = [self._features(model, self.current) for model in models]
        rows = self.rows.to(self.device)
        for inner in range(loop.inner_steps):
            if inner:
                now = self.current[self.rows]
                for model, values in zip(models, found, strict=True):
                    values[rows] = self._features(model, now)
            upstream = [self._feature_gradient(values)[rows] for values in found]
            for start in range(0, count, _CHUNK):
                part = slice(start, min(start + _CHUNK, count))
                seen = self.current[self.rows[part]]
                gradient = torch.zeros(seen.shape, device=self.device)
                for model, slope in zip(models, upstream, strict=True):
                    gradient += pixel_gradient(model, seen, slope[part], self.precision)
                self._move(part, gradient.to(self.master.device))
                done = (self.done * loop.inner_steps + inner) * count + part.stop
                self.workspace.progress("ascending", done, self.steps * loop.inner_steps * count)

    def _feature_gradient(self, found: Tensor) -> Tensor:
        """The gradient of the mean error over all images with respect to unscaled features [N, D]."""
        scaled, largest = self._scaled(found)
        scaled.requires_grad_()
        errors = bayes_error(scaled, self.labels, self.num_classes, self._bandwidth(scaled.detach()))
        # AdamW's epsilon is not small beside a mean's gradient; the authors' program ascends the sum.
        total = errors.sum() if self.loop.rule == "adamw" else errors.mean()
        (gradient,) = torch.autograd.grad(total, scaled)
        return gradient / largest

    def _move(self, part: slice, gradient: Tensor) -> None:
        """One step of the images ``part`` along ``gradient``, and what the networks then see of them."""
        origin, budget = self.origin[part], self.budget
        start = origin / 255
        if self.loop.rule == "adamw":
            step = self.done * self.loop.inner_steps + 1
            ahead = adamw_ascent(self.master[part], gradient, [m[part] for m in self.moments], step)
            moved = torch.minimum(torch.maximum(ahead, start - budget.eps), start + budget.eps).clamp_(0, 1)
        else:
            size = 1.5 * budget.eps / self.loop.inner_steps
            moved = pgd_step(self.master[part], gradient.contiguous(), start, size, budget.eps, budget.norm)
        self.master[part] = moved
        self.current[self.rows[part]] = quantised(moved, origin, budget.eps, budget.norm)

    def _save(self) -> None:
        """The whole state after ``done`` outer steps, replaced in one go."""
        tensors = {"master": self.master} | {f"moment {i}": m for i, m in enumerate(self.moments)}
        if self.loop.warm_start:
            for name, model in self.models.items():
                tensors |= {f"{name}/{key}": value for key, value in model.state_dict().items()}
        save_tensors(self.workspace.folder / STATE, tensors, {"done": str(self.done)})

    def _restore(self) -> None:
        """Go on after the last outer step that was saved, if there is one."""
        path, log = self.workspace.folder / STATE, self.workspace.folder / LOG
        if not path.exists():
            write_jsonl(log, [])
            return
        with stored_tensors(path, advice="; delete it to start over") as (tensors, metadata):
            self.done = int(metadata["done"])
            self.log = read_jsonl(log)[: self.done]
            if len(self.log) < self.done:
                raise ValueError(f"{LOG} ends early")
            self.master.copy_(tensors["master"])
            for index, moment in enumerate(self.moments):
                moment.copy_(tensors[f"moment {index}"])
            for name in self._names() if self.loop.warm_start else []:
                self.models[name] = self._fresh(0)
                self.models[name].load_state_dict(tensors_under(tensors, f"{name}/"))
        write_jsonl(log, self.log)
        for part in torch.arange(len(self.rows), device=self.rows.device).split(_CHUNK):
            seen = quantised(self.master[part], self.origin[part], self.budget.eps, self.budget.norm)
            self.current[self.rows[part]] = seen
        count = self.loop.embeddings + self.loop.warm_start
        epochs = self.loop.first_epochs + (self.done - 1) * self.loop.epochs
        self._trained = count * epochs * len(self.labels)
        self.workspace.notify(f"resuming after step {self.done} of {self.steps}")


def adamw_ascent(x: Tensor, gradient: Tensor, moments: list[Tensor], step: int) -> Tensor:
    """One step of AdamW up the gradient.

    Args:
        x: float32, of any shape.
        gradient: float32, of the shape of ``x``.
        moments: Of first and second order, each like ``x``; changed in place.
        step: Which step this is, from 1.

    Returns:
        The next x.
    """
    first, second = moments
    first.lerp_(gradient, 1 - ADAM_BETAS[0])
    second.mul_(ADAM_BETAS[1]).addcmul_(gradient, gradient, value=1 - ADAM_BETAS[1])
    mean = first / (1 - ADAM_BETAS[0] ** step)
    spread = (second / (1 - ADAM_BETAS[1] ** step)).sqrt_().add_(ADAM_EPS)
    return x * (1 - ADAM_LR * ADAM_DECAY) + ADAM_LR * mean / spread


def _home(target: Target, device: torch.device) -> torch.device:
    """Where images and their state live: on the device if they fill less than half of what is free there."""
    state = target.images.nbytes + len(target.rows) * target.images[0].nbytes * (1 + 3 * 4)
    return fitting_device(state, device)
