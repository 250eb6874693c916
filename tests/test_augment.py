"""Random crop and flip: every output is one of the crops there are, and all of them come up."""

import torch

from unlearnable_kernels.data.augment import random_crop_flip, to_float


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _crops(image: torch.Tensor, padding: int, flip: bool) -> list[torch.Tensor]:
    """All that may come out for uint8 [H, W, 3], as float32 [3, H, W]: written out image by image."""
    height, width, _ = image.shape
    padded = torch.zeros(height + 2 * padding, width + 2 * padding, 3, dtype=torch.uint8)
    padded[padding : padding + height, padding : padding + width] = image
    windows = [
        padded[top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    if flip:
        windows += [window.flip(1) for window in windows]
    return [window.permute(2, 0, 1) / 255 for window in windows]


def test_every_output_is_a_crop_and_every_crop_comes_up() -> None:
    image = torch.randint(1, 256, (5, 6, 3), dtype=torch.uint8, generator=_generator())
    out = random_crop_flip(image.expand(600, -1, -1, -1), _generator(), padding=1)
    expected = torch.stack(_crops(image, 1, flip=True))
    matches = (out[:, None] == expected[None]).flatten(2).all(2)
    assert matches.any(1).all(), "some output is no crop of its image"
    assert matches.any(0).all(), "some crop never came up in 600 draws of 18"


def test_images_do_not_mix() -> None:
    images = torch.arange(1, 9, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 4, 4, 3)
    out = random_crop_flip(images, _generator(), padding=2)
    for number, image in enumerate(out, 1):
        assert set((image * 255).round().unique().tolist()) <= {0.0, float(number)}


def test_without_crop_and_flip_only_the_type_changes() -> None:
    images = torch.randint(256, (4, 5, 6, 3), dtype=torch.uint8, generator=_generator())
    out = random_crop_flip(images, _generator(), padding=0, flip=False)
    assert torch.equal(out, to_float(images))
    assert torch.equal(out, images.permute(0, 3, 1, 2).to(torch.float32) / 255)


def test_flip_can_be_turned_off() -> None:
    images = torch.arange(6, dtype=torch.uint8).view(1, 1, 6, 1).expand(64, 1, 6, 3)
    assert torch.equal(random_crop_flip(images, _generator(), padding=0, flip=False), to_float(images))
    flipped = random_crop_flip(images, _generator(), padding=0, flip=True)
    assert 10 < sum(not torch.equal(a, b) for a, b in zip(flipped, to_float(images), strict=True)) < 54


def test_format_and_range() -> None:
    images = torch.full((3, 8, 8, 3), 255, dtype=torch.uint8)
    out = random_crop_flip(images, _generator())
    assert out.dtype == torch.float32
    assert out.shape == (3, 3, 8, 8)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.max() == 1.0


def test_the_generator_decides() -> None:
    images = torch.randint(256, (16, 8, 8, 3), dtype=torch.uint8, generator=_generator())
    first = random_crop_flip(images, _generator(3))
    assert torch.equal(first, random_crop_flip(images, _generator(3)))
    assert not torch.equal(first, random_crop_flip(images, _generator(4)))
