"""JPEG compression: what the eye misses least is what a strong compression drops first."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.image_changes import ImageChange
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module


@DEFENCES.register("jpeg", "images after JPEG compression", "Liu et al., ICML 2023")
@dataclass(frozen=True)
class Jpeg(ImageChange):
    """Images encoded as baseline JPEG with 4:2:0 chroma, the default of libjpeg and of Pillow, and decoded.

    Attributes:
        quality: 1 to 100; 10 as in image shortcut squeezing.
        test: Whether tested images are compressed, too.

    Raises:
        UserError: ``quality`` is out of range.
    """

    quality: int = 10
    test: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality must be 1 to 100, not {self.quality}")

    def change(self, images: Tensor) -> Tensor:
        """The images after compression."""
        jpeg = extra_module("simplejpeg")

        def compressed(image: np.ndarray) -> np.ndarray:
            data = jpeg.encode_jpeg(image, self.quality, colorsubsampling="420", fastdct=False)
            decoded: np.ndarray = jpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
            return decoded

        with ThreadPoolExecutor(usable_cores()) as pool:
            return torch.from_numpy(np.stack(list(pool.map(compressed, images.contiguous().numpy()))))

    def at_test(self, images: Tensor) -> Tensor:
        """The images as they are, unless ``test`` says otherwise."""
        return super().at_test(images) if self.test else images
