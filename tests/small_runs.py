"""Training runs of seconds, for several test files: classes of noise images that are easily told apart."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from unlearnable_kernels.networks import NETWORKS
from unlearnable_kernels.progress import Progress
from unlearnable_kernels.training import TrainConfig, train
from unlearnable_kernels.training.run_folder import CHECKPOINT, METRICS


@NETWORKS.register("tiny", "for tests: trains and compiles in a tenth of resnet8's time")
def tiny(num_classes: int, image_size: int) -> nn.Module:
    """Its pooled rows tell the classes of ``write_tree`` apart."""
    model = nn.Sequential()
    for before, after in ((3, 8), (8, 16)):
        model.append(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False))
        model.append(nn.BatchNorm2d(after)).append(nn.ReLU())
    model.append(nn.AdaptiveAvgPool2d((4, 1))).append(nn.Flatten())
    model.add_module("fc", nn.Linear(64, num_classes))
    return model


def write_tree(root: Path, classes: list[str], count: int, seed: int, side: int = 16) -> Path:
    """Noise images whose class shows in which of the rows are bright."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            image = generator.integers(0, 100, (side, side, 3), dtype=np.uint8)
            image[label * 4 : label * 4 + 4] += 120
            Image.fromarray(image).save(root / name / f"{index:04d}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    write_tree(root / "train", ["cat", "dog"], 24, seed=0)
    write_tree(root / "test", ["cat", "dog"], 10, seed=1)
    return root


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Images this small only lose by a second thread, and much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config_for(data: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "train": str(data),
        "test": str(data),
        "network": "tiny",
        "epochs": 4,
        "batch_size": 4,
        "lr": 0.05,
        "crop_padding": 1,
        "schedule": "one-cycle",
    }
    return TrainConfig(**settings | changes)


def untimed_metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    with safe_open(run / CHECKPOINT, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def saved_epochs(run: Path) -> int:
    """How many epochs a run's checkpoint holds."""
    if not (run / CHECKPOINT).is_file():
        return 0
    with safe_open(run / CHECKPOINT, framework="pt") as file:
        return int(file.metadata()["epoch"])


def stop_after(epochs: int, run: Path) -> Progress:
    """A ``progress`` that interrupts the run once so many epochs are saved."""

    def stop(what: str, done: int, total: int) -> None:
        if saved_epochs(run) == epochs:
            raise KeyboardInterrupt

    return stop


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    train(config_for(data), run)
    return run
