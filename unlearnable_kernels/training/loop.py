"""A training run from start to end: read ``train`` first, then ``engine``."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearnable_kernels.data.arrays import LabelledImages
from unlearnable_kernels.data.mixture import protected_share
from unlearnable_kernels.data.stream import ImageStream, decoding
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import append_jsonl, resumable, write_json, write_jsonl
from unlearnable_kernels.networks.normalise import normalised
from unlearnable_kernels.networks.pretrained import load_pretrained
from unlearnable_kernels.progress import Progress, no_progress
from unlearnable_kernels.training.checkpoint import load_checkpoint, save_checkpoint
from unlearnable_kernels.training.config import TrainConfig
from unlearnable_kernels.training.engine import Engine, Recipe, fresh_network
from unlearnable_kernels.training.evaluation import at_test, measure
from unlearnable_kernels.training.heap import freed_memory_kept
from unlearnable_kernels.training.inputs import describe, fitting_device, load_sets, prepare
from unlearnable_kernels.training.processes import Processes, join_processes
from unlearnable_kernels.training.reproducible import derived_seed, deterministic
from unlearnable_kernels.training.run_folder import (
    CHECKPOINT,
    METRICS,
    RECORD,
    TENSORBOARD,
    check_places,
    find_run,
    read_metrics,
    write_history,
    write_run,
)
from unlearnable_kernels.training.tensorboard import TensorBoard, check_log


def train(
    config: TrainConfig,
    out: Path,
    progress: Progress = no_progress,
    device: str | None = None,
    log: str | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Train a network into the run folder ``out``.

    A run that was interrupted goes on after its last finished epoch: all randomness derives from the seed
    and the epoch, so on the same machine its metrics are those of an uninterrupted one, timings aside. A
    finished run is returned as it is. Under ``torchrun`` all processes train one network together, see
    ``processes``; the first writes the run folder and reports progress.

    Args:
        config: What to train, and how.
        out: The run folder; ``run_folder`` says what it holds.
        progress: Called with images over all epochs.
        device: "cpu", "cuda" or "cuda:N"; None is the first GPU, or the CPU where there is none.
        log: "tensorboard" also writes the metrics for TensorBoard, those of earlier epochs included.
        workers: Processes that decode images while the network trains, for sets larger than memory; 0 decodes
            all of them at the beginning. None decides by the free memory, see ``load_sets``.

    Returns:
        The run's run.json, with the last epoch's metrics under "final". Accuracies are in [0, 1], those in
        training on the images as the defences have them, attacked or not.

    Raises:
        UserError: On all processes alike, if ``out`` holds anything else, is damaged, lies in the data or
            around it, or cannot be written; if the data cannot be used or have changed since the run began;
            if there is no such device, or more processes than GPUs; and if the loss diverges.
    """
    check_log(log)
    with resumable():
        group = join_processes(device)
        group.first(lambda: check_places(out, config))
        return _train(config, out, group, progress if group.rank == 0 else no_progress, log, workers)


def _train(
    config: TrainConfig,
    out: Path,
    group: Processes,
    progress: Progress,
    log: str | None,
    workers: int | None,
) -> dict[str, Any]:
    before = group.first(lambda: find_run(out, config))
    if before is not None and before["status"] == "finished":
        return before
    train_set, test_set = group.together(lambda: load_sets(config, progress, workers))

    def begin() -> dict[str, Any]:
        record = describe(config, train_set, test_set, group)
        for part in ("train", "test"):
            if before is not None and before[part] != record[part]:
                raise UserError(
                    f"the {part} set has changed since the run in {out} began: use another folder"
                )
        if before is not None:
            record["fresh_tensors"] = before["fresh_tensors"]
        write_run(out, config, record)
        return record

    record = group.first(begin)
    with (
        torch.random.fork_rng(),
        deterministic(config.deterministic),
        freed_memory_kept(group.device),
        closing(_Run(config, out, group, train_set, test_set)) as run,
    ):
        group.together(run.resume)
        if not run.metrics:
            record["fresh_tensors"] = run.fresh_tensors
        group.first(lambda: run.begin(record, log))
        for epoch in range(len(run.metrics), config.epochs):
            run.train_epoch(epoch, progress)
    record |= {"status": "finished", "final": run.metrics[-1]}
    group.first(lambda: write_json(out / RECORD, record))
    return record


