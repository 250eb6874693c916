"""Training from start to end: read ``train`` first, then ``_train_epoch``."""

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.data.arrays import LabelledImages, load_arrays
from unlearnable_kernels.data.augment import random_crop_flip
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import create_network
from unlearnable_kernels.record import (
    WriteError,
    append_jsonl,
    machine,
    versions,
    write_json,
    write_jsonl,
)
from unlearnable_kernels.training.checkpoint import load_checkpoint, save_checkpoint
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.evaluate import measure, pick_device, require_size
from unlearnable_kernels.training.run_folder import (
    CHECKPOINT,
    METRICS,
    RECORD,
    check_places,
    find_run,
    read_metrics,
    write_run,
)

Progress = Callable[[str, int, int, dict[str, Any]], None]
"""Called with what is going on, the images done and in all, and the last finished epoch's metrics."""


def train(config: TrainConfig, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Train as ``config`` says, into the run folder ``out``, and return its run.json.

    A run that was interrupted goes on after its last finished epoch: all randomness derives from the seed
    and the epoch, so on the same machine its metrics are those of an uninterrupted one, timings aside. A
    finished run is returned as it is. run.json holds the last metrics under "final"; accuracies are in
    [0, 1]. Raises UserError if ``out`` holds anything else, is damaged, lies in the data or around it, or
    cannot be written, if the data cannot be used or has changed since the run began, and if the loss
    diverges.
    """
    check_places(out, config)
    try:
        return _train(config, out, progress)
    except WriteError as error:
        raise WriteError(f"{error}; run the same command again to resume") from error


def _train(config: TrainConfig, out: Path, progress: Progress | None) -> dict[str, Any]:
    before = find_run(out, config)
    if before is not None and before["status"] == "finished":
        return before
    train_set, test_set = _load_sets(config, progress)
    record = _describe(config, train_set, test_set)
    for part in ("train", "test"):
        if before is not None and before[part] != record[part]:
            raise UserError(f"the {part} set has changed since the run in {out} began: use another folder")
    write_run(out, config, record)

    device = pick_device()
    images, labels = _resident(train_set, device)
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng(), cudnn:
        torch.manual_seed(_derived_seed(config.seed, "weights"))
        model = create_network(config.network, len(train_set.classes), record["image_size"])
        model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(
            model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        done = 0
        if (out / CHECKPOINT).is_file():
            done = load_checkpoint(out / CHECKPOINT, model, optimizer)
        metrics = read_metrics(out, config)[:done]
        if len(metrics) < done:
            raise UserError(f"{out / METRICS} is damaged: it ends before epoch {done} of {CHECKPOINT}")
        write_jsonl(out / METRICS, metrics)

        for epoch in range(done, config.epochs):
            report = _epoch_progress(progress, epoch, config, len(labels), metrics)
            line = {
                "epoch": epoch + 1,
                **_train_epoch(config, epoch, model, optimizer, images, labels, device, report),
            }
            if test_set is not None:
                result = measure(model, test_set, config.batch_size, device)
                line |= {"test_loss": result.loss, "test_accuracy": result.accuracy}
            metrics.append(line)
            append_jsonl(out / METRICS, line)
            save_checkpoint(out / CHECKPOINT, epoch + 1, model, optimizer)
            report(len(labels))

    record |= {"status": "finished", "final": metrics[-1]}
    write_json(out / RECORD, record)
    return record


def _train_epoch(
    config: TrainConfig,
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.SGD,
    images: Tensor,
    labels: Tensor,
    device: torch.device,
    report: Callable[[int], None],
) -> dict[str, Any]:
    """One pass over images uint8 [N, H, W, 3] in a fresh order; returns the epoch's training metrics."""
    seed = _derived_seed(config.seed, f"epoch {epoch}")
    torch.manual_seed(seed)  # for layers that draw for themselves
    generator = torch.Generator(device).manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator, device=device).to(images.device)
    batches = order.split(config.batch_size)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    model.train()
    start = time.perf_counter()
    for step, index in enumerate(batches):
        lr = config.learning_rate(epoch + (step + 0.5) / len(batches))
        optimizer.param_groups[0]["lr"] = lr
        targets = labels[index].to(device)
        inputs = random_crop_flip(images[index].to(device), generator, config.crop_padding, config.flip)
        logits = model(inputs)
        loss = functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        loss_sum += loss.detach() * len(index)
        correct += (logits.detach().argmax(1) == targets).sum()
        report(step * config.batch_size + len(index))
    mean_loss = float(loss_sum) / len(labels)
    seconds = time.perf_counter() - start
    if not math.isfinite(mean_loss):
        raise UserError(f"the loss diverged in epoch {epoch + 1}: give a lower lr than {config.lr}")
    return {
        "train_loss": mean_loss,
        "train_accuracy": int(correct) / len(labels),
        "lr": lr,
        "images_per_second": round(len(labels) / seconds, 1),
    }


def _load_sets(
    config: TrainConfig, progress: Progress | None
) -> tuple[LabelledImages, LabelledImages | None]:
    """The training set and, with labels that index the training set's classes, the test set."""

    def load(path: str, split: str, limit: int | None) -> LabelledImages:
        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(f"reading the {split} set", done, total, {})

        return load_arrays(Path(path), split, config.image_size, limit_per_class=limit, progress=report)

    train_set = load(config.train, "train", config.limit_per_class)
    if len(train_set.classes) < 2:
        raise UserError(f"{config.train} has one class only ({train_set.classes[0]}): at least 2 are needed")
    height, width = train_set.images.shape[1:3]
    if height != width:
        raise UserError(f"{config.train} has images of {width}x{height} px: give an image size, for squares")
    if config.crop_padding > height:
        raise UserError(f"crop_padding is {config.crop_padding}: at most the images' {height} px are allowed")
    if config.test is None:
        return train_set, None
    test_set = load(config.test, "test", config.test_limit_per_class).relabelled(
        train_set.classes, config.test
    )
    require_size(test_set, height, config.test)
    return train_set, test_set


def _describe(
    config: TrainConfig, train_set: LabelledImages, test_set: LabelledImages | None
) -> dict[str, Any]:
    """run.json as it stands while the run goes on."""

    def data(path: str, images: LabelledImages) -> dict[str, Any]:
        return {"path": path, "images": len(images), "sha256": images.digest()}

    tested = None if test_set is None or config.test is None else data(config.test, test_set)
    return {
        "status": "unfinished",
        "classes": train_set.classes,
        "image_size": train_set.images.shape[1],
        "train": data(config.train, train_set) | {"protection": train_set.protection()},
        "test": tested,
        "machine": machine(),
        "versions": versions(),
        "final": None,
    }


def _resident(data: LabelledImages, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels on the device, or where they are if they would fill half of its memory."""
    if device.type == "cuda" and data.images.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
        return data.images.to(device), data.labels.to(device)
    return data.images, data.labels


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
