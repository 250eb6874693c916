"""Operators, protected sets and seeded runs give what was recorded: a change of structure changes no result.

``python tests/test_recorded_results.py`` records anew, after a change that is meant to change results.
"""

import hashlib
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unlearnable_kernels
from unlearnable_kernels import environment
from unlearnable_kernels.ops import ALL_OPS
from unlearnable_kernels.protect.keys import Key, Seed
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.training import TrainConfig, train

RECORD = Path(__file__).parent / "recorded_results.json"
KEY = Key(bytes(range(32)))
# Operators that give equal bits on every machine; the others are compared with their references elsewhere.
EXACT = ("classwise_conv", "crop_flip", "pgd_step")
PROTECTED = {
    "key": {"format": "png"},
    "key, same": {},
    "key, half": {"format": "png", "fraction": 0.5},
    "key, resized": {"format": "png", "resize": 8, "kernel_size": 5, "strength": 0.2, "padding": "circular"},
    "key, webp": {"format": "webp"},
    "key, jpeg": {"format": "jpeg:quality=80"},
    "key, npz": {"format": "npz", "resize": 10},
    "key, damaged image": {"format": "png", "source": "damaged", "on_error": "skip", "fraction": 0.5},
    "key, damaged image, npz": {"source": "damaged", "on_error": "skip", "format": "npz", "resize": 10},
    "key, cifar": {"source": "cifar"},
    "key, cifar as webp": {"source": "cifar", "format": "webp"},
    "key, tiny": {"format": "png", "source": "tiny", "fraction": 0.5},
    "key, tiny, npz": {"source": "tiny", "format": "npz"},
    "seed": {"format": "png", "seed": 7},
    "seed, half, npz": {"seed": 7, "format": "npz", "resize": 10, "fraction": 0.5},
}
OPTIMISED = {
    "bayes-error": {"method": "bayes-error", "fraction": 0.5, "bandwidth": "median", "steps": 2},
    "bayes-error, l2, npz": {"method": "bayes-error", "norm": "l2", "steps": 1, "format": "npz"},
    "beo-aaai2026": {"method": "beo-aaai2026", "steps": 1},
}
TRAINED: dict[str, dict[str, Any]] = {
    "erm": {},
    "erm, bf16, one-cycle": {"amp": "bf16", "schedule": "one-cycle"},
    "at-linf": {"defences": ["at-linf:steps=3"]},
    "at-l2": {"defences": [{"name": "at-l2", "eps": 0.25, "steps": 2}]},
}


def sources(root: Path) -> Path:
    """A folder with one dataset of every layout, and one with a damaged image."""
    tree(root / "zoo")
    damaged = tree(root / "damaged") / "train" / "bee" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    rng = np.random.default_rng(1)
    batches = root / "cifar" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        names = [f"{name}_{index}.png".encode() for index in range(4)]
        batch = {b"data": pixels, b"labels": [0, 3, 9, 3], b"filenames": names}
        (batches / name).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {b"label_names": [f"kind {index}".encode() for index in range(10)]}
    (batches / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    for wnid in ("n00000001", "n00000002"):
        for index in range(4):
            path = root / "tiny" / "train" / wnid / "images" / f"{wnid}_{index}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        (root / "tiny" / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 1 1\n")
    (root / "tiny" / "wnids.txt").write_text("n00000001\nn00000002\nn00000003\n")
    return root


def tree(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cow"):
        base = rng.integers(20, 236, (12, 12, 3))
        for number in range(8):
            path = root / "train" / name / f"{number}.{'jpg' if number % 3 == 0 else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(base + rng.normal(0, 40, base.shape), 0, 255).astype(np.uint8)).save(path)
        test = root / "test" / name / "0.png"
        test.parent.mkdir(parents=True)
        Image.fromarray(np.clip(base + rng.normal(0, 40, base.shape), 0, 255).astype(np.uint8)).save(test)
    return root


def operator_digest(name: str) -> str:
    (operator,) = (each for each in ALL_OPS if each.name == name)
    digest = hashlib.sha256()
    for arguments in operator.sample_inputs():
        # Whatever the memory format; float results as the bits of their type.
        result = operator.function(*arguments).contiguous().reshape(-1)
        digest.update(result.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def protected_digest(root: Path, target: Path, options: dict[str, Any]) -> str:
    """SHA-256 over names and bytes of all files, and over the manifest without what other versions change."""
    options = dict(options)
    source = root / options.pop("source", "zoo")
    seed = options.pop("seed", None)
    secret = KEY if seed is None else Seed(seed)
    protect_dataset(source, target, secret=secret, workers=0, **options)
    digest = hashlib.sha256()
    for path in sorted(target.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            digest.update(f"{path.relative_to(target).as_posix()} {path.stat().st_size} ".encode())
            digest.update(path.read_bytes())
    manifest = json.loads((target / "manifest.json").read_text())
    del manifest["versions"], manifest["mac"], manifest["picture_quality"]
    digest.update(json.dumps(manifest).encode())
    return digest.hexdigest()


def metrics(root: Path, out: Path, options: dict[str, Any]) -> dict[str, float]:
    source = root / "zoo"
    config = TrainConfig(
        train=str(source),
        test=str(source),
        network="resnet8",
        epochs=2,
        batch_size=7,
        lr=0.05,
        lr_step=40,
        crop_padding=1,
        **options,
    )
    final = train(config, out)["final"]
    return {name: value for name, value in final.items() if name != "images_per_second"}


def machine() -> str:
    """What decides the last bits of a trained network."""
    capability = unlearnable_kernels.cpu_capability()
    return f"{environment.machine()['cpu']}, {capability}, torch {torch.__version__}"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sources(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


@pytest.mark.parametrize("name", EXACT)
def test_operators(name: str, record: dict[str, Any]) -> None:
    assert operator_digest(name) == record["operators"][name]


@pytest.mark.filterwarnings("ignore:an integer seed")
@pytest.mark.parametrize("name", PROTECTED)
def test_protected_sets(name: str, record: dict[str, Any], source: Path, tmp_path: Path) -> None:
    assert protected_digest(source, tmp_path / "out", PROTECTED[name]) == record["protected"][name]


@pytest.mark.parametrize("name", OPTIMISED)
def test_optimised_sets(name: str, record: dict[str, Any], source: Path, tmp_path: Path) -> None:
    if machine() != record["machine"]:
        pytest.skip(f"recorded with {record['machine']}, on which last bits depend")
    digest = protected_digest(source, tmp_path / "out", {**OPTIMISED[name], "network": "resnet8"})
    assert digest == record["optimised"][name]


@pytest.mark.parametrize("name", TRAINED)
def test_seeded_runs(name: str, record: dict[str, Any], source: Path, tmp_path: Path) -> None:
    found, recorded = metrics(source, tmp_path / "run", TRAINED[name]), record["trained"][name]
    if machine() == record["machine"]:
        assert found == recorded
    for loss in ("train_loss", "test_loss"):
        assert found[loss] == pytest.approx(recorded[loss], rel=0.05)


def main(scratch: Path) -> None:
    torch.set_num_threads(1)
    source = sources(scratch)
    optimised = {name: {**options, "network": "resnet8"} for name, options in OPTIMISED.items()}
    record = {
        "machine": machine(),
        "operators": {name: operator_digest(name) for name in EXACT},
        "protected": {n: protected_digest(source, scratch / n, o) for n, o in PROTECTED.items()},
        "optimised": {n: protected_digest(source, scratch / n, o) for n, o in optimised.items()},
        "trained": {n: metrics(source, scratch / "runs" / n, o) for n, o in TRAINED.items()},
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
