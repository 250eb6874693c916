"""Methods that optimise the pixels of a dataset within a budget, all images together."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from unlearnable_kernels.data.source import load_image
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.files import read_json, replacing, sha256_of, write_json, writing
from unlearnable_kernels.networks import find_network
from unlearnable_kernels.protect.keys import is_signed_by, sign
from unlearnable_kernels.protect.methods.ascent import Ascent, Budget, Target
from unlearnable_kernels.protect.methods.ascent_loop import Loop
from unlearnable_kernels.protect.methods.budget import budget_used, check_budget
from unlearnable_kernels.protect.methods.method import Method, Perturbation, Task, Workspace
from unlearnable_kernels.protect.methods.precomputed import PrecomputedImages
from unlearnable_kernels.protect.methods.selection import check_fraction, exact_subset

IMAGES = "images.npy"
OUTCOME = "outcome.json"
DEFAULT_EPS = {"linf": 8 / 255, "l2": 1.0}


@dataclass(frozen=True)
class OptimisedImages(Method):
    """Pixels moved within a budget by an ``Ascent``; a subclass says which.

    Attributes:
        eps: Largest change of a pixel (norm linf, by default 8/255), or the Euclidean length of an image's
            change (l2, by default 1), pixels being in [0, 1].
        norm: "linf" or "l2".
        steps: Outer steps.
        network: As ``find_network`` takes it.
        embeddings, warm_start, first_epochs, epochs, inner_steps, rule, augment, float_images, ascend_all:
            See ``Loop``. The rule adamw is for linf alone.

    Memory: 6 bytes for every pixel of the dataset (15 with ``float_images``) and 15 for every protected one
    (39 with AdamW's moments), on the device where that is less than half of what is free there.
    """

    eps: float | None = None
    norm: str = "linf"
    steps: int = 10
    network: str = "resnet18"
    embeddings: int = 3
    warm_start: bool = True
    first_epochs: int = 15
    epochs: int = 3
    inner_steps: int = 5
    rule: str = "pgd"
    augment: bool = True
    float_images: bool = False
    ascend_all: bool = False

    lossless_only: ClassVar[bool] = True
    per_image: ClassVar[bool] = False
    purpose: ClassVar[str]
    """Of everything that is derived from the secret."""
    passes_for_ascent: ClassVar[int] = 3
    """Forward passes that take as long as one ascent of an image on one embedding, roughly."""

    @abstractmethod
    def _ascent(self, target: Target, seed_for: Callable[..., int], workspace: Workspace) -> Ascent:
        """What moves the pixels."""

    def _own_parameters(self) -> dict[str, Any]:
        """Settings of the subclass that are not the loop's."""
        return {}

    @property
    def loop(self) -> Loop:
        """What an outer step does."""
        known = {each.name for each in dataclasses.fields(self)}
        return Loop(
            **{each.name: getattr(self, each.name) for each in dataclasses.fields(Loop) if each.name in known}
        )

    @property
    def budget(self) -> Budget:
        """The budget, with its default radius where none is given."""
        return Budget(DEFAULT_EPS.get(self.norm, 0.0) if self.eps is None else float(self.eps), self.norm)

    def check(self) -> None:
        check_budget(1.0 if self.eps is None else self.eps, self.norm)
        find_network(self.network)
        if self.steps < 1:
            raise UserError(f"steps must be 1 or more, not {self.steps}")
        if self.loop.rule == "adamw" and self.norm != "linf":
            raise UserError(f"norm must be linf with rule adamw, not {self.norm!r}; pgd has l2 too")

    def parameters(self, task: Task) -> dict[str, Any]:
        check_fraction(task.fraction)
        if len(task.source.classes) < 2:
            raise UserError(f"{task.source.name} has one class only; {self.name} needs at least 2")
        return {
            "eps": self.budget.eps,
            "norm": self.norm,
            **self._own_parameters(),
            "steps": self.steps,
            "network": self.network,
            "loop": self.loop.as_dict(),
            "fraction": float(task.fraction),
            "resize": task.resize,
            "format": task.format,
            **task.format_settings,
        }

    def assignment(self, task: Task, parameters: dict[str, Any]) -> list[int]:
        chosen = np.ones(len(task.names), dtype=bool)
        if task.fraction < 1:
            chosen = exact_subset(task.secret, task.name, task.names, task.labels, task.fraction)
        assignment: list[int] = np.where(chosen, np.cumsum(chosen) - 1, -1).tolist()
        return assignment

    def perturbation(
        self, task: Task, parameters: dict[str, Any], assignment: list[int], workspace: Workspace
    ) -> Perturbation:
        file, outcome = workspace.folder / IMAGES, workspace.folder / OUTCOME
        if not outcome.exists():
            images, found = self._optimised(task, np.array(assignment), workspace)
            with writing(workspace.folder):
                with replacing(file) as temporary, temporary.open("wb") as stream:
                    np.save(stream, images)
                # Last: where it is, the other is whole. Signed, or others could put their images there.
                made = found | {"parameters": parameters, "sha256": sha256_of(file)}
                write_json(outcome, sign(made, task.secret))
        found = read_json(outcome)
        _check_outcome(found, file, task, parameters)
        estimate = found["estimate"]
        summary = {"before": estimate[0], "after": estimate[-1], "all": estimate} if estimate else None
        used = found.get("budget_used")
        return PrecomputedImages(
            file, frozenset(found["missing"]), {"estimate": summary, "budget_used": used}
        )

    def _optimised(
        self, task: Task, assignment: np.ndarray, workspace: Workspace
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Optimise the P marked samples.

        Returns:
            Images uint8 [P, H, W, 3]; and the log as "estimate", the rows that could not be read as "missing"
            and what ``budget_used`` says of the others.
        """
        every, present = _load_all(task, workspace)
        protected = assignment >= 0
        result = np.zeros((int(protected.sum()), *every.shape[1:]), np.uint8)
        usable = protected & present
        if not usable.any():
            return result, {"estimate": [], "missing": assignment[protected].tolist(), "budget_used": None}
        moved = present if self.loop.ascend_all else usable
        numbers = np.cumsum(present) - 1  # among the images that were read
        labels = np.array(task.labels)[present]
        target = Target(
            torch.from_numpy(every if present.all() else every[present]),
            torch.from_numpy(labels),
            torch.from_numpy(numbers[moved]),
            len(task.source.classes),
        )

        def seed_for(purpose: str, *context: str | int) -> int:
            derived = task.secret.derive(self.purpose, task.name, purpose, *context, length=8)
            return int.from_bytes(derived, "big") >> 1

        images, log = self._ascent(target, seed_for, workspace).run()
        kept = images[torch.from_numpy(protected[moved])]
        result[assignment[usable]] = kept.numpy()
        budget = self.budget
        return result, {
            "estimate": log,
            "missing": assignment[protected & ~present].tolist(),
            "budget_used": budget_used(kept, torch.from_numpy(every[usable]), budget.eps, budget.norm),
        }

    @classmethod
    def heading(cls, parameters: dict[str, Any]) -> str:
        return f"{cls.name}, {parameters['norm']} {parameters['eps']:.4g}, {parameters['steps']} steps"


def _check_outcome(found: Any, file: Path, task: Task, parameters: dict[str, Any]) -> None:
    """Raise UserError unless this run, of this key, left the images in ``file``."""
    signed = (
        isinstance(found, dict) and isinstance(found.get("mac"), str) and is_signed_by(found, task.secret)
    )
    if not signed or found["parameters"] != parameters or sha256_of(file) != found["sha256"]:
        folder = file.parent.parent
        raise UserError(f"{file} is damaged, or not of this run; delete {folder} to start over")


def _load_all(task: Task, workspace: Workspace) -> tuple[np.ndarray, np.ndarray]:
    """All images of a dataset.

    Returns:
        uint8 [N, H, W, 3], and bool [N]: which of them could be read.

    Raises:
        UserError: There is a second size.
    """
    samples, shape = task.source.samples, task.image.shape
    images, present = np.zeros((len(samples), *shape), np.uint8), np.zeros(len(samples), dtype=bool)

    def load(position: int) -> None:
        sample = samples[position]
        try:
            image = load_image(task.source, sample, task.resize)
        except ImageError:
            if not workspace.skip_bad:
                raise
            return
        if image.shape != shape:
            raise UserError(
                f"{sample.name}: {image.shape[1]}x{image.shape[0]} pixels, but the first image has "
                f"{shape[1]}x{shape[0]}, and this method needs one size: resize them with --resize"
            )
        images[position], present[position] = image, True

    with ThreadPoolExecutor(usable_cores()) as pool:
        tasks = [pool.submit(load, position) for position in range(len(samples))]
        try:
            for number, loaded in enumerate(tasks, start=1):
                loaded.result()
                workspace.progress("reading", number, len(samples))
        finally:
            pool.shutdown(cancel_futures=True)
    return images, present
