"""What `train --workers` feeds a network from sets in files and in shards, in images a second.

A protected copy of the photographs at 224 pixels as a tree, in tars and in Parquet tables, as JPEG, is
decoded by one worker for each core and read to its end once. Beside it: the decoder alone in one process,
times the cores; torchvision's ImageFolder under a DataLoader, which decodes by Pillow; and what the network
takes of images in memory, forward, backward and step: the input is fast enough where it exceeds that.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scratch import in_memory
from timing import Interleaved
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from unlearnable_kernels.data.arrays import LabelledImages, load_arrays, open_split
from unlearnable_kernels.data.images import decode
from unlearnable_kernels.data.stream import stream
from unlearnable_kernels.device import pick_device
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.training import TrainConfig, loop
from unlearnable_kernels.training.processes import Processes

SIDE, BATCH, ROUNDS = 224, 25, 3
FORMATS = {"tree": "jpeg", "tars": "webdataset:images=jpeg", "tables": "parquet:images=jpeg"}
GPU = torch.cuda.is_available()


@pytest.fixture(scope="module")
def copies() -> Iterator[dict[str, Path]]:
    root = Path(os.environ.get("UNLEARNABLE_DATA", "")).expanduser() / "imagenet-sample"
    if not root.is_dir():
        pytest.skip("UNLEARNABLE_DATA has no imagenet-sample")
    key = Key.generate()
    with in_memory() as folder:
        for name, written in FORMATS.items():
            protect_dataset(root, folder / name, secret=key, resize=SIDE, format=written)
        yield {name: folder / name for name in FORMATS}


def streamed(path: Path) -> tuple[Callable[[], None], int]:
    """Reads a copy from end to end in a random order; and how many images it has."""
    source, samples = open_split(path, "train", None)
    images = stream(source, samples, None, usable_cores(), None).images
    generator = torch.Generator().manual_seed(0)

    def epoch() -> None:
        for _ in images.batches(images.order(len(samples), generator, images.device).split(BATCH)):
            pass

    return epoch, len(samples)


def by_torchvision(path: Path) -> Callable[[], None]:
    folder = ImageFolder(path / "train" if (path / "train").is_dir() else path, v2.PILToTensor())
    loader = DataLoader(folder, BATCH, shuffle=True, num_workers=usable_cores(), persistent_workers=True)

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


def decoded(path: Path) -> Callable[[], None]:
    """As many images as every core would decode while one decodes them all."""
    files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in (".jpg", ".jpeg")]
    data = [(file.read_bytes(), file.name) for file in files]
    share = data[:: usable_cores()]

    def decode_share() -> None:
        for encoded, name in share:
            decode(encoded, name)

    return decode_share


def trained(data: LabelledImages, network: str) -> Callable[[], object]:
    device = pick_device()
    config = TrainConfig(".", network=network, batch_size=BATCH, amp="bf16" if GPU else None)
    engine = loop.engine_for(config, data, Processes(0, 1, device))
    generator = torch.Generator(device).manual_seed(0)
    return lambda: engine.train_epoch(0, generator, lambda images: None)


def test_stream(benchmark, report_figures, copies):
    if "UNLEARNABLE_CPU_CAPABILITY" in os.environ:
        pytest.skip("measured with the best kernels only")
    network = "resnet18" if GPU else "resnet8"
    readers = {name: streamed(path) for name, path in copies.items()}
    (count,) = {count for _, count in readers.values()}
    variants = {name: epoch for name, (epoch, _) in readers.items()}
    variants["ImageFolder"] = by_torchvision(copies["tree"])
    variants["the decoder"] = decoded(copies["tree"])
    some = load_arrays(copies["tree"])
    if not GPU:  # which takes seconds for an image
        some = replace(some, images=some.images[:BATCH], labels=some.labels[:BATCH], names=some.names[:BATCH])
    variants["the network"] = trained(some, network)
    timed = Interleaved(variants)
    benchmark.pedantic(timed.round, rounds=ROUNDS, iterations=1)
    images = dict.fromkeys(variants, count) | {"the network": len(some.labels)}
    rates = {name: images[name] / seconds for name, seconds in timed.medians().items()}
    best = max(rates[name] for name in FORMATS)
    where = torch.cuda.get_device_name() if GPU else "the CPU"
    report_figures(
        f"streams of {count} JPEG of {SIDE}x{SIDE}, {usable_cores()} workers; {network} on {where}",
        {name: f"{rate:,.0f} images/s" for name, rate in rates.items()},
        {name: best / rates[name] for name in ("ImageFolder", "the decoder", "the network")},
        {"ImageFolder": 1.0, "the network": 1.0},
    )