class _Run:
    """One process's part of a run.

    Attributes:
        metrics: Those of the finished epochs.
        fresh_tensors: What pretrained weights left as it was, by name; None without any.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        group: Processes,
        train_set: LabelledImages,
        test_set: LabelledImages | None,
    ) -> None:
        self.config, self.out, self.group = config, out, group
        self._resumed = (out / CHECKPOINT).is_file()
        model, self.fresh_tensors = network_for(config, train_set, group.device, pretrained=not self._resumed)
        self.engine = engine_for(config, train_set, group, model)
        self._shares = _shares_by_epoch(config, train_set)
        self.test_set: LabelledImages | None = None
        if test_set is not None:
            seen = at_test(self.engine.defences, test_set)
            home = fitting_device(seen.images.nbytes, group.device)
            self.test_set = replace(seen, images=seen.images.to(home), labels=seen.labels.to(home))
        self.metrics: list[dict[str, Any]] = []
        self._board: TensorBoard | None = None

    def resume(self) -> None:
        """Take up the checkpoint, if there is one, and the metrics of the epochs that led to it."""
        out, done = self.out, 0
        if self._resumed:
            done = load_checkpoint(out / CHECKPOINT, self.engine.model, self.engine.optimizer)
        self.metrics = read_metrics(out, self.config)[:done]
        if len(self.metrics) < done:
            raise UserError(f"{out / METRICS} is damaged: it ends before epoch {done} of {CHECKPOINT}")

    def begin(self, record: dict[str, Any], log: str | None) -> None:
        """On the first process, write run.json and the metrics of the epochs that are done."""
        write_json(self.out / RECORD, record)
        write_jsonl(self.out / METRICS, self.metrics)
        write_history(self.out, self.metrics)
        if log is not None:
            self._board = TensorBoard(self.out / TENSORBOARD, self.metrics)

    def close(self) -> None:
        """Close what is open."""
        if self._board is not None:
            self._board.close()

    def train_epoch(self, epoch: int, progress: Progress) -> None:
        """Train one epoch, from 0, test, and save both its metrics and the checkpoint."""
        config, group, rows = self.config, self.group, self._shares[epoch]
        counts = [len(self.engine.labels) if each is None else len(each) for each in self._shares]
        done, total = sum(counts[:epoch]), sum(counts)

        def report(count: int) -> None:
            nonlocal done
            done += count
            progress("training", done, total)

        seed = derived_seed(config.seed, f"epoch {epoch}")
        torch.manual_seed(seed + group.rank)  # for layers that draw for themselves
        generator = torch.Generator(group.device).manual_seed(seed)
        with decoding():
            result = self.engine.train_epoch(epoch, generator, report, rows)
        if result.diverged:
            raise UserError(f"the loss diverged in epoch {epoch + 1}: give a lower lr than {config.lr}")
        line = {
            "epoch": epoch + 1,
            "train_loss": result.loss,
            "train_accuracy": result.accuracy,
            "lr": result.lr,
            "images_per_second": round(result.images_per_second, 1),
        }
        if config.protected_epochs is not None:
            line["train_protected"] = float(rows is self._shares[-1])  # part of the images trained on
        if self.test_set is not None:
            tested = measure(self.engine.model, self.test_set, config.batch_size, group, config.precision)
            line |= {"test_loss": tested.loss, "test_accuracy": tested.accuracy}
        self.metrics.append(line)
        group.first(self._save)
        report(0)

    def _save(self) -> None:
        append_jsonl(self.out / METRICS, self.metrics[-1])
        write_history(self.out, self.metrics)
        if self._board is not None:
            self._board.add(self.metrics[-1])
        engine = self.engine
        save_checkpoint(
            self.out / CHECKPOINT, len(self.metrics), engine.model, engine.optimizer, engine.defences
        )


def _shares_by_epoch(config: TrainConfig, data: LabelledImages) -> Sequence[Tensor | None]:
    """For each epoch the rows to train on; None is all of them."""
    last = config.protected_epochs
    if last is None:
        return [None] * config.epochs
    assert config.protected_fraction is not None
    protected = protected_share(data, config.protected_fraction)
    clean, alone = (mask.nonzero()[:, 0] for mask in (~protected, protected))
    if 0 in (len(clean), len(alone)):
        raise UserError(f"protected_fraction is {config.protected_fraction}: one of the two shares is empty")
    return [clean] * (config.epochs - last) + [alone] * last


def network_for(
    config: TrainConfig, data: LabelledImages, device: torch.device, pretrained: bool = True
) -> tuple[nn.Module, list[str] | None]:
    """The network that a run begins with, on ``device``.

    Args:
        config: Its test set plays no part.
        data: The training set.
        device: Where it will be trained.
        pretrained: Whether to load the weights that ``config`` names, which a checkpoint will replace.

    Returns:
        The network, and the tensors that pretrained weights left as they were; None without any.

    Raises:
        UserError: The pretrained weights cannot be used.
    """
    size, seed = data.images.shape[1], derived_seed(config.seed, "weights")
    model = fresh_network(config.network, len(data.classes), size, seed, device)
    if config.normalise is not None:
        model = normalised(model, config.normalise).to(device)
    if config.pretrained is None or not pretrained:
        return model, None
    return model, load_pretrained(model, config.network, config.pretrained)


def engine_for(
    config: TrainConfig, data: LabelledImages, group: Processes, model: nn.Module | None = None
) -> Engine:
    """The engine of a run, and the images as the defences prepare them.

    Args:
        config: Its test set plays no part.
        data: The training set.
        group: This process among those of the run.
        model: What ``network_for`` returned, which it is by default.
    """
    if model is None:
        model, _ = network_for(config, data, group.device)

    def rate(epoch: int, step: int, steps: int) -> float:
        return config.learning_rate(epoch + (step + 0.5) / steps)

    recipe = Recipe(
        rate=rate,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        crop_padding=config.crop_padding,
        flip=config.flip,
        precision=config.precision,
        compile=config.compile,
    )
    defences = config.make_defences()
    images, labels = prepare(config, defences, data)
    if not isinstance(images, ImageStream):
        home = fitting_device(images.nbytes, group.device)
        images, labels = images.to(home), labels.to(home)
    for defence in defences:
        defence.setup(model, config.network)
    return Engine(model, images, labels, recipe, group, defences, len(data.classes))
