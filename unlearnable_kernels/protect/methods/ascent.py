"""The outer loop of methods that optimise pixels: train embeddings, move the pixels, repeat.

docs/maths.md, "Bayes-error protection", has the equations; what is ascended is a subclass's affair.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearnable_kernels.device import pick_device
from unlearnable_kernels.files import append_jsonl, read_jsonl, write_jsonl, writing
from unlearnable_kernels.ops.pgd_step import pgd_step
from unlearnable_kernels.protect.methods.ascent_loop import Loop, adamw_ascent
from unlearnable_kernels.protect.methods.budget import quantised
from unlearnable_kernels.protect.methods.embedding import fast_precision, train_embedding
from unlearnable_kernels.protect.methods.method import Workspace
from unlearnable_kernels.training import (
    fitting_device,
    fresh_network,
    save_tensors,
    stored_tensors,
    tensors_under,
)

STATE = "state.safetensors"
LOG = "log.jsonl"
_CHUNK = 256  # images whose pixels are moved at a time


@dataclass(frozen=True)
class Target:
    """What is to be protected.

    Attributes:
        images: uint8 [N, H, W, 3], all of them.
        labels: int64 [N], each in [0, num_classes).
        rows: int64 [P], those of the images that may be moved.
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


class Ascent(ABC):
    """One run.

    Args:
        target: What is to be protected.
        budget: How far pixels may move.
        steps: Outer steps.
        network: As ``find_network`` takes it.
        loop: What an outer step does.
        seed_for: Gives the integer that a purpose's randomness derives from.
        workspace: Where the state is kept, and who is told of it.
    """

    def __init__(
        self,
        target: Target,
        budget: Budget,
        steps: int,
        network: str,
        loop: Loop,
        seed_for: Callable[..., int],
        workspace: Workspace,
    ) -> None:
        self.budget, self.steps, self.network = budget, steps, network
        self.loop, self.seed_for, self.workspace = loop, seed_for, workspace
        self.num_classes = target.num_classes
        self.device = pick_device()
        self.precision = fast_precision(self.device)
        home = _home(target, loop.float_images, self.device)
        self.labels = target.labels.to(self.device)
        self.rows = target.rows.to(home)
        self.current = target.images.to(home, copy=True)  # what the networks see; float32 or uint8
        self.origin = self.current[self.rows]  # uint8 [P, H, W, 3]
        # Steps smaller than a level add up here.
        self.master = self.origin / 255
        if loop.float_images:
            self.current = self.current / 255
        self.moments = [torch.zeros_like(self.master) for _ in range(2)] if loop.rule == "adamw" else []
        self.models: dict[str, nn.Module] = {}
        self.done = 0
        self.log: list[dict[str, Any]] = []
        self._trained = 0

    def run(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """Do all outer steps, from where an earlier run ended.

        Returns:
            The protected images, uint8 [P, H, W, 3] on the CPU, and what was measured after 0 … ``steps``
            steps.

        Raises:
            UserError: The state of an earlier run is damaged, or the loss of an embedding diverges.
            WriteError: The state cannot be written.
        """
        with writing(self.workspace.folder):
            self._restore()
        while self.done < self.steps:
            self._train_all(self.done)
            self._note()
            self._ascend()
            self.done += 1
            with writing(self.workspace.folder):
                self._save()
        self.models.clear()
        written = torch.cat([self._written(part) for part in self._parts()])
        # What is measured last is what is written.
        self.current[self.rows] = written / 255 if self.loop.float_images else written
        self._train(self._measuring_name(), self.steps, fresh=True)
        self._note()
        return written.cpu(), self.log

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
            augment=loop.augment,
        )

    def _fresh(self, seed: int) -> nn.Module:
        size = max(self.current.shape[1:3])
        return fresh_network(self.network, self.num_classes, size, seed, self.device)

    def _to_train(self) -> int:
        """Images in all trainings of a run that is not interrupted."""
        return (self.loop.epochs_in(self.steps) + self.loop.first_epochs) * len(self.labels)

    def _note(self) -> None:
        """Measure the current images on the embedding that is there for it, and log what was found."""
        found, text = self._measured(self.models[self._measuring_name()])
        line = {"step": self.done, **found}
        self.log.append(line)
        with writing(self.workspace.folder):
            append_jsonl(self.workspace.folder / LOG, line)
        self.workspace.notify(f"after step {self.done} of {self.steps}: {text}")

    @abstractmethod
    def _measured(self, model: nn.Module) -> tuple[dict[str, float], str]:
        """What the current images show of the aim on ``model``: for the log, and for people."""

    @abstractmethod
    def _gradients(self, models: list[nn.Module], inner: int) -> Iterator[tuple[slice, Tensor]]:
        """For all images that may be moved, a few at a time, which they are, and their gradient to ascend.

        Gradients are float32 [n, H, W, 3], of the current images before step ``inner``, and on any device.
        """

    def _ascend(self) -> None:
        """The ascent steps of one outer step, on all embeddings together."""
        models = [model for name, model in self.models.items() if name != "held out"]
        for inner in range(self.loop.inner_steps):
            for part, gradient in self._gradients(models, inner):
                self._move(part, gradient.to(self.master.device), inner)

    def _report(self, inner: int, images: int) -> None:
        """Tell of the images whose gradients in step ``inner`` are known."""
        inner_steps, count = self.loop.inner_steps, len(self.rows)
        done = (self.done * inner_steps + inner) * count + images
        self.workspace.progress("ascending", done, self.steps * inner_steps * count)

    def _move(self, part: slice, gradient: Tensor, inner: int = 0) -> None:
        """Ascent step ``inner`` of the images ``part`` along ``gradient``."""
        start, budget = self.origin[part] / 255, self.budget
        if self.loop.rule == "adamw":
            step = self.done * self.loop.inner_steps + inner + 1
            ahead = adamw_ascent(self.master[part], gradient, [m[part] for m in self.moments], step)
            moved = torch.minimum(torch.maximum(ahead, start - budget.eps), start + budget.eps).clamp_(0, 1)
        else:
            size = self.loop.reach * budget.eps / self.loop.inner_steps
            moved = pgd_step(self.master[part], gradient.contiguous(), start, size, budget.eps, budget.norm)
        self.master[part] = moved
        self._see(part)

    def _parts(self) -> Iterator[slice]:
        """All rows of the images that may be moved, a few at a time."""
        for start in range(0, len(self.rows), _CHUNK):
            yield slice(start, min(start + _CHUNK, len(self.rows)))

    def _see(self, part: slice) -> None:
        """What networks see of the images ``part`` follows the master."""
        seen = self.master[part] if self.loop.float_images else self._written(part)
        self.current[self.rows[part]] = seen

    def _written(self, part: slice) -> Tensor:
        """uint8 [n, H, W, 3]: the images ``part`` as they would be written now."""
        return quantised(self.master[part], self.origin[part], self.budget.eps, self.budget.norm)

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
        for part in self._parts():
            self._see(part)
        self._trained = self.loop.epochs_in(self.done) * len(self.labels)
        self.workspace.notify(f"resuming after step {self.done} of {self.steps}")


def _home(target: Target, float_images: bool, device: torch.device) -> torch.device:
    """Where images and their state live: on the device if they fill less than half of what is free there."""
    seen = target.images.nbytes * (4 if float_images else 1)
    state = seen + len(target.rows) * target.images[0].nbytes * (1 + 3 * 4)
    return fitting_device(state, device)
