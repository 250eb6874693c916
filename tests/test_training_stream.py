"""Training on images that worker processes decode as it goes: the metrics of training on them in memory."""

import itertools
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sample_shards import protect
from small_runs import config_for, data, one_thread, stop_after, tensors_of, untimed_metrics

from unlearnable_kernels.cli import main
from unlearnable_kernels.data import arrays
from unlearnable_kernels.data import stream as stream_module
from unlearnable_kernels.data.arrays import open_split
from unlearnable_kernels.data.formats import parquet as parquet_module
from unlearnable_kernels.data.stream import ImageStream, decoding, stream
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import read_json
from unlearnable_kernels.training import inputs as inputs_module
from unlearnable_kernels.training.engine import Engine, Recipe, fresh_network
from unlearnable_kernels.training.processes import Processes

__all__ = ["data", "one_thread"]  # fixtures
from unlearnable_kernels.training import train


@pytest.fixture(scope="module")
def shards(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "webdataset"
    protect(data, out, format="webdataset:shard_size=20", fraction=0.5, dataset_name="set")
    return out


@pytest.fixture(scope="module")
def tables(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tables") / "parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_module, "ROW_GROUP", 5)
        protect(data, out, format="parquet:shard_size=20", fraction=0.5, dataset_name="set")
    return out


@pytest.fixture(scope="module")
def in_memory(shards: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "memory"
    train(config_for(data, train=str(shards), epochs=3), run)
    return run


def streamed(path: Path, workers: int = 2) -> ImageStream:
    source, samples = open_split(path, "train", None)
    images: Any = stream(source, samples, None, workers, None).images
    return images


def test_metrics_and_weights_are_those_of_images_in_memory(
    shards: Path,
    data: Path,
    in_memory: Path,
    tmp_path: Path,
) -> None:
    config = config_for(data, train=str(shards), epochs=3)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", stop_after(1, tmp_path / "run"), workers=2)
    record = train(config, tmp_path / "run", workers=1)
    assert untimed_metrics(tmp_path / "run") == untimed_metrics(in_memory)
    expected = tensors_of(in_memory)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of(tmp_path / "run").items())
    assert record["train"]["protection"] == read_json(in_memory / "run.json")["train"]["protection"]
    record_file = tmp_path / "run" / "run.json"
    text = record_file.read_text().replace('"finished"', '"unfinished"', 1)
    record_file.write_text(re.sub('(?<="sha256": ")[0-9a-f]{64}', "0" * 64, text, count=1))
    with pytest.raises(UserError, match="the train set has changed since the run"):
        train(config, tmp_path / "run", workers=1)


def test_what_does_not_fit_into_memory_is_streamed(
    shards: Path,
    data: Path,
    in_memory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(arrays, "_available_memory", lambda: 2 * 48 * 16 * 16 * 3 - 1)
    monkeypatch.setattr(inputs_module, "usable_cores", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(inputs_module, "stream", lambda *given: begun.append(given[3]) or stream(*given))
    train(config_for(data, train=str(shards), test=None, epochs=1), tmp_path / "run")
    assert begun == [2]
    train(config_for(data, train=str(shards), test=None, epochs=1), tmp_path / "array", workers=0)
    assert begun == [2]
    assert untimed_metrics(tmp_path / "run") == untimed_metrics(tmp_path / "array")


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_are_set_on_the_command_line(
    workers: int, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(inputs_module, "stream", lambda *given: begun.append(given[3]) or stream(*given))
    given = f"--network tiny --epochs 1 --set crop_padding=1 --set workers={workers}".split()
    monkeypatch.setattr(
        sys, "argv", ["unlearnable", "train", "--train", str(shards), "--out", str(tmp_path / "run"), *given]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0, begun) == (0, [1] * workers)


def test_row_groups_stay_together(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "WINDOW", 2)
    images = streamed(tables)
    assert images.block == 5
    orders = [images.order(45, torch.Generator().manual_seed(seed), images.device) for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert sorted(orders[0].tolist()) == list(range(45))
    windows = [(part // 5).unique().tolist() for part in orders[0].split(10)]
    assert sorted(itertools.chain(*windows)) == list(range(9))
    assert windows != sorted(windows)
    assert (orders[0][:10] // 5).diff().count_nonzero() > 1
    expected = arrays.load_arrays(tables).images
    rows = orders[0].split(7)
    for index, batch in zip(rows, images.batches(rows), strict=True):
        assert torch.equal(batch, expected[index])


def test_each_process_decodes_its_part_alone(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "WINDOW", 2)
    images, asked = streamed(tables, 1), []

    def batches(wanted: Any) -> Any:
        asked.extend(wanted)
        return ImageStream.batches(images, wanted)

    monkeypatch.setattr(images, "batches", batches)
    monkeypatch.setattr(Processes, "sum", lambda self, value: value)
    device, labels = torch.device("cpu"), torch.zeros(48, dtype=torch.int64)
    recipe = Recipe(rate=lambda *_: 0.1, batch_size=8)
    engine = Engine(fresh_network("tiny", 2, 16, 0, device), images, labels, recipe, Processes(0, 1, device))
    for rank in range(2):
        engine.group = Processes(rank, 2, device)
        engine.train_epoch(0, torch.Generator().manual_seed(0), lambda _: None)
    assert [len(rows) for rows in asked] == [4] * 12
    assert sorted(torch.cat(asked).tolist()) == list(range(48))
    row_groups = [set((torch.cat(asked[first : first + 6]) // 5).tolist()) for first in (0, 6)]
    assert len(row_groups[0] & row_groups[1]) <= 2  # of ten: those of the window that both have of


def after_the_death_of(worker: Any, batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    yield from batches


def test_bad_images_and_dead_workers_are_one_line(tmp_path: Path) -> None:

    (tmp_path / "set" / "cat").mkdir(parents=True)
    for name, side in (("a", 8), ("b", 8), ("c", 9)):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / "set" / "cat" / f"{name}.png")
    images = streamed(tmp_path / "set", 1)
    with pytest.raises(
        UserError, match=r"^\S*set: cat/c\.png has 9x9 px and cat/a\.png 8x8 px: give an image"
    ):
        list(images.batches([torch.tensor([0, 2])]))
    (tmp_path / "set" / "cat" / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cat/b\.png: had \d+ bytes") as error:
        list(images.batches([torch.tensor([0, 1])]))
    assert "\n" not in str(error.value)
    batches = images.batches([torch.tensor([0])] * 9)
    next(batches)
    [worker] = images._loader._iterator._workers
    with pytest.raises(UserError, match="a process that decodes images died"), decoding():
        list(after_the_death_of(worker, batches))


def test_what_needs_all_images_at_once_says_so(data: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"defences": ["grayscale"]}, "defence grayscale changes all images before training"),
        ({"clean": str(data), "protected_fraction": 0.5}, "workers must be 0 with a mixture"),
    ):
        with pytest.raises(UserError, match=message):
            train(config_for(data, **changes), tmp_path / message, workers=1)
    with pytest.raises(UserError, match="workers must be 0 or more, not -1"):
        train(config_for(data), tmp_path / "run", workers=-1)
