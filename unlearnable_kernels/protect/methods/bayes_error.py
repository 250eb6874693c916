"""The second method: pixels that raise the Bayes error of the dataset within a budget (docs/maths.md)."""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from unlearnable_kernels.data.source import load_image
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.files import read_json, replacing, write_json, writing
from unlearnable_kernels.networks import find_network
from unlearnable_kernels.protect.methods.ascent import Ascent, Budget, Target
from unlearnable_kernels.protect.methods.ascent_loop import Loop
from unlearnable_kernels.protect.methods.budget import budget_used, check_budget
from unlearnable_kernels.protect.methods.method import METHODS, Method, Perturbation, Task, Workspace
from unlearnable_kernels.protect.methods.precomputed import PrecomputedImages
from unlearnable_kernels.protect.methods.selection import check_fraction, exact_subset

IMAGES = "images.npy"
OUTCOME = "outcome.json"
DEFAULT_EPS = {"linf": 8 / 255, "l2": 1.0}


@METHODS.register(
    "bayes-error",
    "optimises pixels within a budget to raise the Bayes error of the dataset; takes long",
    "after Zhang et al., AAAI 2026",
)
@dataclass(frozen=True)
class BayesError(Method):
    """Pixels moved within a budget, up the Bayes error that networks' features show (docs/maths.md).

    Attributes:
        eps: Largest change of a pixel (norm linf, by default 8/255), or the Euclidean length of an image's
            change (l2, by default 1), pixels being in [0, 1].
        norm: "linf" or "l2".
        bandwidth: σ of the kernel on features whose largest value is 1, or "median" for their median
            distance.
        steps: Outer steps.
        network: As ``find_network`` takes it; its features are used.
        embeddings, warm_start, first_epochs, epochs, inner_steps, rule, augment, float_images, ascend_all,
            differentiate_divisor: See ``Loop``. "adamw" is for linf alone.

    Memory: 6 bytes for every pixel of the dataset (15 with ``float_images``) and 15 for every protected one
    (39 with AdamW's moments), on the device where that is less than half of what is free there; and that of
    ``ops.bayes_error``.
    """

    eps: float | None = None
    norm: str = "linf"
    bandwidth: float | str = 0.3
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
    differentiate_divisor: bool = False

    lossless_only: ClassVar[bool] = True
    per_image: ClassVar[bool] = False

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
        sigma = self.bandwidth
        if sigma != "median" and (isinstance(sigma, str) or not (math.isfinite(sigma) and sigma > 0)):
            raise UserError(f"bandwidth must be a finite number above 0, or median, not {sigma}")
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
            "bandwidth": self.bandwidth,
            "steps": self.steps,
            "network": self.network,
            "loop": self.loop.as_dict(),
            "fraction": float(task.fraction),
            "resize": task.resize,
            "format": task.format,
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
                # Last: where it is, the other is whole.
                write_json(outcome, found)
        found = read_json(outcome)
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
            derived = task.secret.derive("bayes-error", task.name, purpose, *context, length=8)
            return int.from_bytes(derived, "big") >> 1

        ascent = Ascent(
            target, self.budget, self.bandwidth, self.steps, self.network, self.loop, seed_for, workspace
        )
        images, log = ascent.run()
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
        return (
            f"{cls.name}, {parameters['norm']} {parameters['eps']:.4g}, "
            f"bandwidth {parameters['bandwidth']}, {parameters['steps']} steps"
        )


@METHODS.register("beo-aaai2026", "bayes-error by its authors' own loop", "Zhang et al., AAAI 2026")
@dataclass(frozen=True)
class BeoAaai2026(BayesError):
    """The authors' outer loop: all settings as in their script, but for the number of steps.

    A step of AdamW moves a pixel by a quarter of a grey level, so that fewer than 32 cannot use a budget of 8
    levels, whatever their gradients, and the two of the published artefact change one level at most. The
    default is 100.
    """

    steps: int = 100
    embeddings: int = 1
    warm_start: bool = False
    first_epochs: int = 30
    inner_steps: int = 1
    rule: str = "adamw"
    augment: bool = False
    float_images: bool = True
    ascend_all: bool = True
    differentiate_divisor: bool = True


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
