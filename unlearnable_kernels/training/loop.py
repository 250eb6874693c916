"""Training from start to end: read ``train`` first, then ``Trainer``."""

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from unlearnable_kernels.data.arrays import LabelledImages
from unlearnable_kernels.data.augment import draw_crop_flip
from unlearnable_kernels.defences.pgd import Attack
from unlearnable_kernels.device import autocast
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import append_jsonl, resumable, write_json, write_jsonl
from unlearnable_kernels.networks import create_network
from unlearnable_kernels.ops.crop_flip import crop_flip
from unlearnable_kernels.training.checkpoint import load_checkpoint, save_checkpoint
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.evaluation import measure
from unlearnable_kernels.training.inputs import Progress, describe, load_sets, resident
from unlearnable_kernels.training.processes import Processes, join_processes, share_batch_norm
from unlearnable_kernels.training.run_folder import (
    CHECKPOINT,
    METRICS,
    RECORD,
    check_places,
    find_run,
    read_metrics,
    write_run,
)


def train(config: TrainConfig, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Train as ``config`` says, into the run folder ``out``, and return its run.json.

    A run that was interrupted goes on after its last finished epoch: all randomness derives from the seed
    and the epoch, so on the same machine its metrics are those of an uninterrupted one, timings aside. A
    finished run is returned as it is. run.json holds the last metrics under "final"; accuracies are in
    [0, 1], those in training on the images as the protocol has them, attacked or not. Under ``torchrun`` all
    processes train one network together, see ``distributed``; the first writes the run folder and reports
    progress. Raises UserError if ``out`` holds anything else, is damaged, lies in the data or around it, or
    cannot be written, if the data cannot be used or has changed since the run began, if there are more
    processes than GPUs, and if the loss diverges; on all processes alike.
    """
    with resumable():
        group = join_processes()
        group.first(lambda: check_places(out, config))
        return _train(config, out, group, progress if group.rank == 0 else None)


def _train(config: TrainConfig, out: Path, group: Processes, progress: Progress | None) -> dict[str, Any]:
    before = group.first(lambda: find_run(out, config))
    if before is not None and before["status"] == "finished":
        return before
    train_set, test_set = group.together(lambda: load_sets(config, progress))

    def begin() -> dict[str, Any]:
        record = describe(config, train_set, test_set, group.size)
        for part in ("train", "test"):
            if before is not None and before[part] != record[part]:
                raise UserError(
                    f"the {part} set has changed since the run in {out} began: use another folder"
                )
        write_run(out, config, record)
        return record

    record = group.first(begin)
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng(), cudnn:
        trainer = Trainer(config, train_set, group)
        metrics = group.together(lambda: trainer.resume(out))
        group.first(lambda: write_jsonl(out / METRICS, metrics))

        for epoch in range(len(metrics), config.epochs):
            report = _epoch_progress(progress, epoch, config, len(train_set), metrics)
            line = {"epoch": epoch + 1, **trainer.train_epoch(epoch, report)}
            if test_set is not None:
                result = measure(trainer.model, test_set, config.batch_size, group, config.precision)
                line |= {"test_loss": result.loss, "test_accuracy": result.accuracy}
            metrics.append(line)
            group.first(lambda: _save(out, metrics, trainer))
            report(len(train_set))

    record |= {"status": "finished", "final": metrics[-1]}
    group.first(lambda: write_json(out / RECORD, record))
    return record


def _save(out: Path, metrics: list[dict[str, Any]], trainer: "Trainer") -> None:
    append_jsonl(out / METRICS, metrics[-1])
    save_checkpoint(out / CHECKPOINT, len(metrics), trainer.model, trainer.optimizer)


class Trainer:
    """One process's part of a run: the network, its optimiser, the data, and an epoch over them."""

    def __init__(self, config: TrainConfig, data: LabelledImages, group: Processes) -> None:
        self.config, self.group, device = config, group, group.device
        self.images, self.labels = resident(data, device)
        torch.manual_seed(_derived_seed(config.seed, "weights"))
        model = create_network(config.network, len(data.classes), data.images.shape[1])
        if group.size > 1:
            model = share_batch_norm(model, device)
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        if config.compile:
            # A size of its own for every kernel, so that a resumed run computes as an uninterrupted one.
            self.model.compile(dynamic=False)
        self.attack = None
        if config.attack is not None:
            self.attack = Attack(self.model, config.attack, config.precision)
        self.forward: nn.Module = self.model
        if group.size > 1:
            self.forward = DistributedDataParallel(self.model, broadcast_buffers=False)

    def resume(self, out: Path) -> list[dict[str, Any]]:
        """Take up the checkpoint in ``out``, if any, and return the metrics of the epochs that led to it."""
        done = 0
        if (out / CHECKPOINT).is_file():
            done = load_checkpoint(out / CHECKPOINT, self.model, self.optimizer)
        metrics = read_metrics(out, self.config)[:done]
        if len(metrics) < done:
            raise UserError(f"{out / METRICS} is damaged: it ends before epoch {done} of {CHECKPOINT}")
        return metrics

    def train_epoch(self, epoch: int, report: Callable[[int], None]) -> dict[str, Any]:
        """One pass over all images in a fresh order; returns the epoch's training metrics."""
        config, device, count = self.config, self.group.device, len(self.labels)
        seed = _derived_seed(config.seed, f"epoch {epoch}")
        torch.manual_seed(seed + self.group.rank)  # for layers that draw for themselves
        generator = torch.Generator(device).manual_seed(seed)
        order = torch.randperm(count, generator=generator, device=device).to(self.images.device)
        batches = order.split(config.batch_size)
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # the loss, and the images recognised
        self.model.train()
        start = time.perf_counter()
        for step, index in enumerate(batches):
            lr = config.learning_rate(epoch + (step + 0.5) / len(batches))
            self.optimizer.param_groups[0]["lr"] = lr
            sums += self._step(*self._batch(index, generator), len(index))
            report(step * config.batch_size + len(index))
        loss_sum, correct = self.group.sum(sums).tolist()
        seconds = time.perf_counter() - start
        if not math.isfinite(loss_sum):
            raise UserError(f"the loss diverged in epoch {epoch + 1}: give a lower lr than {config.lr}")
        return {
            "train_loss": loss_sum / count,
            "train_accuracy": correct / count,
            "lr": lr,
            "images_per_second": round(count / seconds, 1),
        }

    def _batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """This process's part of the batch ``index``, cropped, flipped and attacked, with its labels.

        All draws are those of the whole batch.
        """
        config, device = self.config, self.group.device
        offsets, flips = draw_crop_flip(len(index), generator, config.crop_padding, config.flip)
        mine = self.group.part(len(index))
        labels = self.labels[index[mine]].to(device)
        images, picked = self.images, index[mine]
        if images.device != device:
            images, picked = images[picked].to(device), torch.arange(len(picked), device=device)
        # Attacked images are float32: bfloat16 cannot hold a step.
        half = config.precision == "bf16" and self.attack is None
        dtype = torch.bfloat16 if half else torch.float32
        inputs = crop_flip(images, offsets[mine], flips[mine], config.crop_padding, picked, dtype)
        if self.attack is not None:
            noise = self.attack.pgd.noise(inputs, len(index), generator)
            inputs = self.attack(inputs, labels, noise[mine])
        return inputs, labels

    def _step(self, inputs: Tensor, labels: Tensor, whole: int) -> Tensor:
        """One step of the optimiser; returns the loss summed over ``inputs``, and how many were recognised.

        whole: images in the batch, of which ``inputs`` are this process's part.
        """
        with autocast(self.group.device, self.config.precision):
            logits: Tensor = self.forward(inputs)
        loss = functional.cross_entropy(logits.float(), labels, reduction="sum")
        self.optimizer.zero_grad()
        # The processes' gradients are averaged, where those of a sum are to be added.
        (loss * (self.group.size / whole)).backward()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return torch.stack([loss.detach(), (logits.detach().argmax(1) == labels).sum()])


def _derived_seed(seed: int, purpose: str) -> int:
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _epoch_progress(
    progress: Progress | None, epoch: int, config: TrainConfig, images: int, metrics: list[dict[str, Any]]
) -> Callable[[int], None]:
    """A function that is told how many images of this epoch are done."""

    def report(done: int) -> None:
        if progress is not None:
            progress(
                "training", epoch * images + done, config.epochs * images, metrics[-1] if metrics else {}
            )

    return report
