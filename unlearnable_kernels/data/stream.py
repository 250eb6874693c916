"""A labelled dataset that worker processes decode while it is trained on: for what memory cannot hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unlearnable_kernels.data.arrays import LabelledImages, different_size
from unlearnable_kernels.data.manifest import Manifest, canonical
from unlearnable_kernels.data.source import Sample, Source, load_image
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module

WINDOW = 16  # blocks whose images are shuffled together
_AHEAD = 2  # batches that each worker decodes before they are asked for


class ImageStream:
    """What stands where the tensor of all images would: uint8 [N, H, W, 3], on the CPU.

    Args:
        source: Where the images are from.
        samples: Those of them that are wanted, in order.
        image_size: See ``load_image``.
        workers: Processes that decode, 1 or more.
        shape: (H, W, 3) of every image.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        source: Source,
        samples: Sequence[Sample],
        image_size: int | None,
        workers: int,
        shape: tuple[int, int, int],
    ) -> None:
        self.shape = (len(samples), *shape)
        self.block = source.block
        self._wanted: list[list[int]] = []
        self._loader: DataLoader[Tensor | UserError] = DataLoader(
            _Decoder(source.without_samples(), samples, image_size, shape),
            batch_sampler=self._wanted,
            num_workers=workers,
            collate_fn=_as_it_is,
            prefetch_factor=_AHEAD,
            persistent_workers=True,
            worker_init_fn=_start,
            generator=torch.Generator(),  # or each epoch would draw from the one that networks use
        )

    def order(self, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """A random order of ``count`` images, int64, on ``device``.

        Where single images cannot be read at their own cost, blocks of neighbours are put in a random order,
        and the images of ``WINDOW`` blocks that follow each other shuffled among themselves.
        """
        chance = torch.randperm(count, generator=generator, device=device)
        if self.block == 1:
            return chance
        places = torch.randperm(-(-count // self.block), generator=generator, device=device)
        windows = places[torch.arange(count, device=device) // self.block] // WINDOW
        return (windows * count + chance).argsort()

    def batches(self, wanted: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images of each of ``wanted``, int64 [n]: uint8 [n, H, W, 3].

        Raises:
            UserError: An image cannot be decoded, or has another size.
        """
        self._wanted[:] = [rows.tolist() for rows in wanted]
        for images in self._loader:
            if isinstance(images, UserError):
                raise images
            yield images


@contextmanager
def decoding() -> Iterator[None]:
    """Where streams are used: torch tells of a worker's death by a signal, which is met anywhere.

    Raises:
        UserError: A worker died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "a process that decodes images died, perhaps for lack of memory; run the same command again to "
            "resume, with fewer workers"
        ) from None


class _Decoder(Dataset[Tensor]):
    def __init__(
        self,
        source: Source,
        samples: Sequence[Sample],
        image_size: int | None,
        shape: tuple[int, int, int],
    ) -> None:
        self.source, self.samples, self.image_size, self.shape = source, samples, image_size, shape

    def __getitems__(self, rows: list[int]) -> Tensor | UserError:
        """A batch. An error is handed over as it is: raised, it would carry a traceback."""
        images = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        try:
            for place in sorted(range(len(rows)), key=rows.__getitem__):  # neighbours together
                sample = self.samples[rows[place]]
                image = load_image(self.source, sample, self.image_size)
                if image.shape != self.shape:
                    raise UserError(
                        different_size(self.source.root, sample, image.shape, self.samples[0], self.shape)
                    )
                images[place] = torch.from_numpy(image)
        except UserError as error:
            return error
        return images


def _as_it_is(batch: Any) -> Any:
    return batch


def _start(worker: int) -> None:
    with suppress(UserError):  # arrays need no decoder
        extra_module("cv2").setNumThreads(1)


@dataclass(frozen=True)
class StreamedImages(LabelledImages):
    """A split of a dataset whose images are decoded when they are asked for."""

    images: ImageStream  # type: ignore[assignment]
    listing: str
    """SHA-256 (hexadecimal) of the samples' names, labels and sizes, and of the manifest's signature."""

    def digest(self) -> str:
        """That of the listing: the images are not all there."""
        return self.listing


def stream(
    source: Source,
    samples: Sequence[Sample],
    image_size: int | None,
    workers: int,
    manifest: Manifest | None,
) -> StreamedImages:
    """Samples of a source, decoded by worker processes.

    Args:
        source: Where they are from.
        samples: Those of it that are wanted.
        image_size: See ``load_image``.
        workers: Processes that decode, 1 or more.
        manifest: That of the dataset, if it has one.

    Raises:
        ImageError: The first image cannot be decoded.
    """
    height, width, channels = load_image(source, samples[0], image_size).shape
    rows = [[sample.name, sample.label, sample.size] for sample in samples]
    signature = None if manifest is None else manifest["mac"]
    listing = hashlib.sha256(canonical(["stream", rows, source.classes, image_size, signature])).hexdigest()
    return StreamedImages(
        images=ImageStream(source, samples, image_size, workers, (height, width, channels)),
        labels=torch.tensor([sample.label for sample in samples]),
        classes=list(source.classes),
        names=[sample.name for sample in samples],
        manifest=manifest,
        listing=listing,
    )
