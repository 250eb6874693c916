"""What works where only some packages are installed, and the line that names one that is missing."""

import re
from pathlib import Path

import numpy as np
import pytest
from bare_python import EXTRAS, TORCH, run
from PIL import Image

from unlearnable_kernels import cpu_capability
from unlearnable_kernels.extras import DISTRIBUTIONS, INSTALL
from unlearnable_kernels.ops import ALL_OPS

ARRAYS = """
import sys
from pathlib import Path
from unlearnable_kernels import datasets
from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.transforms import ClasswiseConv
data = load_arrays(Path(sys.argv[1]))
protect = ClasswiseConv(Key.generate(), "pets", data.classes, size=16)
print(list(protect(data.images, data.labels)[0].shape))
"""
TRAINING = """
import sys
from pathlib import Path
from unlearnable_kernels.training import TrainConfig, evaluate, train
data, out = map(Path, sys.argv[1:])
settings = {"network": "resnet8", "epochs": 1, "batch_size": 8, "crop_padding": 1}
train(TrainConfig(train=str(data), test=str(data), **settings), out)
print(evaluate(out, data)["accuracy"])
"""
OPENING = """
import sys
from pathlib import Path
from unlearnable_kernels.data.images import decode
from unlearnable_kernels.errors import UserError
for path in sys.argv[1:]:
    try:
        decode(Path(path).read_bytes(), "x")
    except UserError as error:
        print(error)
"""
PROTECTING = """
from unlearnable_kernels.protect.keys import Seed
from unlearnable_kernels.protect.run import protect_dataset
protect_dataset(data, out.with_name("protected"), secret=Seed(0), format="npz", workers=1)
"""
OPERATORS = """
import torch, unlearnable_kernels
from unlearnable_kernels.ops import ALL_OPS
for op in ALL_OPS:
    getattr(torch.ops.unlearn, op.name)(*next(iter(op.sample_inputs("cpu"))))
print(len(ALL_OPS), unlearnable_kernels.cpu_capability())
"""
COMMAND = """
import sys
from unlearnable_kernels.__main__ import main
sys.argv = ["unlearnable", *sys.argv[1:]]
main()
"""


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrays")
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        labels = np.arange(count) % 2
        np.savez(
            folder / f"{split}.npz",
            images=generator.integers(0, 256, (count, 16, 16, 3), np.uint8),
            labels=labels,
            classes=np.array(["cat", "dog"]),
            names=np.array([f"{'cat' if y == 0 else 'dog'}/{i:03d}.png" for i, y in enumerate(labels)]),
        )
    return folder


def test_operators_and_arrays_need_torch_and_numpy_alone(arrays: Path) -> None:
    result = run(OPERATORS + ARRAYS, arrays, WITH_ONLY=TORCH)
    assert result.stdout == f"{len(ALL_OPS)} {cpu_capability()}\n[24, 16, 16, 3]\n", result.stderr


def test_arrays_are_trained_on_tested_on_and_protected_without_codecs(arrays: Path, tmp_path: Path) -> None:
    result = run(TRAINING + PROTECTING, arrays, tmp_path / "run", WITHOUT=EXTRAS)
    assert result.returncode == 0, result.stderr
    assert 0 <= float(result.stdout) <= 1
    assert (tmp_path / "protected" / "train.npz").is_file()


@pytest.mark.parametrize("missing", ["typer", "safetensors"])
def test_a_command_without_its_packages_says_what_to_install(missing: str, tmp_path: Path) -> None:
    result = run(COMMAND, "evaluate", tmp_path, "--test", tmp_path, WITHOUT=missing)
    reason = f"cannot be imported (No module named '{missing}')"
    line = f"unlearnable: {missing} {reason}: {INSTALL.format('commands')}\n"
    assert (result.returncode, result.stderr) == (2, line)


def test_the_extra_is_what_is_named() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    extra = re.search(r"^commands = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert extra
    assert set(re.findall(r'"([\w-]+)>=', extra[1])) == set(DISTRIBUTIONS.values())


def test_a_missing_codec_is_named_when_an_image_needs_it(tmp_path: Path) -> None:
    paths = [tmp_path / f"x.{suffix}" for suffix in ("png", "gif", "jpg")]
    for path in paths:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    found = run(OPENING, *paths, WITHOUT="isal PIL simplejpeg").stdout.splitlines()
    found += run(OPENING, paths[0], WITHOUT="cv2").stdout.splitlines()
    for line, package in zip(found, ("isal", "pillow", "simplejpeg", "opencv-python-headless"), strict=True):
        assert line.startswith(f"{package} cannot be imported (")
        assert line.endswith("): pip install 'unlearnable_kernels[commands]'")
