"""The training loop itself: one network, images in memory. ``train`` runs it, and so may others.

Read ``Engine.train_epoch`` first.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from unlearnable_kernels.data.augment import draw_crop_flip, to_float
from unlearnable_kernels.data.stream import ImageStream
from unlearnable_kernels.defences import Batch, Defence
from unlearnable_kernels.device import autocast, is_on, sent
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import create_network
from unlearnable_kernels.ops.crop_flip import crop_flip
from unlearnable_kernels.training.processes import Processes, share_batch_norm
from unlearnable_kernels.training.reproducible import seeded

Rate = Callable[[int, int, int], float]
"""The learning rate, given the epoch, the step within it (both from 0), and the steps in an epoch."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        rate: The learning rate at every step.
        batch_size: Images a step, over all processes together.
        optimizer: "sgd" or "adamw".
        momentum: Of SGD.
        weight_decay: Of either.
        clip_norm: Largest norm of the whole gradient; None leaves it.
        crop_padding: See ``random_crop_flip``; 0 turns the crop off.
        flip: Whether to mirror images with probability 1/2.
        precision: "fp32" or "bf16", of passes through the network.
        compile: Whether to run the network through torch.compile.
        skip_single: Whether to pass over a last batch of one image, which has no batch statistics.
    """

    rate: Rate
    batch_size: int
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    crop_padding: int = 4
    flip: bool = True
    precision: str = "fp32"
    compile: bool = False
    skip_single: bool = False


@dataclass(frozen=True)
class EpochResult:
    """What an epoch of training showed, over all processes.

    Attributes:
        loss: Mean over the images trained on, as the defences have it; may be NaN or infinite.
        accuracy: Part of these that was recognised, in [0, 1].
        lr: Learning rate of the last step.
        images_per_second: Images trained on in a second.
    """

    loss: float
    accuracy: float
    lr: float
    images_per_second: float

    @property
    def diverged(self) -> bool:
        """Whether the loss is not a finite number."""
        return not math.isfinite(self.loss)


class Engine:
    """One process's part of training one network: its optimiser, the data, and an epoch over them.

    Args:
        model: On the device of ``group``, where it is trained in place.
        images: uint8 [N, H, W, 3], or float32 in [0, 1] where the recipe neither crops nor flips; on any
            device. Or a stream of them.
        labels: int64 [N], on any device.
        recipe: How to train.
        group: This process among those that train together.
        defences: Their hooks are called in this order; ``setup``, ``prepare``, ``at_test`` are the caller's
            business.
        num_classes: Number of logits, for defences that mix labels.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor | ImageStream,
        labels: Tensor,
        recipe: Recipe,
        group: Processes,
        defences: Sequence[Defence] = (),
        num_classes: int = 0,
    ) -> None:
        self.images, self.labels, self.recipe, self.group = images, labels, recipe, group
        self.defences, self.num_classes = defences, num_classes
        self.model = share_batch_norm(model, group.device) if group.size > 1 else model
        self.optimizer = _optimizer(self.model, recipe, group.device)
        if recipe.compile:
            # A size of its own for every kernel, so that a resumed run computes as an uninterrupted one.
            # Plain steps are replayed as CUDA graphs; an attack records one of its own.
            replayed = group.device.type == "cuda" and group.size == 1 and not defences
            self.model.compile(dynamic=False, mode="reduce-overhead" if replayed else None)
        self.forward: nn.Module = self.model
        if group.size > 1:
            self.forward = DistributedDataParallel(self.model, broadcast_buffers=False)
        # What a defence changes is float32: bfloat16 cannot hold an attack's step.
        changed = any(each.overrides("augment") or each.overrides("adversary") for each in defences)
        half = recipe.precision == "bf16" and not changed
        self._dtype = torch.bfloat16 if half else torch.float32
        self._sizes: set[tuple[int, int]] = set()  # other than the images' own, that the network took

    def train_epoch(
        self,
        epoch: int,
        generator: torch.Generator,
        report: Callable[[int], None],
        rows: Tensor | None = None,
    ) -> EpochResult:
        """One pass over the images in a fresh order.

        Args:
            epoch: From 0.
            generator: On the device of ``group``, in the same state on all processes; order and augmentation
                are drawn from it.
            report: Called after every step with the number of images in it.
            rows: int64, those of the images to train on; None takes all.
        """
        count, device = len(self.labels if rows is None else rows), self.group.device
        stream = self.images if isinstance(self.images, ImageStream) else None
        if stream is None:
            order = torch.randperm(count, generator=generator, device=device)
        else:
            order = stream.order(count, generator, device)
            if stream.block > 1:
                order = self.group.dealt(order, self.recipe.batch_size)
        order = order.to(self.images.device)
        if rows is not None:
            order = rows.to(order.device)[order]
        batches = order.split(self.recipe.batch_size)
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # the loss, and the images recognised
        trained, lr = 0, 0.0
        self.model.train()
        for defence in self.defences:
            defence.begin_epoch(self.model, epoch)
        start = time.perf_counter()
        if stream is not None:
            self._decoded = stream.batches([index[self.group.part(len(index))] for index in batches])
        for step, index in enumerate(batches):
            if self.recipe.skip_single and 1 == len(index) < min(count, self.recipe.batch_size):
                continue
            lr = self.recipe.rate(epoch, step, len(batches))
            self.optimizer.param_groups[0]["lr"] = lr
            sums += self._step(self._batch(index, epoch, generator))
            trained += len(index)
            report(len(index))
        loss_sum, correct = self.group.sum(sums).tolist()
        seconds = time.perf_counter() - start
        return EpochResult(loss_sum / trained, correct / trained, lr, trained / seconds)

    def _batch(self, index: Tensor, epoch: int, generator: torch.Generator) -> Batch:
        """This process's part of the batch int64 [count], cropped, flipped and as the defences have it.

        All draws are those of the whole batch.
        """
        recipe, device, count = self.recipe, self.group.device, len(index)
        offsets, flips = draw_crop_flip(count, generator, recipe.crop_padding, recipe.flip)
        part = self.group.part(count)
        images, picked = self.images, index[part]
        labels = sent(self.labels[picked], device)
        if isinstance(images, ImageStream):
            images, picked = sent(next(self._decoded), device), torch.arange(len(picked), device=device)
        elif not is_on(images.device, device):
            images, picked = sent(images[picked], device), torch.arange(len(picked), device=device)
        if images.is_floating_point():
            inputs = to_float(images[picked], self._dtype)
        else:
            inputs = crop_flip(images, offsets[part], flips[part], recipe.crop_padding, picked, self._dtype)

        def gather(rows: Tensor) -> Tensor:
            return self.group.gather(rows, count)

        batch = Batch(
            inputs, labels, count, part, generator, recipe.precision, self.num_classes, epoch, gather
        )
        for defence in self.defences:
            batch = defence.augment(batch)
        if batch.images.shape[2:] != inputs.shape[2:]:
            self._check_size(batch.images)
        for defence in self.defences:
            batch = defence.adversary(self.model, batch)
        return batch

    def _check_size(self, images: Tensor) -> None:
        """Raise UserError unless the network takes images of this size, which defences brought them to."""
        height, width = images.shape[2:]
        if (height, width) in self._sizes:
            return
        self.model.eval()
        try:
            with torch.no_grad():
                self.model(images[:1].float())
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"the network cannot take {width}x{height} px, to which the defences bring images ({reason})"
            ) from error
        self.model.train()
        self._sizes.add((height, width))

    def _step(self, batch: Batch) -> Tensor:
        """One step of the optimiser.

        Returns:
            float64 [2]: the loss summed over the images here, and how many of them were recognised.
        """
        self.optimizer.zero_grad()  # before the pass: recorded graphs reuse the gradients' memory
        try:
            with autocast(self.group.device, self.recipe.precision):
                logits: Tensor = self.forward(batch.images)
        except ValueError as error:
            if batch.count > 1:
                raise
            raise UserError(
                f"a batch of one image is too small ({error}): give another batch_size"
            ) from error
        logits = logits.float()
        loss = functional.cross_entropy(logits, batch.labels, reduction="sum")
        for defence in self.defences:
            loss = defence.loss(logits, batch.labels, loss)
        # The processes' gradients are averaged, where those of a sum are to be added.
        objective = loss * (self.group.size / batch.count)
        for defence in self.defences:
            term = defence.regularise(self.model)
            if term is not None:
                objective = objective + term
        objective.backward()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        truth = batch.labels if batch.labels.dim() == 1 else batch.labels.argmax(1)
        return torch.stack([loss.detach(), (logits.detach().argmax(1) == truth).sum()])


def _optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    fused = True if device.type == "cuda" else None  # None: one tensor at a time on a CPU, with its own bits
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), 0.0, weight_decay=recipe.weight_decay, fused=fused)
    return torch.optim.SGD(
        model.parameters(),
        0.0,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )


def fresh_network(name: str, num_classes: int, image_size: int, seed: int, device: torch.device) -> nn.Module:
    """An untrained network, channels-last on ``device``; the global generators stay as they are.

    Args:
        name: As ``find_network`` takes it.
        num_classes: Number of logits.
        image_size: Height and width of the images in pixels.
        seed: Of the weights.
        device: Where it will live.

    Raises:
        UserError: There is no network of that name.
    """
    with seeded(seed, device):
        model = create_network(name, num_classes, image_size)
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
