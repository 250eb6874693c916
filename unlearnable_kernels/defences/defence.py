"""What a defence is: its settings, and where it takes part in training on images that may be protected."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


def _alone(rows: Tensor) -> Tensor:
    return rows


@dataclass(frozen=True)
class Batch:
    """This process's part of a batch, and what all processes need to draw alike.

    Attributes:
        images: float [B, C, H, W] in [0, 1], channels-last in memory; bfloat16 only where no defence changes
            them, otherwise float32.
        labels: int64 [B], or float32 [B, K], the weight of each of K classes, where a defence mixes them.
        count: Images in the whole batch, over all processes.
        part: Which of these are here.
        generator: On the images' device, in the same state on all processes.
        precision: "fp32" or "bf16", that of passes through the network.
        num_classes: K.
        epoch: From 0.
        gather: The rows of the whole batch, in order, from this process's; must be called by all processes
            alike, and gives no gradients.
    """

    images: Tensor
    labels: Tensor
    count: int
    part: slice
    generator: torch.Generator
    precision: str
    num_classes: int
    epoch: int = 0
    gather: Callable[[Tensor], Tensor] = _alone

    def draw(self, make: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """Random values for the images here, the same however many processes share the batch.

        Args:
            make: Called with the number of images of the whole batch and the generator; returns one row for
                each.

        Returns:
            The rows of this process's images.
        """
        return make(self.count, self.generator)[self.part]

    @property
    def label_weights(self) -> Tensor:
        """The labels as float32 [B, K]: 1 for an image's class and 0 elsewhere, unless they are mixed."""
        if self.labels.dim() == 2:
            return self.labels
        return functional.one_hot(self.labels, self.num_classes).float()


@dataclass(frozen=True)
class Defence:
    """What a trainer does about a protection that the images may carry.

    A subclass is a frozen dataclass whose fields are its settings: bool, int, float or str, or one of these
    and None, which ``__post_init__`` checks. It registers itself with ``DEFENCES.register`` and overrides the
    hooks that it needs; the others do nothing. Of several defences each hook is called in the order in which
    they were given, and every one gets what the one before it returned. A field with ``init=False`` is not
    a setting.
    """

    name: ClassVar[str]

    def setup(self, model: nn.Module, network: str) -> None:
        """Change the fresh network, in place, before its optimiser is made; such as freeze some layers.

        Args:
            model: On its device. Its parameters' names and shapes must stay as they are.
            network: The name by which it was made.
        """

    def begin_epoch(self, model: nn.Module, epoch: int) -> None:
        """What must happen before every epoch, once ``model`` is in training mode.

        Args:
            model: The network, which ``setup`` saw before.
            epoch: From 0.
        """

    def prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change the training set once, before training.

        Args:
            images: uint8 [N, H, W, 3], not to be written to.
            labels: int64 [N].
            generator: On the CPU, seeded by the run, in the same state on all processes.

        Returns:
            Images uint8 [M, H, W, 3] and labels int64 [M].
        """
        return images, labels

    def augment(self, batch: Batch) -> Batch:
        """Change a batch after it was cropped and flipped."""
        return batch

    def adversary(self, model: nn.Module, batch: Batch) -> Batch:
        """Change a batch after all augmentation, by what ``model``, in training mode, makes of it.

        Args:
            model: Must be left as it was: its modes, buffers, parameters and their gradients.
            batch: After every defence's ``augment``.
        """
        return batch

    def loss(self, logits: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
        """Change the loss.

        Args:
            logits: float32 [B, K].
            labels: int64 [B] or float32 [B, K], as ``Batch.labels``.
            loss: float32 scalar, summed over the B images: cross-entropy, or what an earlier defence made of
                it.
        """
        return loss

    def regularise(self, model: nn.Module) -> Tensor | None:
        """A term to add to the mean loss of a batch, float32 scalar, or None."""
        return None

    def at_test(self, images: Tensor) -> Tensor:
        """What must happen to images that are tested, too.

        Args:
            images: uint8 [N, H, W, 3], not to be written to.

        Returns:
            uint8 [N, H, W, 3].
        """
        return images

    def state(self) -> Mapping[str, Tensor]:
        """What ``prepare`` found in the training set and ``at_test`` needs; saved with every checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up what ``state`` returned, in place of ``prepare``, before a trained network is tested.

        Args:
            state: As returned, on the CPU.

        Raises:
            KeyError: Something is missing.
        """

    def settings(self) -> dict[str, Any]:
        """The name and every setting, as JSON: ``make_defence`` takes them."""
        names = [field.name for field in fields(self) if field.init]
        return {"name": self.name} | {name: getattr(self, name) for name in names}

    def describe(self) -> str:
        """The settings in a few words; empty if there are none."""
        return ", ".join(
            f"{name.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}"
            for name, value in self.settings().items()
            if name != "name" and value is not None
        )

    def overrides(self, hook: str) -> bool:
        """Whether this defence does anything in ``hook``, one of the methods above."""
        return getattr(type(self), hook) is not getattr(Defence, hook)
