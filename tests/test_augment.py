"""Random crop and flip: torchvision's transforms are the truth; every crop there is comes up."""

import hashlib

import pytest
import torch
from torchvision.transforms import functional as TF

from unlearnable_kernels.data.augment import random_crop_flip, to_float


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=_generator(seed))


def _crops(image: torch.Tensor, padding: int, flip: bool) -> torch.Tensor:
    """All that may come out for uint8 [H, W, C], as float32 [number, C, H, W], by torchvision."""
    height, width, _ = image.shape
    padded = TF.pad(image.permute(2, 0, 1), [padding])
    windows = [
        TF.crop(padded, top, left, height, width)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    if flip:
        windows += [TF.hflip(window) for window in windows]
    return torch.stack([TF.convert_image_dtype(window, torch.float32) for window in windows])


def test_every_output_is_a_crop_and_every_crop_comes_up() -> None:
    image = _images(5, 6, 3)
    out = random_crop_flip(image.expand(600, -1, -1, -1), _generator(), padding=1)
    matches = (out[:, None] == _crops(image, 1, flip=True)[None]).flatten(2).all(2)
    assert matches.any(1).all(), "some output is no crop of its image"
    assert matches.any(0).all(), "some crop never came up in 600 draws of 18"


def test_images_do_not_mix() -> None:
    images = torch.arange(1, 9, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 4, 4, 3)
    out = random_crop_flip(images, _generator(), padding=2)
    for number, image in enumerate(out, 1):
        assert set((image * 255).round().unique().tolist()) <= {0.0, float(number)}


def test_index_picks_the_stored_images() -> None:
    images, index = _images(9, 5, 6, 3), torch.tensor([3, 3, 8, 0, 5])
    picked = random_crop_flip(images, _generator(1), index=index)
    assert torch.equal(picked, random_crop_flip(images[index], _generator(1)))


def test_without_crop_and_flip_only_the_type_changes() -> None:
    images = _images(4, 5, 6, 3)
    out = random_crop_flip(images, _generator(), padding=0, flip=False)
    assert torch.equal(out, to_float(images))
    assert torch.equal(out, images.permute(0, 3, 1, 2).to(torch.float32) / 255)


def test_flip_can_be_turned_off() -> None:
    images = torch.arange(6, dtype=torch.uint8).view(1, 1, 6, 1).expand(64, 1, 6, 3)
    assert torch.equal(random_crop_flip(images, _generator(), padding=0, flip=False), to_float(images))
    flipped = random_crop_flip(images, _generator(), padding=0, flip=True)
    assert 10 < sum(not torch.equal(a, b) for a, b in zip(flipped, to_float(images), strict=True)) < 54


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_format_and_range(dtype: torch.dtype) -> None:
    images = torch.full((3, 8, 8, 3), 255, dtype=torch.uint8)
    for out in (random_crop_flip(images, _generator(), dtype=dtype), to_float(images, dtype)):
        assert out.dtype == dtype
        assert out.shape == (3, 3, 8, 8)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert out.max() == 1.0


def test_the_generator_decides() -> None:
    images = _images(16, 8, 8, 3)
    first = random_crop_flip(images, _generator(3))
    assert torch.equal(first, random_crop_flip(images, _generator(3)))
    assert not torch.equal(first, random_crop_flip(images, _generator(4)))


@pytest.mark.parametrize(
    ("padding", "flip", "digest"),
    [
        (4, True, "0d41665032b2af13"),
        (0, True, "da03133e9ec20215"),
        (2, False, "2fd0c04ee56c6330"),
        (0, False, "6e698849db51c730"),
    ],
)
def test_the_random_stream_is_that_of_recorded_runs(padding: int, flip: bool, digest: str) -> None:
    """The draws and their order: another stream would change the metrics of a run that is resumed."""
    generator = _generator(7)
    out = random_crop_flip(_images(16, 8, 8, 3), generator, padding, flip)
    after = torch.randint(2**31, (1,), generator=generator)
    bytes_ = (out * 255).round().to(torch.uint8).contiguous().numpy().tobytes() + after.numpy().tobytes()
    assert hashlib.sha256(bytes_).hexdigest()[:16] == digest
